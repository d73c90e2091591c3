"""Streams of tasks from named data sets.

A name says what the stream is: ``split-D`` (the classes of D, k to a task), ``split-D-K`` (the same with k = K),
``permuted-D`` (all classes of D in every task, the pixels in another order), ``sequence-A-B-…`` (one task per
data set, which may come again). What the model must answer is the scenario: see `build`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.bench.data import drafts
from holdfast.bench.data import named as data
from holdfast.bench.data import text as text_data
from holdfast.bench.data.drafts import Draft, Permutation
from holdfast.bench.data.named import ImageDataset
from holdfast.bench.data.tasks import Split, Stream, Task
from holdfast.bench.records import seeding
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError
from holdfast.objectives import Classification

__all__ = ["Permutation", "Scenario", "TrainingOutputs", "build", "names"]

Scenario = Literal["task", "domain", "class"]
TrainingOutputs = Literal["all", "seen", "current"]


def names() -> dict[str, str]:
    """Stream name -> what it is, in a line. Other data sets and other numbers of classes follow the same grammar."""
    found = {f"split-{name}": f"5 tasks of 2 classes: {about}" for name, about in data.names().items()}
    found["split-mnist-5"] = "2 tasks, digits 0 to 4 and 5 to 9; any split-DATA-K has K classes a task"
    found |= {
        f"permuted-{name}": f"{_default_tasks(name)} tasks of all classes, each with its own order of pixels: {about}"
        for name, about in data.names().items()
    }
    found["sequence-mnist-fashion_mnist"] = "2 tasks, one data set each; any sequence-A-B-… of one image shape"
    return found


def build(
    name: str,
    *,
    seed: int,
    scenario: Scenario = "task",
    training_outputs: TrainingOutputs = "all",
    tasks: int | None = None,
    classes_per_task: int | None = None,
    class_order: Sequence[int] | Literal["seeded"] | None = None,
    permutation: Permutation = "seeded",
    validation_fraction: float = 0.1,
    limit_per_class: int | None = None,
    test_limit_per_class: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    pad: int = 0,
    text: Mapping[str, Any] | None = None,
    data_dir: Path | str | None = None,
    cache_dir: Path | str | None = None,
) -> Stream:
    """A stream of tasks.

    Scenarios, for tasks of k classes:

    - ``task``: the model has one head of k outputs per task, and is told at test which one to use; targets are
      0 .. k-1 within the head.
    - ``domain``: all tasks share k outputs; targets are 0 .. k-1.
    - ``class``: every task brings k outputs of its own, and at test all outputs compete. `training_outputs` says
      which of them the training loss sees: ``all`` there will ever be, those ``seen`` so far, or the ``current``
      task's.

    Args:
        name: see the module; `names()` lists the ready ones.
        seed: fixes the validation part, and the order of pixels or of classes where these are seeded.
        scenario: what the model must answer.
        training_outputs: for the ``class`` scenario.
        tasks: how many: for a split the first so many (default: all classes), for permuted data 10 (digits: 5).
        classes_per_task: for a split (default 2).
        class_order: for a split, the data set's labels in order of arrival, or ``"seeded"``; default ascending.
        permutation: for permuted data. ``seeded``: task 0 has the pixels in order, every other an order drawn from
            `seed`. ``anpyc``: ``random.seed(t); random.shuffle(...)`` for every task t, the published ones.
        validation_fraction: share of every class that is set aside from each task's training data.
        limit_per_class: keep the first so many training samples of every class, for a quick version.
        test_limit_per_class: likewise for the test part.
        mean: replaces the (first) data set's own, per channel or one for all.
        std: likewise.
        pad: black pixels added on every side.
        text: for texts, any of `text_data.Options`.
        data_dir: see `data.load`.
        cache_dir: see `data.load`.

    Returns:
        The stream, on the CPU.

    Raises:
        ConfigurationError: if the name is unknown, or an argument does not fit it.
        DataError: if a data set cannot be read.
    """
    kind, dataset_names, named_classes = _parse(name)
    for option, value, choices in (
        ("scenario", scenario, get_args(Scenario)),
        ("training_outputs", training_outputs, get_args(TrainingOutputs)),
        ("permutation", permutation, get_args(Permutation)),
    ):
        if value not in choices:
            raise ConfigurationError(f"{option} is {value!r}; expected one of {', '.join(choices)}")
    if training_outputs != "all" and scenario != "class":
        raise ConfigurationError(f"training_outputs={training_outputs!r} needs scenario='class', got {scenario!r}")
    for option, number in (
        ("tasks", tasks),
        ("classes_per_task", classes_per_task),
        ("limit_per_class", limit_per_class),
        ("test_limit_per_class", test_limit_per_class),
    ):
        if number is not None and number < 1:
            raise ConfigurationError(f"{option} is {number}; expected at least 1")
    if pad < 0:
        raise ConfigurationError(f"pad is {pad}; expected at least 0")
    if classes_per_task is not None and named_classes not in (None, classes_per_task):
        raise ConfigurationError(
            f"classes_per_task is {classes_per_task}, but the stream {name!r} says {named_classes}"
        )
    _refuse_misplaced(name, kind, tasks, classes_per_task, class_order, permutation)

    tokenizer = None
    of_text = dataset_names[0] in data.names(text=True)
    for option, wrong in (("text", bool(text) and not of_text), ("pad", pad and of_text), ("mean", mean and of_text)):
        if wrong:
            raise ConfigurationError(
                f"{option} does not apply to {name!r}, a stream of {'texts' if of_text else 'images'}"
            )
    if of_text:
        asked = text_data.options(text or {})
        cached, tokenizer = text_data.load(dataset_names, asked, data_dir=data_dir, cache_dir=cache_dir)
    else:
        cached = {
            each: data.load(each, data_dir=data_dir, cache_dir=cache_dir) for each in dict.fromkeys(dataset_names)
        }
    sets = [_padded(cached[each], pad) if pad else cached[each] for each in dataset_names]
    if kind == "split":
        parts = drafts.split(sets[0], classes_per_task or named_classes or 2, tasks, class_order, seed)
    elif kind == "permuted":
        parts = drafts.permuted(sets[0], tasks or _default_tasks(dataset_names[0]), permutation, seed)
    else:
        parts = drafts.sequence(sets)
    stream = _assemble(
        name,
        parts,
        scenario,
        training_outputs,
        seed=seed,
        validation_fraction=validation_fraction,
        limits=(limit_per_class, test_limit_per_class),
        mean=_per_channel("mean", mean, sets[0].mean),
        std=_per_channel("std", std, sets[0].std),
    )
    return dataclasses.replace(stream, tokenizer=tokenizer)


def _default_tasks(dataset: str) -> int:
    return 5 if dataset == "digits" else 10


def _parse(name: str) -> tuple[str, list[str], int | None]:
    """Kind, data sets, and the classes per task that the name itself gives."""
    kind, *rest = name.split("-")
    classes = int(rest.pop()) if kind == "split" and len(rest) == 2 and rest[1].isdecimal() else None
    fits = len(rest) >= 2 if kind == "sequence" else kind in ("split", "permuted") and len(rest) == 1
    known = [*data.names(), *data.names(text=kind == "sequence")]
    if not fits or any(each not in known for each in rest):
        raise unknown_name("stream", name, names())
    if classes == 0:
        raise ConfigurationError(f"the stream {name!r} has 0 classes per task; expected at least 1")
    return kind, rest, classes


def _refuse_misplaced(
    name: str,
    kind: str,
    tasks: int | None,
    classes_per_task: int | None,
    class_order: Sequence[int] | Literal["seeded"] | None,
    permutation: Permutation,
) -> None:
    """An option that this kind of stream would ignore is a mistake of the caller's."""
    misplaced = {
        "classes_per_task": kind != "split" and classes_per_task is not None,
        "class_order": kind != "split" and class_order is not None,
        "permutation": kind != "permuted" and permutation != "seeded",
        "tasks": kind == "sequence" and tasks is not None,
    }
    for option, wrong in misplaced.items():
        if wrong:
            raise ConfigurationError(f"{option} does not apply to the stream {name!r}, which is {kind}")


