"""Tasks and streams: which samples, which outputs, and how a batch reaches the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.data import own
from holdfast.bench.data.own import Given
from holdfast.bench.data.sets import normalising
from holdfast.bench.data.splitting import Split
from holdfast.bench.data.vocabulary import Vocabulary
from holdfast.bench.records.record import Scenario, TrainingOutputs
from holdfast.objectives import Objective
from holdfast.objectives.distributions import IGNORED

__all__ = ["Split", "Stream", "Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """One task of a stream.

    Attributes:
        name: what a reader calls it.
        index: its place in the stream, from 0.
        train: what it learns from; the validation part is not in it.
        valid: set aside from the training data: what choices may look at.
        test: read once, at the end.
        classes: the outputs that are this task's: columns within its head under the task scenario, of the shared
            outputs otherwise.
        seen: likewise, of this task and all before it (under the task scenario, of this one).
        objective: what its test asks.
        training_objective: what its training loss sees; differs from `objective` in class-incremental streams only.
        scale: float32 ``[C, 1, 1]``, or `None` where samples go to the model as they are stored.
        shift: float32 ``[C, 1, 1]``: a pixel x becomes x * scale + shift.
        pixel_order: int64 ``[H * W]``: pixel i of the task is pixel ``pixel_order[i]`` of the image; `None`: in order.
        answers: a name for each of `classes`.
    """

    name: str
    index: int
    train: Split
    valid: Split
    test: Split
    classes: tuple[int, ...]
    seen: tuple[int, ...]
    objective: Objective
    training_objective: Objective
    scale: Tensor | None = None
    shift: Tensor | None = None
    pixel_order: Tensor | None = None
    answers: tuple[str, ...] = ()

    def inputs(self, samples: Tensor) -> Tensor:
        """What the model is given: pixels put in this task's order and normalised, on the samples' device.

        Args:
            samples: as stored, uint8 ``[B, C, H, W]``.

        Returns:
            float32 ``[B, C, H, W]``, or `samples` itself where there is nothing to normalise.
        """
        if self.pixel_order is not None:
            samples = samples.flatten(2).index_select(2, self.pixel_order).view_as(samples)
        if self.scale is None or self.shift is None:
            return samples
        return samples.to(torch.float32).mul_(self.scale).add_(self.shift)

    def batch(self, split: Split, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some samples of one part.

        Args:
            split: `train`, `valid` or `test`.
            index: positions within the part, int64 ``[B]``.

        Returns:
            What the model is given, ``[B, ...]``, and what the objective expects, ``[B]``.
        """
        samples = split.storage.index_select(0, split.rows.index_select(0, index))
        return self.inputs(samples), split.targets.index_select(0, index)

    @staticmethod
    def answers_in(targets: Tensor) -> int | Tensor:
        """How many answers a batch asks for, over which its losses are averaged: one a sample, or one a word."""
        return len(targets) if targets.dim() == 1 else (targets[:, 1:] != IGNORED).sum()

    def batches(
        self, split: Split, size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over a part in batches.

        Args:
            split: `train`, `valid` or `test`.
            size: samples per batch.
            generator: CPU generator that shuffles; `None`: in the order of the source.
            drop_last: leave out a last batch that is smaller.

        Yields:
            Inputs and targets, as from `batch`.
        """
        count = len(split)
        if generator is None:
            order = torch.arange(count, device=split.rows.device)
        else:
            order = torch.randperm(count, generator=generator).to(split.rows.device)
        for start in range(0, count - size + 1 if drop_last else count, size):
            yield self.batch(split, order[start : start + size])


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks that arrive one after another.

    Attributes:
        name: as given to `streams.build`.
        scenario: ``task`` (one head per task, told which at test), ``domain`` (the outputs are shared) or ``class``
            (each task brings outputs, and at test all compete).
        training_outputs: which outputs the training loss sees in class-incremental streams.
        tasks: in order of arrival.
        num_outputs: outputs of the model, of all heads together.
        heads: outputs per head under the task scenario, `None` otherwise.
        input_shape: of one sample as the model is given it.
        mean: per channel, of pixels scaled to [0, 1], that every task is normalised by.
        std: per channel, likewise.
        tokenizer: of texts, as in `text.encode`; `None` for images.
        vocabulary: of texts to be continued; `None` for all else.
        own: a digest of the samples of a stream that was made of tensors or of one's own data; empty for a named one.
        by_class: whether its classes have unequal numbers of samples, so that records say how each class fares.
        shots: training samples of each class after the first task; `None` where these are not few.
        unlabelled: of a few-shot stream, the other training samples of classes to come, targets -100: for what says
            that it needs them alone.
        about: what a record says of one's own data, beside that digest: what they hold, and the options.
        holds: ``grey`` or ``colour`` (images), ``texts`` or ``features`` of one's own data, ``language`` (texts to be
            continued): which protocol fits; empty: that of its name.
    """

    name: str
    scenario: str
    training_outputs: str
    tasks: tuple[Task, ...]
    num_outputs: int
    heads: tuple[int, ...] | None
    input_shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    tokenizer: str | None = None
    vocabulary: Vocabulary | None = None
    own: str = ""
    by_class: bool = False
    shots: int | None = None
    unlabelled: Split | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    holds: str = ""

    @classmethod
    def from_tensors(
        cls,
        tasks: Sequence[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]],
        *,
        scenario: Scenario = "task",
        training_outputs: TrainingOutputs = "all",
        name: str = "own",
        task_names: Sequence[str] | None = None,
        class_names: Mapping[int, str] | None = None,
    ) -> Stream:
        """A stream of one's own tensors.

        Labels may be any integers. Under ``task`` every task has a head for the labels that it trains on, in ascending
        order; under ``domain`` all tasks share one output for each label; under ``class`` outputs come in the order in
        which labels arrive, and a label may come again.

        Args:
            tasks: in order of arrival, ``((train_x, train_y), (test_x, test_y))`` each: samples ``[n, ...]``, floating
                point as the model is to be given them, and labels ``[n]`` of integers.
            scenario: what the model must answer.
            training_outputs: for the ``class`` scenario: the outputs that the training loss sees.
            name: what a reader calls the stream; not one that a named stream could have.
            task_names: what a reader calls the tasks; default ``task 1`` and so on.
            class_names: label -> what a reader calls it; default the label.

        Returns:
            The stream, without a validation part: :meth:`with_validation` sets it aside.

        Raises:
            DataError: for a task that cannot be learned or tested, naming it and what is wrong.
            ConfigurationError: for a wrong scenario or name.

        Example:
            >>> import torch
            >>> x, y = torch.randn(8, 4), torch.tensor([3, 5] * 4)
            >>> stream = Stream.from_tensors([((x, y), (x, y)), ((x, y + 4), (x, y + 4))], scenario="class")
            >>> len(stream), stream.num_outputs, stream.tasks[1].classes
            (2, 4, (2, 3))
        """
        return cls.from_given(
            own.read(tasks, name, scenario, training_outputs, task_names, class_names), name, training_outputs
        )

    @classmethod
    def from_given(cls, given: Given, name: str, training_outputs: TrainingOutputs) -> Stream:
        """A stream of tasks that passed the checks.

        Args:
            given: the tasks, and which output each label has.
            name: of the stream.
            training_outputs: for the ``class`` scenario: the outputs that the training loss sees.
        """
        scale, shift = normalising(given.mean, given.std)
        built = []
        for index, each in enumerate(given.tasks):
            classes, seen = given.classes(index), given.seen(index)
            asked, trained = own.objectives(given.scenario, training_outputs, index, classes, seen)
            splits = {
                part: Split(samples, torch.arange(len(samples)), given.columns(index, labels))
                for part, (samples, labels) in each.parts.items()
            }
            train = splits["train"]
            none = Split(train.storage, train.rows[:0], train.targets[:0])
            answers = each.answers or tuple(given.class_name(label) for label in given.labels(index))
            parts = (train, splits.get("valid", none), splits["test"])
            task = Task(each.name, index, *parts, classes, seen, asked, trained, scale, shift, answers=answers)
            built.append(task)
        heads = tuple(len(task.classes) for task in built) if given.scenario == "task" else None
        outputs = sum(heads) if heads is not None else len({column for task in built for column in task.classes})
        shape = tuple(given.tasks[0].train_x.shape[1:])
        return cls(
            name,
            given.scenario,
            training_outputs,
            tuple(built),
            outputs,
            heads,
            shape,
            given.mean,
            given.std,
            own=given.digest(),
        )

    def with_validation(self, fraction: float, seed: int) -> Stream:
        """The same stream with the same share of every class set aside from each task's training data.

        A task that brings a validation part keeps that, and all of its training data.

        Args:
            fraction: the share, in [0, 1).
            seed: fixes which samples.
        """
        parts = [
            (task.train, task.valid) if len(task.valid) else task.train.set_aside(fraction, seed, task.index)
            for task in self.tasks
        ]
        tasks = (
            dataclasses.replace(task, train=train, valid=valid)
            for task, (train, valid) in zip(self.tasks, parts, strict=True)
        )
        return dataclasses.replace(self, tasks=tuple(tasks))

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        """The tasks, in order of arrival."""
        return iter(self.tasks)

    @property
    def outputs(self) -> int | tuple[int, ...]:
        """What `models.build` is asked for: a number of outputs, or one number per head."""
        return self.num_outputs if self.heads is None else self.heads

    @property
    def few_shot(self) -> bool:
        """Whether a base task is followed by classes of few samples."""
        return self.shots is not None

    def without_test(self) -> Stream:
        """The same stream with every test part empty: what a choice of hyperparameters may be shown."""
        tasks = tuple(
            dataclasses.replace(t, test=Split(t.test.storage[:0], t.test.rows[:0], t.test.targets[:0]))
            for t in self.tasks
        )
        return dataclasses.replace(self, tasks=tasks)

    def to(self, device: torch.device | str) -> Stream:
        """The same stream with its tensors on a device; samples that tasks share are moved once and stay shared."""
        moved: dict[int, Tensor] = {}

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = tensor.to(device)
            return moved[id(tensor)]

        def move_split(part: Split) -> Split:
            return Split(move(part.storage), move(part.rows), move(part.targets))

        def move_task(task: Task) -> Task:
            scale, shift, order = (None if t is None else move(t) for t in (task.scale, task.shift, task.pixel_order))
            train, valid, test = (move_split(part) for part in (task.train, task.valid, task.test))
            return dataclasses.replace(
                task, train=train, valid=valid, test=test, scale=scale, shift=shift, pixel_order=order
            )

        tasks = tuple(move_task(task) for task in self.tasks)
        bare = None if self.unlabelled is None else move_split(self.unlabelled)
        return dataclasses.replace(self, tasks=tasks, unlabelled=bare)
