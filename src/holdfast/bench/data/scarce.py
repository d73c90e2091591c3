"""Streams whose classes have unequal numbers of samples: long tails, a base task followed by few shots, and their loss.

The two are cut out of a stream that is there already, after its validation part was set aside: that part and the test
part have as many samples of every class as of any other, whatever the training data have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from holdfast.bench.data.tasks import Split, Stream
from holdfast.bench.records import seeding
from holdfast.errors import ConfigurationError, Option
from holdfast.objectives import ClassBalanced, Classification

__all__ = ["balanced", "few_shots", "long_tail", "tail_counts"]


def tail_counts(most: int, imbalance: float, classes: int) -> list[int]:
    r"""How many samples each class of a long tail has, the most frequent first.

    .. math:: n_k = \lfloor n_{\max} \, \rho^{-k / (K - 1)} \rfloor, \quad k = 0, \dots, K - 1

    Source: Cao et al. 2019, arXiv:1906.07413, the exponential profile. Differs: no; rounded to 9 digits before it is
    cut, so that 100 · 10^-1 is 10.

    Args:
        most: :math:`n_{\max}`.
        imbalance: ρ >= 1, how many times as frequent the first class is as the last.
        classes: K.

    Example:
        >>> tail_counts(100, 10.0, 3)
        [100, 31, 10]
    """
    last = max(1, classes - 1)
    return [int(round(most * imbalance ** (-k / last), 9)) for k in range(classes)]


def long_tail(stream: Stream, imbalance: float, seed: int) -> Stream:
    """The same stream with fewer training samples of each class than of the one before it, in order of arrival.

    Args:
        stream: its validation parts set aside; the rarest of its classes says how many the most frequent has.
        imbalance: see `tail_counts`.
        seed: draws which samples stay.

    Raises:
        ConfigurationError: if the last class would be left without a sample.
    """
    places = [(task.index, column) for task in stream for column in task.classes]
    numbers = [_counts(task.train) for task in stream]
    most = min(numbers[index][column] for index, column in places)
    counts = tail_counts(most, imbalance, len(places))
    if counts[-1] < 1:
        raise ConfigurationError(
            Option("imbalance"),
            f" is {imbalance:g}, which leaves the rarest of {len(places)} classes without a sample of {most}; expected "
            f"at most {most}",
        )
    wanted: list[dict[int, int]] = [{} for _ in stream]
    for (index, column), count in zip(places, counts, strict=True):
        wanted[index][column] = count
    return _cut(stream, wanted, seed)[0]


def few_shots(stream: Stream, shots: int, seed: int) -> Stream:
    """The same stream with so few training samples of each class from the second task on.

    What is left of them has no labels there: it is the stream's ``unlabelled`` part.

    Args:
        stream: its validation parts set aside.
        shots: training samples of each class after the first task.
        seed: draws which.

    Raises:
        ConfigurationError: if a class has fewer samples.
    """
    wanted: list[dict[int, int]] = [{}]
    for task in stream.tasks[1:]:
        numbers = _counts(task.train)
        least = min(numbers[column] for column in task.classes)
        if least < shots:
            raise ConfigurationError(
                f"the stream {stream.name!r} says {shots} shots, but a class of its task {task.name!r} has {least} "
                "training samples; expected no more"
            )
        wanted.append(dict.fromkeys(task.classes, shots))
    cut, left = _cut(stream, wanted, seed)
    rows = torch.cat(left).sort().values
    unlabelled = Split(cut.tasks[0].train.storage, rows, torch.full_like(rows, -100))
    return dataclasses.replace(cut, shots=shots, unlabelled=unlabelled)


def balanced(stream: Stream, beta: float) -> Stream:
    """The same stream, whose training loss weighs each class by how rare it is so far.

    Args:
        stream: the stream.
        beta: of :class:`holdfast.ClassBalanced`.

    Raises:
        ConfigurationError: for a β out of range, or a loss that sees outputs of classes to come.
    """
    known: dict[int, int] = {}
    tasks = []
    for task in stream:
        objective = task.training_objective
        assert isinstance(objective, Classification)
        own = {column: count for column, count in _counts(task.train).items() if column in task.classes}
        known = {**known, **own} if stream.scenario == "class" else own
        everything = range(stream.num_outputs) if stream.scenario == "class" else task.classes
        wanted = everything if objective.classes is None else objective.classes
        if not all(known.get(column) for column in wanted):
            raise ConfigurationError(
                Option("class_balance"),
                f" weighs classes by their training samples, and the loss of the task {task.name!r} sees classes that "
                "have none yet; expected ",
                Option("training_outputs", ("seen", "current")),
            )
        counts = [known[column] for column in wanted]
        weighed = ClassBalanced(counts, beta=beta, classes=objective.classes, head=objective.head)
        tasks.append(dataclasses.replace(task, training_objective=weighed))
    return dataclasses.replace(stream, tasks=tuple(tasks))


def _cut(stream: Stream, wanted: Sequence[Mapping[int, int]], seed: int) -> tuple[Stream, list[Tensor]]:
    """The stream with so many training samples of each class and level tests; and the rows that are left of each task.

    Args:
        stream: the stream.
        wanted: for each task, column -> training samples; a class that is not there keeps all of its own.
        seed: draws which stay.
    """
    tests = [_counts(task.test) for task in stream]
    level = min(tests[task.index][column] for task in stream for column in task.classes)
    tasks, left = [], []
    for task, counts in zip(stream, wanted, strict=True):
        kept = torch.ones(len(task.train), dtype=torch.bool)
        for column, count in counts.items():
            mine = (task.train.targets == column).nonzero().flatten()
            draw = seeding.generator(seed, "scarce", task.index, column)
            kept[mine[torch.randperm(len(mine), generator=draw)[count:]]] = False
        left.append(task.train.rows[~kept])
        first = torch.cat([(task.test.targets == column).nonzero().flatten()[:level] for column in task.classes])
        train, test = _only(task.train, kept.nonzero().flatten()), _only(task.test, first.sort().values)
        tasks.append(dataclasses.replace(task, train=train, test=test))
    return dataclasses.replace(stream, tasks=tuple(tasks), by_class=True), left


def _only(part: Split, places: Tensor) -> Split:
    return Split(part.storage, part.rows[places], part.targets[places])


def _counts(part: Split) -> dict[int, int]:
    found = part.targets.bincount().tolist()
    return dict(enumerate(found))
