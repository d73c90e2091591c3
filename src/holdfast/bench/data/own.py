"""Tensors of one's own, checked before they become a stream: what is wrong is said before any training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.data import asked
from holdfast.bench.records.record import Scenario, TrainingOutputs
from holdfast.errors import ConfigurationError, DataError, Option
from holdfast.objectives import Classification

__all__ = ["Given", "GivenTask", "is_named", "objectives", "read"]


def objectives(
    scenario: Scenario, training_outputs: TrainingOutputs, index: int, classes: Sequence[int], seen: Sequence[int]
) -> tuple[Classification, Classification]:
    """What a task's test asks, and what its training loss sees.

    Args:
        scenario: what the model must answer.
        training_outputs: for the ``class`` scenario: the outputs that the training loss sees.
        index: the task's place in the stream.
        classes: the outputs that are its own.
        seen: likewise, of it and all before it.
    """
    asked_for = Classification(head=index if scenario == "task" else None)
    if training_outputs == "all":
        return asked_for, asked_for
    return asked_for, Classification(classes=seen if training_outputs == "seen" else classes)


@dataclass(frozen=True, eq=False)
class GivenTask:
    """One task as it was given: samples ``[n, ...]`` and labels int64 ``[n]``, on the CPU.

    ``valid_x`` and ``valid_y`` are its validation part, where it brings one; ``answers`` what its labels are called,
    where that is not the same in all tasks.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    valid_x: Tensor | None = None
    valid_y: Tensor | None = None
    answers: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Part -> samples and labels."""
        found = {"train": (self.train_x, self.train_y), "test": (self.test_x, self.test_y)}
        if self.valid_x is not None and self.valid_y is not None:
            found["valid"] = (self.valid_x, self.valid_y)
        return found


@dataclass(frozen=True, eq=False)
class Given:
    """Tasks that passed the checks, and which output each label has.

    ``mean`` and ``std`` are what pixels of 0 to 255 are normalised by; empty: samples go to the model as they are.
    """

    tasks: tuple[GivenTask, ...]
    scenario: Scenario
    class_names: Mapping[int, str]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a label that is asked for and was not taught.

        Raises:
            DataError: naming the task and the label.
        """
        for index, task in enumerate(self.tasks):
            known = set(self.labels(index))
            for part, (_, labels) in task.parts.items():
                unknown = sorted(set(labels.tolist()) - known)
                if unknown:
                    asked = {"valid": "validated", "test": "tested"}[part]
                    raise DataError(
                        f"{task.name} is {asked} on the label {self.class_name(unknown[0])}, which it does not train on"
                    )

    def labels(self, index: int) -> list[int]:
        """The labels that a task trains on, in the order of its outputs."""
        if self.scenario == "domain":
            return sorted({label for task in self.tasks for label in task.train_y.tolist()})
        return sorted(set(self.tasks[index].train_y.tolist()))

    def _outputs(self, index: int) -> dict[int, int]:
        """Label -> output, of this task's head or of all tasks up to it."""
        if self.scenario != "class":
            return {label: column for column, label in enumerate(self.labels(index))}
        found: dict[int, int] = {}
        for earlier in range(index + 1):
            for label in self.labels(earlier):
                found.setdefault(label, len(found))
        return found

    def classes(self, index: int) -> tuple[int, ...]:
        """The outputs that are a task's."""
        outputs = self._outputs(index)
        return tuple(outputs[label] for label in self.labels(index))

    def seen(self, index: int) -> tuple[int, ...]:
        """Likewise, of this task and all before it (under the task scenario, of this one)."""
        return tuple(range(len(self._outputs(index))))

    def columns(self, index: int, labels: Tensor) -> Tensor:
        """Labels as outputs, int64 ``[n]``."""
        outputs = self._outputs(index)
        return torch.tensor([outputs[label] for label in labels.tolist()], dtype=torch.int64)

    def class_name(self, label: int) -> str:
        """What a reader calls a label."""
        return self.class_names.get(label, str(label))

    def digest(self) -> str:
        """What tells these samples and labels from any others."""
        found = hashlib.sha256(self.scenario.encode())
        for tensor in (each for task in self.tasks for pair in task.parts.values() for each in pair):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]