def _per_channel(option: str, value: float | Sequence[float] | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    values = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),) * len(default)
    if len(values) != len(default) or (option == "std" and min(values) <= 0):
        expected = "a positive number" if option == "std" else "a number"
        raise ConfigurationError(f"{option} is {value}; expected {expected}, or {len(default)} of them")
    return values


def _padded(dataset: ImageDataset, pad: int) -> ImageDataset:
    train, test = (functional.pad(images, (pad,) * 4) for images in (dataset.train_x, dataset.test_x))
    return dataclasses.replace(dataset, train_x=train, test_x=test)


def _assemble(
    name: str,
    parts: list[Draft],
    scenario: Scenario,
    training_outputs: TrainingOutputs,
    *,
    seed: int,
    validation_fraction: float,
    limits: tuple[int | None, int | None],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Stream:
    widths = [len(part.members) for part in parts]
    scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1) if std else None
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1) if std else None
    tasks = []
    for index, part in enumerate(parts):
        first = sum(widths[:index]) if scenario == "class" else 0
        classes = tuple(range(first, first + widths[index]))
        seen = tuple(range(first + widths[index]))
        if scenario == "domain":
            seen = tuple(range(max(widths[: index + 1])))
        if scenario == "task":
            objective = training_objective = Classification(head=index)
        else:
            objective = training_objective = Classification()
        if training_outputs != "all":
            training_objective = Classification(classes=seen if training_outputs == "seen" else classes)

        dataset = part.dataset
        columns = torch.full((dataset.num_classes,), -1)
        columns[list(part.members)] = torch.tensor(classes)
        learn = _rows(dataset.train_x, columns[dataset.train_y], limits[0])
        draw = seeding.generator(seed, "validation", index if part.twin is None else part.twin)
        stays, aside = data.holdout(learn.targets, validation_fraction, draw)
        tasks.append(
            Task(
                name=part.name,
                index=index,
                train=Split(learn.storage, learn.rows[stays], learn.targets[stays]),
                valid=Split(learn.storage, learn.rows[aside], learn.targets[aside]),
                test=_rows(dataset.test_x, columns[dataset.test_y], limits[1]),
                classes=classes,
                seen=seen,
                objective=objective,
                training_objective=training_objective,
                scale=scale,
                shift=shift,
                pixel_order=part.pixel_order,
                answers=tuple(dataset.class_names[label] for label in part.members),
            )
        )
    return Stream(
        name=name,
        scenario=scenario,
        training_outputs=training_outputs,
        tasks=tuple(tasks),
        num_outputs=max(widths) if scenario == "domain" else sum(widths),
        heads=tuple(widths) if scenario == "task" else None,
        input_shape=tuple(parts[0].dataset.train_x.shape[1:]),
        mean=mean,
        std=std,
    )


def _rows(storage: Tensor, columns: Tensor, limit: int | None) -> Split:
    """The rows whose class belongs to the task (its column is not -1), at most so many of each class."""
    if limit is None:
        rows = (columns >= 0).nonzero().flatten()
    else:
        wanted = sorted(set(columns.tolist()) - {-1})
        rows = torch.cat([(columns == column).nonzero().flatten()[:limit] for column in wanted]).sort().values
    return Split(storage, rows, columns[rows])
