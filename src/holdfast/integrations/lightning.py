"""Lightning's ``Trainer``: one callback that attaches a method, adds its term, resumes, logs and consolidates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from holdfast.errors import ConfigurationError
from holdfast.integrations.hearing import Hearing
from holdfast.integrations.pending import PendingTerms
from holdfast.integrations.seen import figures, first
from holdfast.method import Method
from holdfast.objectives import Batch
from holdfast.sharding import is_sharded
from holdfast.travelling import MEMORY

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:  # the same code under the name that it had before
    from pytorch_lightning.callbacks import Callback

__all__ = ["Protect"]

# Callbacks that put other weights into the model when training ends: known by their type, wherever it lives.
_AVERAGING: Final = {
    (f"{package}.callbacks.{file}", name)
    for package in ("lightning.pytorch", "pytorch_lightning")
    for file, name in (("weight_averaging", "WeightAveraging"), ("stochastic_weight_avg", "StochasticWeightAveraging"))
}


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

    def __init__(
        self, keep: Method, *, consolidate: bool = False, samples: int | None = None, log: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(keep, Method):
            raise ConfigurationError(f"Protect got a {type(keep).__name__}; expected a method of holdfast")
        if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
            raise ConfigurationError(f"samples is {samples!r}; expected a whole number from 1, or None for all")
        self.keep, self.consolidate, self.samples, self.log = keep, consolidate, samples, log
        self._pending: PendingTerms | None = None
        self._undo: Callable[[], None] | None = None
        self._watching: AbstractContextManager[None] | None = None
        self._loaded: Mapping[str, Any] | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach, before the optimizers' state is loaded."""
        if self.consolidate:
            _check_order(trainer.callbacks, self)
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
        term = keep.penalty(_checked(batch, keep), hearing.answer(batch))
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
        if self.log and self._watching is None and _is_logged(trainer) and self._can_watch():
            self._watching = self.keep.watch()
            self._watching.__enter__()

    def _can_watch(self) -> bool:
        keep = self.keep
        return keep.num_tasks > 0 and not (keep.needs_penalty and any(map(is_sharded, keep.params.values())))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what the method did in this step."""
        if trainer.fit_loop._should_accumulate() or not self.log or not _is_logged(trainer):
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
            checkpoint.setdefault(MEMORY, {})[_place(trainer, self)] = self.keep.state_dict()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take up what was saved beside the optimizers; the rest comes with them."""
        self._loaded = checkpoint.get(MEMORY, {}).get(_place(trainer, self))
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
            self.keep.consolidate(_batches(trainer, self.samples))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._leave()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the module as it was."""
        self._leave()


def _is_logged(trainer: Any) -> bool:
    every = trainer.log_every_n_steps
    return bool(every) and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0


def _checked(batch: Batch, keep: Method) -> Batch:
    if isinstance(batch, Iterator):
        raise ConfigurationError(
            f"training_step takes an iterator of batches, so the term of {type(keep).__name__} has no batch to be "
            "computed on: add keep.penalty(batch, outputs) to the loss there"
        )
    return batch


def _place(trainer: Any, callback: Protect) -> str:
    """Which of the trainer's callbacks of this class this is."""
    return str([c for c in trainer.callbacks if isinstance(c, Protect)].index(callback))


def _check_order(callbacks: list[Any], callback: Protect) -> None:
    late = [type(c) for c in callbacks[callbacks.index(callback) :]]
    found = next((k.__name__ for k in late if any((b.__module__, b.__name__) in _AVERAGING for b in k.__mro__)), None)
    if found is not None:
        raise ConfigurationError(
            f"{found} puts the averaged weights into the model when training ends, after Protect has remembered the "
            f"others: give the Trainer callbacks=[{found}(…), Protect(keep, consolidate=True)]"
        )


def _batches(trainer: Any, samples: int | None) -> Iterator[Batch]:
    """The training batches on their device, at most so many samples."""
    loader = trainer.train_dataloader
    if isinstance(loader, Mapping | list | tuple) or not isinstance(loader, Iterable):
        raise ConfigurationError(
            f"the training data are a {type(loader).__name__} of loaders, so which of them is to be remembered? "
            "Expected one: leave consolidate=True out, and call keep.consolidate(loader) after fit"
        )
    return first(map(trainer.strategy.batch_to_device, loader), samples)
