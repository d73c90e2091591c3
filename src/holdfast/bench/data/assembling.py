"""Drafts of tasks -> a stream: which outputs are whose, what is set aside, and how samples reach the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.bench.data import own
from holdfast.bench.data.asked import Asked
from holdfast.bench.data.drafts import Draft
from holdfast.bench.data.sets import normalising
from holdfast.bench.data.tasks import Split, Stream, Task

__all__ = ["assemble"]


def assemble(
    name: str, parts: Sequence[Draft], asked: Asked, *, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> Stream:
    """A stream, its outputs and validation parts settled.

    Args:
        name: of the stream.
        parts: its tasks, in order of arrival.
        asked: the scenario, what is set aside, how many samples are kept.
        mean: per channel, of pixels scaled to [0, 1]; empty: samples go to the model as they are stored.
        std: likewise.
    """
    widths = [len(part.members) for part in parts]
    scale, shift = normalising(mean, std)
    return Stream(
        name=name,
        scenario=asked.scenario,
        training_outputs=asked.training_outputs,
        tasks=tuple(_task(index, part, widths, asked, scale, shift) for index, part in enumerate(parts)),
        num_outputs=max(widths) if asked.scenario == "domain" else sum(widths),
        heads=tuple(widths) if asked.scenario == "task" else None,
        input_shape=tuple(parts[0].dataset.train_x.shape[1:]),
        mean=mean,
        std=std,
    )


def _task(
    index: int, part: Draft, widths: Sequence[int], asked: Asked, scale: Tensor | None, shift: Tensor | None
) -> Task:
    classes, seen = _columns(index, widths, asked.scenario)
    objective, training_objective = own.objectives(asked.scenario, asked.training_outputs, index, classes, seen)
    dataset = part.dataset
    columns = torch.full((dataset.num_classes,), -1)
    columns[list(part.members)] = torch.tensor(classes)
    learn = _rows(dataset.train_x, columns[dataset.train_y], asked.limit_per_class)
    twin = index if part.twin is None else part.twin
    train, valid = learn.set_aside(asked.validation_fraction, asked.seed, twin)
    return Task(
        name=part.name,
        index=index,
        train=train,
        valid=valid,
        test=_rows(dataset.test_x, columns[dataset.test_y], asked.test_limit_per_class),
        classes=classes,
        seen=seen,
        objective=objective,
        training_objective=training_objective,
        scale=scale,
        shift=shift,
        pixel_order=part.pixel_order,
        answers=tuple(dataset.class_names[label] for label in part.members),
    )


def _columns(index: int, widths: Sequence[int], scenario: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A task's outputs, and those of it and all before it."""
    first = sum(widths[:index]) if scenario == "class" else 0
    if scenario == "domain":
        return tuple(range(widths[index])), tuple(range(max(widths[: index + 1])))
    return tuple(range(first, first + widths[index])), tuple(range(first + widths[index]))


def _rows(storage: Tensor, columns: Tensor, limit: int | None) -> Split:
    """The rows whose class belongs to the task (its column is not -1), at most so many of each class."""
    if limit is None:
        rows = (columns >= 0).nonzero().flatten()
    else:
        wanted = sorted(set(columns.tolist()) - {-1})
        rows = torch.cat([(columns == column).nonzero().flatten()[:limit] for column in wanted]).sort().values
    return Split(storage, rows, columns[rows])
