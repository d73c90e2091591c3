"""One candidate trained: a plain loop through Accelerate, with checkpoints from which it goes on to the last bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from holdfast.adapt.opened import Opened
from holdfast.adapt.samples import Part, batches_of, order
from holdfast.bench.training import optimizers
from holdfast.checks import check_count, check_positive
from holdfast.errors import ConfigurationError, NumericsError, Option, StateError
from holdfast.files import load_state, save_state
from holdfast.importance.untouched import untouched
from holdfast.method import Method
from holdfast.objectives import Objective, count

__all__ = ["Course", "Settings", "train"]

_EVERY = 60.0  # seconds between checkpoints


@dataclass(frozen=True)
class Settings:
    """How a candidate is trained.

    Attributes:
        epochs: passes over the new data.
        batch_size: samples per step, over all processes and micro-batches together.
        lr: learning rate; it falls linearly to 0. ``None``: what is usual for the model (:attr:`Opened.usual_lr`).
        optimizer: its name.
        accumulation: micro-batches per step.
        precision: ``no`` or ``bf16``.
        seed: fixes everything random.
    """

    epochs: int = 3
    batch_size: int = 32
    lr: float | None = None
    optimizer: str = "adamw"
    accumulation: int = 1
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation"):
            check_count(name, getattr(self, name))
        if self.lr is not None:
            check_positive("lr", self.lr)
        if self.precision not in ("no", "bf16"):
            raise ConfigurationError(Option("precision"), f" is {self.precision!r}; expected no or bf16")
        if self.optimizer not in optimizers.names():
            raise ConfigurationError(
                Option("optimizer"), f" is {self.optimizer!r}; expected one of {', '.join(optimizers.names())}"
            )

    def steps(self, samples: int) -> int:
        """How many steps it takes over so many samples."""
        return self.epochs * math.ceil(samples / self.batch_size)

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Course:
    """What a candidate is trained on, and who is told.

    Attributes:
        accelerator: of Accelerate: where it runs, and beside how many others.
        objective: what a batch means.
        data: the new data.
        columns: the output of each label.
        settings: how.
        checkpoint: a file; ``None``: none is written.
        stop: asked after every step.
        tell: told of every step: how many are done, of how many, and the loss.
    """

    accelerator: Any
    objective: Objective
    data: Part
    columns: Tensor
    settings: Settings
    checkpoint: Path | None = None
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[int, int, float], None] = lambda done, steps, loss: None


def train(opened: Opened, keep: Method | None, course: Course, finish: Callable[[], None] | None = None) -> float:
    """Train a model on new data, protected.

    Args:
        opened: the model; its weights change.
        keep: a method that has consolidated already; attached here, and let go of at the end.
        course: on what, and how.
        finish: done after the last step, while the method is still attached.

    Returns:
        The mean loss of the last step.

    Raises:
        NumericsError: if the loss is no longer finite.
        KeyboardInterrupt: if it was asked to stop; a checkpoint is written.
    """
    settings, accelerator = course.settings, course.accelerator
    rate = opened.usual_lr if settings.lr is None else settings.lr
    model = opened.model.to(accelerator.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizers.build(settings.optimizer, trained, rate)
    if keep is not None:
        keep.attach(optimizer)
    total = settings.steps(len(course.data))
    done = _resume(course, model, optimizer)
    wrapped = _shared(opened, trained, course) if accelerator.num_processes > 1 else model
    last, saved = math.nan, time.monotonic()
    per_epoch = total // settings.epochs
    while done < total:
        epoch, place = divmod(done, per_epoch)
        # Of dropout: so that a step does not depend on those before, and no two processes leave out the same.
        torch.manual_seed((accelerator.process_index << 40) + settings.seed * 7_919 + done)
        places = order(len(course.data), epoch, settings.seed)[place * settings.batch_size :][: settings.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - done / total)
        last = _step(opened, wrapped, optimizer, keep, places, course)
        done += 1
        course.tell(done, total, last)
        stopped = course.stop()
        if course.checkpoint is not None and (stopped or time.monotonic() - saved > _EVERY) and done < total:
            _save(course, model, optimizer, done)
            saved = time.monotonic()
        if stopped and done < total:
            raise KeyboardInterrupt
    if finish is not None:
        finish()
    if keep is not None:
        keep.detach()
    return last


def _shared(opened: Opened, trained: Sequence[nn.Parameter], course: Course) -> nn.Module:
    """The model, its gradients to be those of all processes, which do not wait for one that will never come.

    Some parameters take no part in the loss (a pooler that nothing reads): a sample shows which, the same one in all.
    """
    from accelerate import DistributedDataParallelKwargs

    accelerator = course.accelerator
    batch = next(batches_of(opened, course.data, course.columns, 1, accelerator.device))
    with untouched(opened.model, trained):
        loss = course.objective.losses(course.objective.outputs(opened.model, batch), batch).sum()
        idle = any(g is None for g in torch.autograd.grad(loss, list(trained), allow_unused=True))
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=idle)
    shared: nn.Module = accelerator.prepare_model(opened.model)
    return shared


def _step(
    opened: Opened,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    keep: Method | None,
    places: Sequence[int],
    course: Course,
) -> float:
    """One step of all processes over their parts of a batch, as one process would take it over the whole."""
    accelerator, settings = course.accelerator, course.settings
    mine = places[accelerator.process_index :: accelerator.num_processes]
    idle = not mine  # fewer samples than processes: it takes part with nothing
    size = math.ceil(len(mine or places[:1]) / settings.accumulation)
    batches = list(batches_of(opened, course.data, course.columns, size, accelerator.device, places=mine or places[:1]))
    counts = [0 if idle else count(course.objective, batch) for batch in batches]
    whole = accelerator.reduce(torch.tensor(float(sum(counts)), device=accelerator.device), "sum").clamp(min=1)
    optimizer.zero_grad(set_to_none=True)
    value = torch.zeros((), device=accelerator.device)
    for number, (batch, counted) in enumerate(zip(batches, counts, strict=True)):
        share = counted / whole
        with _alone(model, number < len(batches) - 1), accelerator.autocast():
            outputs = course.objective.outputs(model, batch)
            loss = course.objective.losses(outputs, batch).sum() * (share / max(counted, 1))
            if keep is not None and keep.needs_penalty:
                loss = loss + keep.penalty(batch, outputs, scale=share)
            (loss * accelerator.num_processes).backward()  # of which DDP takes the mean
        value += loss.detach()
    optimizer.step()
    total = float(accelerator.reduce(value, "sum"))
    if not math.isfinite(total):
        raise NumericsError(f"the loss is {total}; expected a finite one: a smaller learning rate or strength may do")
    return total


def _alone(model: nn.Module, more: bool) -> AbstractContextManager[Any]:
    """Without exchanging gradients, as long as more of them are to come."""
    return model.no_sync() if more and isinstance(model, DistributedDataParallel) else nullcontext()


def _save(course: Course, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
    assert course.checkpoint is not None
    if course.accelerator.is_main_process:  # the optimizer carries what the method remembers
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
        save_state(state, course.checkpoint)
    course.accelerator.wait_for_everyone()


def _resume(course: Course, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """How many steps were taken before; the model and the optimizer are as they were then.

    Raises:
        StateError: if the checkpoint is damaged, or of another model.
    """
    if course.checkpoint is None or not course.checkpoint.is_file():
        return 0
    state = load_state(course.checkpoint)
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["done"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise StateError(f"the checkpoint {course.checkpoint} does not fit: {error}") from error