def read(
    tasks: Sequence[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]],
    name: str,
    scenario: Scenario,
    training_outputs: TrainingOutputs,
    task_names: Sequence[str] | None,
    class_names: Mapping[int, str] | None,
) -> Given:
    """Check everything that was given: see ``Stream.from_tensors``.

    Raises:
        DataError: naming the task and what is wrong with it.
        ConfigurationError: for a wrong scenario or name.
    """
    asked.Asked(seed=0, scenario=scenario, training_outputs=training_outputs)
    if not isinstance(name, str) or not name.strip() or is_named(name):
        raise ConfigurationError(
            f"the stream's name is {name!r}; expected one that no named stream has, such as 'own' or 'my plants'"
        )
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise DataError(
            f"from_tensors got {type(tasks).__name__} for tasks; expected a list of "
            "((train_x, train_y), (test_x, test_y)), one a task"
        )
    if len(tasks) == 0:
        raise DataError("from_tensors got no task; expected at least one")
    if isinstance(task_names, str) or not isinstance(task_names, Sequence | None):
        raise ConfigurationError(Option("task_names"), f" is {task_names!r}; expected a list of names")
    if not isinstance(class_names, Mapping | None):
        raise ConfigurationError(Option("class_names"), f" is {class_names!r}; expected label -> name")
    names = [f"task {index + 1}" for index in range(len(tasks))] if task_names is None else list(task_names)
    if len(names) != len(tasks):
        raise ConfigurationError(Option("task_names"), f" has {len(names)} names for {len(tasks)} tasks")
    found = tuple(_task(each, given) for each, given in zip(names, tasks, strict=True))
    first = found[0].train_x
    for task in found:
        if task.train_x.shape[1:] != first.shape[1:] or task.train_x.dtype != first.dtype:
            raise DataError(
                f"{task.name} has samples {tuple(task.train_x.shape[1:])} of {task.train_x.dtype}, but {found[0].name} "
                f"has {tuple(first.shape[1:])} of {first.dtype}; expected one shape and one dtype"
            )
    return Given(found, scenario, dict(class_names or {}))


def is_named(name: str) -> bool:
    """Whether a named stream has this name."""
    try:
        asked.parse(name)
    except ConfigurationError:
        return False
    return True


def _task(name: str, given: Any) -> GivenTask:
    try:
        (train_x, train_y), (test_x, test_y) = given
    except (TypeError, ValueError):
        raise DataError(
            f"{name} is {type(given).__name__}; expected ((train_x, train_y), (test_x, test_y)) of tensors"
        ) from None
    for part, samples, labels in (("train", train_x, train_y), ("test", test_x, test_y)):
        _check(f"{name}, {part}", samples, labels)
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise DataError(
            f"{name} trains on samples {tuple(train_x.shape[1:])} of {train_x.dtype} and is tested on "
            f"{tuple(test_x.shape[1:])} of {test_x.dtype}; expected one shape and one dtype"
        )
    one, two, three, four = (
        tensor.detach().cpu() for tensor in (train_x, train_y.to(torch.int64), test_x, test_y.to(torch.int64))
    )
    return GivenTask(name, one, two, three, four)


def _check(where: str, samples: Any, labels: Any) -> None:
    if not isinstance(samples, Tensor) or not isinstance(labels, Tensor):
        kinds = f"{type(samples).__name__} and {type(labels).__name__}"
        raise DataError(f"{where}: samples and labels are {kinds}; expected two tensors")
    if samples.ndim < 2:
        raise DataError(f"{where}: samples have shape {tuple(samples.shape)}; expected [n, ...]")
    if samples.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64):
        raise DataError(
            f"{where}: samples are {samples.dtype}; expected floating point as the model is to be given it (pixels: "
            "x.float() / 255), or numbered words"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.ndim != 1:
        raise DataError(f"{where}: labels are {labels.dtype} {tuple(labels.shape)}; expected integers [{len(samples)}]")
    if len(samples) != len(labels):
        raise DataError(f"{where}: {len(samples)} samples have {len(labels)} labels; expected as many")
    if len(samples) == 0:
        raise DataError(f"{where}: there is no sample; expected at least one")
    if samples.is_floating_point() and not bool(samples.isfinite().all()):
        raise DataError(f"{where}: a sample is not finite; expected numbers")
