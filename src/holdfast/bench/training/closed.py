"""A closed-form head in the place of a model's last layer: it is told a task, and answers as the model would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.bench.data.tasks import Split, Stream, Task
from holdfast.bench.models import representation
from holdfast.bench.records import seeding
from holdfast.bench.records.record import RunConfig
from holdfast.bench.training import memory, preparing
from holdfast.bench.training.preparing import Preparing
from holdfast.bench.training.session import Session
from holdfast.errors import ConfigurationError, DataError, Option
from holdfast.heads import Head
from holdfast.registry import Entry

__all__ = ["Closed", "answers"]

_KEPT_BYTES = 1 << 30  # of features of test samples; and never more than a quarter of what is free


class Closed:
    """A head of the registry over a run's representation.

    What it is tested on has the same features after every task. They are computed once and kept: up to 1 GiB of them,
    and up to a quarter of the memory that is free; what is beyond that is computed again at each test.

    Args:
        config: what was asked for.
        entry: the head.
        values: its hyperparameters.
        model: of the run, whose features it may stand on.
        stream: the tasks; where each has outputs of its own, the head has a class for every one of them all.
    """

    head: Head

    def __init__(
        self, config: RunConfig, entry: Entry, values: Mapping[str, Any], model: nn.Module, stream: Stream
    ) -> None:
        self._representation = representation.parse(config.backbone or "first-task")
        seed = seeding.derive_seed(config.seed, "features")

        def make() -> Head:
            features = self._representation.build(model, config.model, stream.input_shape, seed)
            assert entry.build is not None
            head: Head = entry.build(**features, **values)
            return head

        self._make = make
        self.head = make()
        self._preparing: Preparing | None = None
        if entry.needs_unlabelled:
            assert isinstance(self.head, Preparing)
            if not self._representation.trains_first:
                raise ConfigurationError(
                    Option("backbone", (config.backbone or "",)),
                    " trains no network, and this method prepares one with unlabelled samples; expected first-task",
                )
            self._preparing = self.head
            self._encoder = preparing.fit(self.head, model)
        self._stream, self._seed = stream, config.seed
        self._backbone, self._device = config.backbone or "first-task", torch.device(config.device)
        self._widths = stream.heads
        self._total = sum(stream.heads) if stream.heads is not None else stream.num_outputs
        self._size = config.importance_batch_size
        self._heads = 1 if config.prequential is None else 2  # a copy meets each task batch by batch
        self._kept: dict[tuple[int, Split, int, int], Tensor] = {}
        self._room: int | None = None  # bytes that may still be kept; looked up at the first test

    def prepared(self, session: Session) -> Session:
        """The first session with the unlabelled samples that the head asks for; any other as it is."""
        if self._preparing is None or session.index:
            return session
        draw = seeding.generator(self._seed, "unlabelled")
        return preparing.prepared(self._preparing, session, self._encoder, self._stream, draw)

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
        needed, free = self._heads * self.head.memory(size, self._total), memory.available_bytes(self._device)
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

    def answered(self, task: Task, split: Split, size: int) -> Iterator[tuple[Tensor | list[Tensor], Tensor]]:
        """One part of a task in batches: scores as the model would give them, −∞ for a class not met yet; and targets.

        Args:
            task: whose part it is.
            split: its `train`, `valid` or `test`.
            size: samples per batch.

        Yields:
            ``[B, K]``, or one such per head; and ``[B]``.
        """
        for index in torch.split(torch.arange(len(split), device=split.rows.device), size):
            features = partial(self._features, task, split, index)
            yield self._outputs(self.head, features, len(index)), split.targets.index_select(0, index)

    def streamed(self, task: Task, parts: Iterable[Tensor]) -> Iterator[tuple[Tensor | list[Tensor], Tensor]]:
        """The training data of a task, answered and then learned part by part, by a copy: this head learns nothing.

        Args:
            task: the next one.
            parts: positions within its training data.

        Yields:
            As :meth:`answered`: what the copy answers to each part before it learns it, and the targets.
        """
        copy, first = self._make(), self._first_column(task)
        if self.head.num_tasks:
            copy.load_state_dict(self.head.state_dict())
        for index in parts:
            inputs, targets = task.batch(task.train, index)
            yield self._outputs(copy, partial(copy.represent, inputs), len(index)), targets
            copy.consolidate([(inputs, targets + first)])

    def _outputs(self, head: Head, features: Callable[[], Tensor], count: int) -> Tensor | list[Tensor]:
        scores = head.answer(features()) if head.classes else torch.empty(count, 0, device=self._device)
        return answers(scores.double(), head.classes, self._total if self._widths is None else self._widths)

    def _features(self, task: Task, split: Split, index: Tensor) -> Tensor:
        place = (task.index, split, int(index[0]), len(index))
        if place in self._kept:
            return self._kept[place]
        features = self.head.represent(task.batch(split, index)[0])
        if self._room is None:
            free = memory.available_bytes(self._device)
            self._room = _KEPT_BYTES if free is None else min(_KEPT_BYTES, free // 4)
        if features.nbytes <= self._room:
            self._room -= features.nbytes
            self._kept[place] = features
        return features

    def state_dict(self) -> dict[str, Any]:
        """What the head remembers, as tensors and plain values."""
        return dict(self.head.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.head.load_state_dict(state)
        self._kept, self._room = {}, None

    def state_bytes(self) -> int:
        """Bytes that the head remembers."""
        return self.head.state_bytes


def answers(scores: Tensor, classes: Sequence[int], outputs: int | Sequence[int]) -> Tensor | list[Tensor]:
    """Scores of a head as a model's outputs: its classes are columns, and those it has not met yet are at −∞.

    Args:
        scores: of the head, ``[B, C]``.
        classes: its own, ``C`` of them.
        outputs: K, or one such per task, whose columns stand one after the other.

    Returns:
        ``[B, K]``, or a list of such.
    """
    widths = [outputs] if isinstance(outputs, int) else list(outputs)
    found = torch.full((len(scores), sum(widths)), -torch.inf, dtype=torch.float64, device=scores.device)
    found[:, torch.tensor(classes, dtype=torch.int64, device=scores.device)] = scores
    return found if isinstance(outputs, int) else list(torch.split(found, widths, 1))
