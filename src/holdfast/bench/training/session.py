"""What is learned in one go: one task, or for joint training several at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.data.tasks import Stream, Task
from holdfast.bench.records import seeding
from holdfast.bench.records.record import RunConfig
from holdfast.objectives.plain import logits_of

__all__ = ["Part", "Session", "rows_of", "sessions"]


@dataclass(frozen=True)
class Part:
    """The samples of a batch that belong to one task."""

    task: Task
    inputs: Tensor
    targets: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Session:
    """One task to learn, or several whose samples are mixed in every batch.

    Attributes:
        index: its place among the sessions.
        tasks: whose samples; the last is the one that is learned.
        weights: what a sample of each task counts in the mean loss; empty: 1.
    """

    index: int
    tasks: tuple[Task, ...]
    weights: tuple[float, ...] = ()

    def __len__(self) -> int:
        """Number of training samples."""
        return sum(len(task.train) for task in self.tasks)

    @property
    def last(self) -> Task:
        """The latest task in it."""
        return self.tasks[-1]

    def num_batches(self, size: int) -> int:
        """Batches per epoch, the last one perhaps smaller."""
        return -(-len(self) // size)

    def order(self, config: RunConfig, round_: int, epoch: int) -> Tensor:
        """The order of samples in an epoch, ``[n]``; depends on nothing but its arguments, so a run can resume."""
        if config.shuffle:
            draw = seeding.generator(config.seed, "order", self.index, round_, epoch)
            order = torch.randperm(len(self), generator=draw)
        else:
            order = torch.arange(len(self))
        # On the device at once, for every copy to it would wait. Those of several tasks have to be told apart first.
        return order.to(self.last.train.rows.device) if len(self.tasks) == 1 else order

    def parts(self, positions: Tensor) -> list[Part]:
        """The samples at some positions, task by task."""
        if len(self.tasks) == 1:
            task = self.tasks[0]
            return [Part(task, *task.batch(task.train, positions))]
        found = []
        start = 0
        for task, weight in zip(self.tasks, self.weights or (1.0,) * len(self.tasks), strict=True):
            mine = positions[(positions >= start) & (positions < start + len(task.train))] - start
            if len(mine):
                found.append(Part(task, *task.batch(task.train, mine.to(task.train.rows.device)), weight))
            start += len(task.train)
        return found


def sessions(stream: Stream, *, joint: bool) -> Iterator[Session]:
    """The tasks one by one, or all of them at once."""
    if joint:
        yield Session(0, stream.tasks)
    else:
        for task in stream.tasks:
            yield Session(task.index, (task,))


def rows_of(raw: Any, start: int, stop: int) -> Any:
    """Some rows of what a model returned, head by head where it has several."""
    if isinstance(raw, list | tuple):
        return [head[start:stop] for head in raw]
    return logits_of(raw)[start:stop]
