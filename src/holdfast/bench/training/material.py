"""What a method is shown of a task beside its training batches: the task's own samples, or what the model writes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from torch import nn

from holdfast.bench.data.tasks import Stream, Task
from holdfast.bench.records import seeding
from holdfast.bench.records.record import RunConfig
from holdfast.bench.training import own_texts
from holdfast.generating import Generations
from holdfast.objectives import Batch

__all__ = ["Material"]


class Material:
    """Batches for ``consolidate``, for anchors and for starts of adapters, without any validation or test data.

    Args:
        config: of the run.
        stream: the tasks, on the device.
    """

    def __init__(self, config: RunConfig, stream: Stream) -> None:
        self.config, self.stream = config, stream

    def asked(self, model: nn.Module, task: Task) -> Iterator[Batch]:
        """What the run's importances are estimated from: samples of the task, or the model's own texts."""
        if self.config.memory == "generations":
            return self.own_words(model, task.index)
        return self.samples(task)

    def samples(self, task: Task) -> Iterator[Batch]:
        """Training samples of a task: all, or as many as the configuration says."""
        size, limit = self.config.importance_batch_size, self.config.importance_samples
        if limit is None:
            return task.batches(task.train, size)
        draw = seeding.generator(self.config.seed, "importance samples", task.index)
        return islice(task.batches(task.train, min(size, limit), generator=draw), -(-limit // size))

    def own_texts(self, model: nn.Module, learned: int) -> Generations:
        """Texts that the model writes, once it has learned the task at that place."""
        draw = seeding.generator(self.config.seed, "own texts", learned)
        return own_texts.write(model, self.stream, draw, learned=learned)

    def own_words(self, model: nn.Module, learned: int) -> Iterator[Batch]:
        """The same in batches, written when they are first asked for: not every method asks."""
        yield from self.own_texts(model, learned)
