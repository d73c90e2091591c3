"""Tasks before their outputs are settled: which classes of which data set, pixels in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.bench.data.sets import ImageDataset
from holdfast.bench.records import seeding
from holdfast.errors import ConfigurationError, Option

__all__ = ["Draft", "Permutation", "base_then", "permuted", "sequence", "split"]

Permutation = Literal["seeded", "anpyc"]


@dataclass(frozen=True)
class Draft:
    """One task before its outputs are settled: some classes of a data set, pixels in some order."""

    name: str
    dataset: ImageDataset
    members: tuple[int, ...]  # labels in the data set, in the order of the task's outputs
    pixel_order: Tensor | None = None
    twin: int | None = None  # an earlier task with the same samples: what is set aside there is set aside here


def split(
    dataset: ImageDataset,
    per_task: int,
    tasks: int | None,
    class_order: Sequence[int] | Literal["seeded"] | None,
    seed: int,
) -> list[Draft]:
    """A data set's classes, so many to a task.

    Raises:
        ConfigurationError: if the classes do not divide into such tasks.
    """
    order = _order(dataset, class_order, seed)
    if tasks is None:
        tasks, left = divmod(len(order), per_task)
        if left:
            fitting = " or ".join(str(k) for k in range(1, len(order)) if len(order) % k == 0)
            raise ConfigurationError(f"{len(order)} classes do not divide into tasks of {per_task}; expected {fitting}")
    if tasks * per_task > len(order):
        raise ConfigurationError(f"{tasks} tasks of {per_task} classes need {tasks * per_task}, there are {len(order)}")
    groups = [tuple(order[start : start + per_task]) for start in range(0, tasks * per_task, per_task)]
    return [_of(dataset, group) for group in groups]


def base_then(
    dataset: ImageDataset,
    base: int,
    per_task: int,
    tasks: int | None,
    class_order: Sequence[int] | Literal["seeded"] | None,
    seed: int,
) -> list[Draft]:
    """A first task of many classes, then so many to a task.

    Raises:
        ConfigurationError: if the classes do not divide so.
    """
    order = _order(dataset, class_order, seed)
    later, left = divmod(len(order) - base, per_task)
    if (tasks is None and left) or later < 1:
        raise ConfigurationError(
            f"{len(order)} classes do not divide into a task of {base} and at least one of {per_task}"
            + (f"; {left} would be left over" if later > 0 else "")
        )
    if tasks is not None and tasks > later + 1:
        raise ConfigurationError(
            Option("tasks"), f" is {tasks}; {len(order)} classes are enough for {later + 1}, the first of {base}"
        )
    starts = [base + per_task * number for number in range(later if tasks is None else tasks - 1)]
    return [_of(dataset, order[:base]), *(_of(dataset, order[start : start + per_task]) for start in starts)]


def _of(dataset: ImageDataset, group: Sequence[int]) -> Draft:
    return Draft("/".join(dataset.class_names[label] for label in group), dataset, tuple(group))


def _order(dataset: ImageDataset, class_order: Sequence[int] | Literal["seeded"] | None, seed: int) -> list[int]:
    """A data set's labels in order of arrival."""
    total = dataset.num_classes
    if class_order is None:
        order = list(range(total))
    elif class_order == "seeded":
        order = torch.randperm(total, generator=seeding.generator(seed, "class order")).tolist()
    elif isinstance(class_order, str):
        raise ConfigurationError(Option("class_order"), f" is {class_order!r}; expected 'seeded' or a list of labels")
    else:
        order = [int(label) for label in class_order]
        if len(set(order)) != len(order) or not set(order) <= set(range(total)):
            raise ConfigurationError(
                Option("class_order"), f" is {order}; expected different labels of 0 to {total - 1}"
            )
    return order


def permuted(dataset: ImageDataset, tasks: int, permutation: Permutation, seed: int) -> list[Draft]:
    """All classes of a data set in every task, the pixels in an order of its own."""
    _, _, height, width = dataset.train_x.shape
    orders: list[Tensor | None] = []
    for task in range(tasks):
        if permutation == "anpyc":
            pixels = list(range(height * width))
            random.Random(task).shuffle(pixels)
            orders.append(torch.tensor(pixels))
        else:
            draw = seeding.generator(seed, "pixel order", task)
            orders.append(torch.randperm(height * width, generator=draw) if task else None)
    classes = tuple(range(dataset.num_classes))
    return [Draft(f"permutation {task}", dataset, classes, order) for task, order in enumerate(orders)]


def sequence(sets: list[ImageDataset]) -> list[Draft]:
    """One task per data set; one that comes again has a number in its name, and the same validation part.

    Raises:
        ConfigurationError: if their samples have several shapes.
    """
    shapes = {dataset.name: tuple(dataset.train_x.shape[1:]) for dataset in sets}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} has {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise ConfigurationError(f"the data sets of a sequence must have samples of one shape; {found}")
    names = [dataset.name for dataset in sets]
    tasks = []
    for index, dataset in enumerate(sets):
        first, times = names.index(dataset.name), names[: index + 1].count(dataset.name)
        name = dataset.name if times == 1 else f"{dataset.name} {times}"
        classes = tuple(range(dataset.num_classes))
        tasks.append(Draft(name, dataset, classes, twin=first if first < index else None))
    return tasks
