"""Test, then train: every training sample is answered when it is first met, before it is learned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from holdfast.bench.data.tasks import Task
from holdfast.bench.records.first_answers import FirstAnswers
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Part, Session
from holdfast.bench.training.snapshot import Cursor, Ledger
from holdfast.objectives import SharedForward
from holdfast.prequential import Prequential

__all__ = ["Streaming"]

_POINTS = 200


class Streaming:
    """A run's prequential evaluation; it changes nothing about the run.

    A model answers each batch of the first epoch of a task, in evaluation mode, before the step that learns it. For a
    head, which is told a task at once, a copy answers and learns the same batches one by one.

    Args:
        learner: of the run.
        window: of the sliding accuracy, in samples; ``None``: nothing is answered.
    """

    window: int | None

    def __init__(self, learner: Learner, window: int | None) -> None:
        # All tasks at once are no stream: what joint training meets first says nothing about what comes later.
        self.window = None if learner.entry.all_at_once else window
        self._learner = learner

    def meet(self, parts: list[Part], cursor: Cursor, ledger: Ledger) -> None:
        """Answer a batch that is about to be learned, if its samples were not met before."""
        if self.window is None or (cursor.round, cursor.epoch) != (0, 0):
            return
        model = self._learner.model
        model.eval()
        with torch.no_grad():
            _note(ledger, ((part.task, model(part.inputs), part.targets) for part in parts))
        model.train()

    def pass_over(self, session: Session, ledger: Ledger) -> None:
        """Answer a task that a head is about to be told."""
        closed, config = self._learner.closed, self._learner.config
        if self.window is None or closed is None:
            return
        task, order = session.last, session.order(config, 0, 0)
        answered = closed.streamed(task, torch.split(order, config.batch_size))
        _note(ledger, ((task, outputs, targets) for outputs, targets in answered))

    def found(self, ledger: Ledger) -> FirstAnswers | None:
        """What has been answered so far."""
        if self.window is None or not ledger.hits:
            return None
        whole = Prequential(torch.tensor(ledger.hits), torch.tensor(ledger.labels), self.window)
        count = len(ledger.hits)
        places = sorted({max(1, round(count * point / _POINTS)) for point in range(1, _POINTS + 1)})
        sliding, baseline = whole.sliding, whole.sliding_baseline
        return FirstAnswers(
            samples=count,
            accuracy=whole.accuracy,
            baseline=whole.baseline,
            worst=whole.worst,
            at=places,
            sliding=[sliding[place - 1] for place in places],
            sliding_baseline=[baseline[place - 1] for place in places],
        )


def _note(ledger: Ledger, answered: Iterable[tuple[Task, Any, Tensor]]) -> None:
    for task, outputs, targets in answered:
        objective = task.objective
        assert isinstance(objective, SharedForward)
        best, column = objective.select(outputs).max(1)
        ledger.hits += ((column == targets) & (best > -torch.inf)).tolist()  # a head that knows nothing answers nothing
        ledger.labels += targets.tolist()
