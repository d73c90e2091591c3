"""Protection in a ``Trainer`` of Transformers, and in those that are made from it (``Seq2SeqTrainer``, TRL's)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.files import load_state, save_state
from holdfast.integrations import trainers
from holdfast.integrations.hearing import Hearing
from holdfast.integrations.seen import check_asked, figures, first
from holdfast.integrations.trainers import around, calling
from holdfast.method import Method
from holdfast.sharding import check_flat_shards

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "holdfast.integrations.transformers needs Transformers: pip install 'holdfast[transformers]'"
    ) from error

__all__ = ["FILE", "HoldfastCallback", "protect"]

FILE = "holdfast.safetensors"  # in a checkpoint's folder, where no optimizer.pt carries the memory

_M = TypeVar("_M", bound=Method)


class HoldfastCallback(TrainerCallback):
    """Protects what a ``Trainer`` trains: ``Trainer(…, callbacks=[HoldfastCallback(keep)])``, and nothing else.

    It attaches the method when the optimizer is made, adds its term to the loss in training where it has one (as the
    Trainer weighs a micro-batch), saves what it remembers with every checkpoint and takes it back on
    ``resume_from_checkpoint``, logs, and lets go of the optimizer when training ends: see ``docs/transformers.md``.

    Args:
        keep: a method on the model that the Trainer trains.
        consolidate: at the end of training, remember what was learned.
        samples: how many of the training data that reads at most, in all processes together, in whole batches; ``None``
            for all.
        log: on the steps that the Trainer logs, also log ``holdfast/penalty``, ``holdfast/penalty_share`` and
            ``holdfast/distance``. The share takes the memory of a few copies of what is trained, for that step.

    Raises:
        ConfigurationError: for a wrong argument; and when it meets its Trainer, if that trains another model, makes its
            own (``model_init``), or runs under DeepSpeed.
    """

    keep: Method
    consolidate: bool
    samples: int | None
    log: bool

    def __init__(
        self, keep: Method, *, consolidate: bool = False, samples: int | None = 2000, log: bool = True
    ) -> None:
        check_asked(keep, samples)
        self.keep, self.consolidate, self.samples, self.log = keep, consolidate, samples, log
        self._met: list[Trainer] = []  # those that it has met
        self._total: Tensor | None = None  # what is counted in all micro-batches of the step under way
        self._watch = ExitStack()  # over the step under way, where it is measured

    def meet(self, trainer: Trainer) -> None:
        """Take part in what a Trainer does; ``callbacks=`` and :func:`protect` see to it, and once is enough.

        Raises:
            ConfigurationError: if it would protect nothing there.
        """
        if any(known is trainer for known in self._met):
            return
        trainers.check_trains(trainer, self.keep)
        self._met.append(trainer)
        around(trainer, self, "create_optimizer", self._create_optimizer)
        around(trainer, self, "_load_optimizer_and_scheduler", self._resume)
        around(trainer, self, "get_batch_samples", self._get_batch_samples)
        around(trainer, self, "compute_loss", self._compute_loss)
        around(trainer, self, "log", self._log)

    def _create_optimizer(self, trainer: Trainer, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = own(*args, **kwargs)
        if not trainer.is_fsdp_enabled:  # which is going to replace the parameters
            self.keep.attach(trainer.optimizer)  # before its state is loaded, which carries the memory
        return found

    def _resume(self, trainer: Trainer, own: Callable[..., Any], checkpoint: str | None) -> None:
        own(checkpoint)
        if checkpoint is not None and (file := Path(checkpoint) / FILE).is_file():
            self.keep.recall(load_state(file))

    def _get_batch_samples(self, trainer: Trainer, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        batches, labels = own(*args, **kwargs)
        counts = self.keep.needs_penalty and self.keep.of_batch and labels is not None
        self._total = trainers.number_of_step(trainer, self.keep, batches) if counts else None
        return batches, labels

    def _compute_loss(
        self, trainer: Trainer, own: Callable[..., Any], model: nn.Module, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not (self.keep.needs_penalty and model.training and torch.is_grad_enabled()):
            return own(model, inputs, *args, **kwargs)
        batch = dict(inputs)  # out of which some trainers take the labels
        with Hearing(self.keep, model) as hearing:
            found = own(model, inputs, *args, **kwargs)
        labels = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)
        share = trainers.share_of(trainer, self.keep, batch, labels, self._total)
        term = self.keep.penalty(batch, hearing.answer(batch), scale=share)
        return (found[0] + term, *found[1:]) if isinstance(found, tuple) else found + term

    def _log(self, trainer: Trainer, own: Callable[..., Any], logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
        if self.log and "loss" in logs and self.keep.num_tasks > 0:
            logs.update(figures(self.keep))
        return own(logs, *args, **kwargs)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Meet the Trainer that is being made."""
        self.meet(calling(self))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach to the optimizer as it steps: wrappers may have replaced parameters since it was made."""
        trainer = calling(self)
        if not any(known is trainer for known in self._met) and state.global_step > 0:
            raise ConfigurationError(
                "HoldfastCallback came too late to take back what the checkpoint remembers: give it to the Trainer as "
                "callbacks=[…], or call protect(trainer, keep), in place of trainer.add_callback"
            )
        self.meet(trainer)
        if args.save_strategy != "no":
            check_flat_shards("a checkpoint's memory", trainer.model_wrapped.modules())
        self._watch.close()
        self.keep.attach(trainer.optimizer)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have the step measured, if it is going to be logged."""
        if self.log and trainers.is_measured(args, state, self.keep):
            self._watch.enter_context(self.keep.watch())

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the measurement."""
        self._watch.close()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what is remembered into the checkpoint, where no optimizer's file has it."""
        if args.save_only_model or calling(self).is_fsdp_enabled:
            held = self.keep.state_dict()  # in all processes: it may be in parts
            if args.should_save:
                save_state(held, Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember what was learned, if asked for; let go of the optimizer."""
        if self.consolidate:
            batches = calling(self).get_train_dataloader()
            share = None if self.samples is None else math.ceil(self.samples / args.world_size)
            self.keep.consolidate(first(batches, share))
        self.keep.detach()


def protect(
    trainer: Trainer, keep: _M, *, consolidate: bool = False, samples: int | None = 2000, log: bool = True
) -> _M:
    """Protect what a ``Trainer`` is about to train: one line before ``trainer.train()``.

    Args:
        trainer: a ``Trainer``, or one made from it.
        keep: a method on its model.
        consolidate: at the end of training, remember what was learned.
        samples: how many of the training data that reads at most; ``None`` for all.
        log: also log what the method does: for all of these see :class:`HoldfastCallback`.

    Returns:
        ``keep``. Without ``consolidate=True`` say ``keep.consolidate(trainer.get_train_dataloader())`` after training.

    Raises:
        ConfigurationError: as :class:`HoldfastCallback`.
    """
    callback = HoldfastCallback(keep, consolidate=consolidate, samples=samples, log=log)
    callback.meet(trainer)
    for known in list(trainer.callback_handler.callbacks):
        if isinstance(known, HoldfastCallback) and known.keep is keep:  # it was protected before, perhaps otherwise
            trainer.callback_handler.callbacks.remove(known)
    trainer.add_callback(callback)
    return keep
