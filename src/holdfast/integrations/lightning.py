"""Lightning's ``Trainer``: one callback that attaches a method, adds its term, resumes, logs and consolidates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from holdfast.integrations.fits import check_order, checked, is_logged, place_of, training_batches
from holdfast.integrations.hearing import Hearing
from holdfast.integrations.pending import PendingTerms
from holdfast.integrations.seen import check_asked, figures
from holdfast.method import Method
from holdfast.sharding import is_sharded
from holdfast.travelling import MEMORY

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:  # the same code under the name that it had before
    from pytorch_lightning.callbacks import Callback

__all__ = ["Protect"]


class Protect(Callback):
    """Protects a Lightning module's training: ``Trainer(callbacks=[Protect(keep)])``, and nothing else.

    It attaches the method to the module's optimizers before a checkpoint is loaded into them, so what is remembered is
    in every checkpoint and comes back with ``trainer.fit(…, ckpt_path=…)``. Of a method that acts
    through the loss (LwF, ``coupling="loss"``) it adds the term: in automatic optimisation to the loss that
    ``training_step`` returns, in manual optimisation by a backward pass of its own before each optimizer's step, the
    mean over the micro-batches of that step. A ``training_step`` that asks for ``keep.penalty(batch, outputs)`` itself
    is left alone, which in manual optimisation spares a second forward pass.

    Args:
        keep: the method; of the Lightning module, or of a model within it.
        consolidate: consolidate with the training data when ``fit`` ends.
        samples: how many samples of them, at most; ``None`` for all.
        log: log ``holdfast/penalty``, ``holdfast/penalty_share`` and ``holdfast/distance`` every
            ``log_every_n_steps``. The share takes, at these steps, the memory of a few copies of the weights.

    Raises:
        ConfigurationError: for a wrong argument.

    Example:
        >>> import torch, holdfast
        >>> from lightning.pytorch import Trainer
        >>> from holdfast.integrations.lightning import Protect
        >>> keep = holdfast.EWC(torch.nn.Linear(4, 2), strength=1e3)
        >>> trainer = Trainer(callbacks=[Protect(keep)], accelerator="cpu", logger=False, enable_checkpointing=False)
    """

    keep: Method
    consolidate: bool
    samples: int | None
    log: bool

    def __init__(
        self, keep: Method, *, consolidate: bool = False, samples: int | None = None, log: bool = True
    ) -> None:
        super().__init__()
        check_asked(keep, samples)
        self.keep, self.consolidate, self.samples, self.log = keep, consolidate, samples, log
        self._pending: PendingTerms | None = None
        self._undo: Callable[[], None] | None = None
        self._watching: AbstractContextManager[None] | None = None
        self._loaded: Mapping[str, Any] | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach, before the optimizers' state is loaded."""
        if self.consolidate:
            check_order(trainer.callbacks, self)
        self.keep.attach(*trainer.optimizers)
        self._restore()
        self._leave()
        self._enter(pl_module)

    def _enter(self, pl_module: Any) -> None:
        """Have ``training_step`` take the term in."""
        self._pending = PendingTerms(self.keep)
        own = pl_module.training_step
        instead = vars(pl_module).get("training_step")

        @functools.wraps(own)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            return self._step(pl_module, own, args, kwargs)

        def undo() -> None:
            if instead is None:
                del pl_module.training_step
            else:
                pl_module.training_step = instead

        pl_module.training_step = training_step
        self._undo = undo

    def _leave(self) -> None:
        self._pending = None
        if self._watching is not None:
            watching, self._watching = self._watching, None
            watching.__exit__(None, None, None)
        if self._undo is not None:
            undo, self._undo = self._undo, None
            undo()

    def _step(self, pl_module: Any, own: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        keep = self.keep
        if not keep.needs_penalty or keep.num_tasks == 0:
            return own(*args, **kwargs)
        batch = args[0] if args else kwargs.get("batch")
        if not pl_module.automatic_optimization:
            assert self._pending is not None
            self._pending.begin(batch, pl_module.trainer.optimizers)
            return own(*args, **kwargs)
        asked = keep.penalty_calls.asked
        with Hearing(keep, pl_module) as hearing:
            result = own(*args, **kwargs)
        if result is None or keep.penalty_calls.asked > asked:
            return result
        term = keep.penalty(checked(batch, keep), hearing.answer(batch))
        if isinstance(result, Mapping):
            return {**result, "loss": result["loss"] + term}
        return result + term

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """In manual optimisation, see which micro-batches a step is made of."""
        if self._pending is not None and not pl_module.automatic_optimization:
            self._pending.backward(trainer.optimizers)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """In manual optimisation, add the term's gradient for this step."""
        if pl_module.automatic_optimization or not self.keep.needs_penalty or self.keep.num_tasks == 0:
            return
        assert self._pending is not None
        plugin = trainer.precision_plugin
        scaler = getattr(plugin, "scaler", None)
        # Gradients are unscaled by now, unless the optimizer does that in its own step.
        kept = getattr(optimizer, "_step_supports_amp_scaling", False)
        with torch.enable_grad(), plugin.train_step_context():
            self._pending.add(optimizer, float(scaler.get_scale()) if scaler is not None and kept else 1.0)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to watch the step that is logged."""
        if self.log and self._watching is None and is_logged(trainer) and self._can_watch():
            self._watching = self.keep.watch()
            self._watching.__enter__()

    def _can_watch(self) -> bool:
        keep = self.keep
        return keep.num_tasks > 0 and not (keep.needs_penalty and any(map(is_sharded, keep.params.values())))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what the method did in this step."""
        if trainer.fit_loop._should_accumulate() or not self.log or not is_logged(trainer):
            return
        if self._watching is not None:
            watching, self._watching = self._watching, None
            watching.__exit__(None, None, None)
        keep = self.keep
        if keep.num_tasks == 0:
            return
        pl_module.log_dict(figures(keep), on_step=True, on_epoch=False, batch_size=1)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Where the strategy leaves out what the optimizers carry (FSDP2), save what is remembered beside them."""
        carried = any(MEMORY in state for state in checkpoint.get("optimizer_states", ()))
        if not carried and not self.keep.is_blank and any(map(is_sharded, self.keep.params.values())):
            checkpoint.setdefault(MEMORY, {})[place_of(self, trainer)] = self.keep.state_dict()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take up what was saved beside the optimizers; the rest comes with them."""
        self._loaded = checkpoint.get(MEMORY, {}).get(place_of(self, trainer))
        if self._undo is not None:  # attached already
            self._restore()

    def _restore(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            self.keep.recall(loaded)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the module as it was, and consolidate if that was asked for."""
        self._leave()
        if self.consolidate:
            self.keep.consolidate(training_batches(trainer, self.samples))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._leave()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the module as it was."""
        self._leave()
