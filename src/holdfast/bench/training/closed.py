"""A closed-form head in the place of a model's last layer: it is told a task, and answers as the model would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.bench.data.tasks import Stream, Task
from holdfast.bench.models import representation
from holdfast.bench.records import seeding
from holdfast.bench.records.record import RunConfig
from holdfast.bench.training import memory
from holdfast.bench.training.session import Session
from holdfast.errors import ConfigurationError, DataError
from holdfast.heads import Head
from holdfast.registry import Entry

__all__ = ["Closed", "answers"]


class Closed:
    """A head of the registry over a run's representation.

    Args:
        config: what was asked for.
        entry: the head.
        values: its hyperparameters.
        model: of the run, whose features it may stand on.
        stream: the tasks; where each has outputs of its own, the head has a class for every one of them all.
    """

    def __init__(
        self, config: RunConfig, entry: Entry, values: Mapping[str, Any], model: nn.Module, stream: Stream
    ) -> None:
        self._representation = representation.parse(config.backbone or "first-task")
        seed = seeding.derive_seed(config.seed, "features")
        features = self._representation.build(model, config.model, stream.input_shape, seed)
        assert entry.build is not None
        self.head: Head = entry.build(**features, **values)
        self._backbone, self._device = config.backbone or "first-task", torch.device(config.device)
        self._widths = stream.heads
        self._total = sum(stream.heads) if stream.heads is not None else stream.num_outputs
        self._size = config.importance_batch_size

    def trains(self, session: Session) -> bool:
        """Whether the model behind the head is trained in a session."""
        return self._representation.trains_first and session.index == 0

    def check(self, tasks: Sequence[Task]) -> None:
        """Look at two samples of each task, before anything is trained.

        Raises:
            ConfigurationError: if the head cannot take such features, or needs more memory for them than there is.
        """
        some = (task.batch(task.train, torch.arange(min(2, len(task.train)))) for task in tasks)
        over = f"over --backbone {self._backbone}"
        try:
            size = self.head.width((x.to(self._device), y.to(self._device)) for x, y in some)
        except DataError as error:
            raise ConfigurationError(f"{over}: {error}") from error
        needed, free = self.head.memory(size, self._total), memory.available_bytes(self._device)
        if free is not None and needed > free:
            raise ConfigurationError(
                f"{over}, {size:,} features and {self._total} classes take up to {needed / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB are free; expected a --backbone of fewer features, or another head"
            )

    def consolidate(self, task: Task) -> None:
        """Learn a task's training data, all of them."""
        first = self._first_column(task)
        batches = ((inputs, targets + first) for inputs, targets in task.batches(task.train, self._size))
        self.head.consolidate(batches)

    def _first_column(self, task: Task) -> int:
        return 0 if self._widths is None else sum(self._widths[: task.index])

    def outputs(self, inputs: Tensor) -> Tensor | list[Tensor]:
        """Scores as the model would give them: ``[B, K]``, or one such per head; −∞ for a class not met yet."""
        return answers(self.head, inputs, self._total if self._widths is None else self._widths)

    def state_dict(self) -> dict[str, Any]:
        """What the head remembers, as tensors and plain values."""
        return dict(self.head.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.head.load_state_dict(state)

    def state_bytes(self) -> int:
        """Bytes that the head remembers."""
        return self.head.state_bytes


def answers(head: Head, inputs: Tensor, outputs: int | Sequence[int]) -> Tensor | list[Tensor]:
    """Scores of a head as a model's outputs: its classes are columns, and those it has not met yet are at −∞.

    Args:
        head: the head.
        inputs: x, ``[B, ...]``.
        outputs: K, or one such per task, whose columns stand one after the other.

    Returns:
        ``[B, K]``, or a list of such.
    """
    widths = [outputs] if isinstance(outputs, int) else list(outputs)
    scores = torch.full((len(inputs), sum(widths)), -torch.inf, dtype=torch.float64, device=inputs.device)
    if head.classes:
        scores[:, torch.tensor(head.classes, device=inputs.device)] = head(inputs)
    return scores if isinstance(outputs, int) else list(torch.split(scores, widths, 1))
