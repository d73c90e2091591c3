"""What has to be known of a ``Trainer`` of Transformers: which one calls, how it weighs a micro-batch, when it logs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.method import Method
from holdfast.names import unwrap
from holdfast.objectives import meaning_of
from holdfast.objectives.batches import leading_size
from holdfast.objectives.positions import Positions

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

__all__ = ["around", "calling", "check_trains", "is_measured", "number_of_step", "share_of"]


def calling(callback: TrainerCallback) -> Trainer:
    """The Trainer that is calling a callback: its events are given everything but the Trainer.

    Args:
        callback: one of those that the Trainer has.

    Raises:
        ConfigurationError: if no Trainer has it.
    """
    from transformers import Trainer

    frame: Any = sys._getframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer) and any(each is callback for each in found.callback_handler.callbacks):
            return found
        frame = frame.f_back
    raise ConfigurationError(
        f"an event of {type(callback).__name__} was called by no Trainer; expected it among a Trainer's callbacks"
    )


def around(trainer: Trainer, callback: TrainerCallback, name: str, ours: Callable[..., Any]) -> None:
    """Have a method of a Trainer be ours, which calls the Trainer's own, as long as a callback is among its callbacks.

    Args:
        trainer: the Trainer.
        callback: which one.
        name: of the method.
        ours: what is called in place of it: with the Trainer, its own method, and what that is given.
    """
    own = getattr(trainer, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        if not any(known is callback for known in trainer.callback_handler.callbacks):  # it was removed
            return own(*args, **kwargs)
        return ours(trainer, own, *args, **kwargs)

    setattr(trainer, name, method)


def check_trains(trainer: Trainer, keep: Method) -> None:
    """Refuse a Trainer in which a method would protect nothing.

    Args:
        trainer: before it trains.
        keep: the method.

    Raises:
        ConfigurationError: if it trains another model or makes its own, steps out of sight, or feeds several GPUs from
            one process what must be in the loss.
    """
    name, inner = type(keep).__name__, unwrap(keep.model)
    if trainer.model_init is not None:
        raise ConfigurationError(
            f"the Trainer has model_init, so it makes the model that it trains when training begins, and {name} "
            "protects another: expected Trainer(model, …)"
        )
    if not any(module is inner for module in trainer.model.modules()):
        raise ConfigurationError(
            f"{name} protects a {type(inner).__name__} that this Trainer does not train: make {name} of trainer.model"
        )
    if trainer.is_deepspeed_enabled:
        raise ConfigurationError(f"DeepSpeed steps out of {name}'s sight; expected one process, DDP or FSDP")
    if trainer.args.n_gpu > 1 and keep.needs_penalty:
        raise ConfigurationError(
            f"{name} acts through the loss, and this Trainer feeds {trainer.args.n_gpu} GPUs from one process: start "
            "one process per GPU (torchrun, accelerate launch), or show it one by CUDA_VISIBLE_DEVICES"
        )


def number_in(keep: Method, batch: Mapping[str, Any]) -> Tensor | int:
    """How much a batch counts in a mean over what a method's objective looks at: its labels, or its samples.

    Args:
        keep: the method.
        batch: a batch of the Trainer.
    """
    meaning = meaning_of(keep.objective)
    if isinstance(meaning, Positions):
        with contextlib.suppress(DataError):  # labels that the term has no use for
            return meaning.units(batch).valid.sum()
    return leading_size(batch)


def number_of_step(trainer: Trainer, keep: Method, batches: Sequence[Mapping[str, Any]]) -> Tensor:
    """The sum of :func:`number_in` over all micro-batches of a step, ``[]``; in all processes where their labels are.

    Args:
        trainer: that takes the step.
        keep: the method.
        batches: this process's micro-batches.
    """
    own = torch.as_tensor(sum(number_in(keep, batch) for batch in batches), device=trainer.args.device)
    if not trainer.args.average_tokens_across_devices or trainer.accelerator.num_processes == 1:
        return own
    everywhere: Tensor = trainer.accelerator.gather(own)
    total = everywhere.sum()
    return total / int(trainer.accelerator.num_processes)  # which average their gradients


def share_of(trainer: Trainer, keep: Method, batch: Mapping[str, Any], labels: Any, total: Tensor | None) -> Any:
    """What a term of this micro-batch is multiplied by, so that a step has the term once.

    The Trainer averages the losses of a step itself, or it adds up losses that were divided by the labels of the
    whole step: then a micro-batch's share is that of its labels. A term that is the same whatever the batch has equal
    shares, which sum to 1 in each process: where it reaches shards, nothing averages its gradient over the processes.

    Args:
        trainer: that takes the step.
        keep: the method.
        batch: a micro-batch.
        labels: ``num_items_in_batch``; ``None`` where the Trainer could not count any.
        total: what :func:`number_of_step` found.
    """
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)  # newer than the oldest Transformers that is supported
    if scaled is None:
        scaled = trainer.compute_loss_func is not None or (trainer.model_accepts_loss_kwargs and labels is not None)
    if not scaled:
        return 1.0
    if labels is None or total is None or not keep.of_batch:
        return 1.0 / int(trainer.current_gradient_accumulation_steps)
    return number_in(keep, batch) / total.clamp(min=1)


def is_measured(args: TrainingArguments, state: TrainerState, keep: Method) -> bool:
    """Whether the step that begins is one that the Trainer logs, and in which a method's share can be told.

    A term in the loss has to be differentiated for itself, which not everything bears; what acts on gradients or
    weights may always be measured.

    Args:
        args: of the Trainer.
        state: before the step.
        keep: the method.
    """
    if keep.num_tasks == 0 or not _is_logged(args, state):
        return False
    # Transformers 5 renames the argument, and keeps the old name until 6.
    checkpoints = getattr(args, "activation_checkpointing", None) or getattr(args, "gradient_checkpointing", None)
    return not keep.needs_penalty or not bool(checkpoints or args.torch_compile or args.fsdp)


def _is_logged(args: TrainingArguments, state: TrainerState) -> bool:
    step = int(state.global_step) + 1
    if args.logging_strategy == "epoch":
        return step % max(1, round(int(state.max_steps) / max(1, int(state.num_train_epochs)))) == 0
    if args.logging_strategy != "steps":
        return False
    return (step == 1 and bool(args.logging_first_step)) or step % max(1, int(state.logging_steps)) == 0
