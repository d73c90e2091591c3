"""Who is told how a run is getting on."""

from __future__ import annotations

from typing import Protocol

from holdfast.bench.records.record import RunConfig

__all__ = ["Observer", "Silent"]


class Observer(Protocol):
    """Who wants to know how a run is getting on."""

    def begin(self, config: RunConfig, steps: int) -> None:
        """A run begins (or goes on) that has this many training steps, pruning rounds left out."""
        ...

    def advance(self, steps: int) -> None:
        """So many more steps are done."""
        ...

    def measured(self, task: int, step: int, loss: float, penalty_share: float | None) -> None:
        """A point of the curves: the task that is learned, the step from 1, and what was measured there."""
        ...

    def tested(self, task: int, accuracies: list[float]) -> None:
        """A task was learned and all were tested (or validated)."""
        ...


class Silent:
    """Nobody wants to know."""

    def begin(self, config: RunConfig, steps: int) -> None:
        """Say nothing."""

    def advance(self, steps: int) -> None:
        """Say nothing."""

    def measured(self, task: int, step: int, loss: float, penalty_share: float | None) -> None:
        """Say nothing."""

    def tested(self, task: int, accuracies: list[float]) -> None:
        """Say nothing."""
