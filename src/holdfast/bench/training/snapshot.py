"""A run caught in the middle: its place, what it has measured, and everything it needs in order to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from holdfast.bench.records.record import RunConfig

__all__ = ["Cursor", "Forgetful", "Keeper", "Ledger", "Snapshot"]


@dataclass
class Cursor:
    """The place in a run: what comes next."""

    session: int = 0
    round: int = 0
    epoch: int = 0
    batch: int = 0

    @property
    def between_sessions(self) -> bool:
        """Whether nothing of the session has happened yet."""
        return (self.round, self.epoch, self.batch) == (0, 0, 0)


@dataclass
class Ledger:
    """What a run has measured so far."""

    initial: list[float] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    by_class: list[list[float]] = field(default_factory=list)  # beside the matrix, where classes are told apart
    nats: dict[str, list[Any]] = field(  # of words, beside the accuracies
        default_factory=lambda: {"initial": [], "matrix": [], "validation": [], "divergence": []}
    )
    curves: dict[str, list[Any]] = field(
        default_factory=lambda: {"task": [], "step": [], "loss": [], "penalty_share": []}
    )
    diagnostics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    steps: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"training": 0.0, "consolidate": 0.0, "evaluate": 0.0, "total": 0.0}
    )
    step_seconds: list[float] = field(default_factory=list)
    peak_memory: int = 0
    epoch_loss: float | None = None  # of the latest epoch's last batch, its penalty included
    hits: list[bool] = field(default_factory=list)  # of first answers, in the order of the stream
    labels: list[int] = field(default_factory=list)


@dataclass
class Snapshot:
    """Everything that a run needs in order to go on as if it had never stopped."""

    cursor: Cursor
    ledger: Ledger
    learner: dict[str, Any]
    diagnosis: dict[str, Any]
    health: dict[str, Any]
    random_states: dict[str, Tensor]


class Keeper(Protocol):
    """Who keeps checkpoints of a run."""

    def load(self) -> Snapshot | None:
        """The last good checkpoint, if there is one."""
        ...

    def keep(self, take: Callable[[], Snapshot], *, must: bool) -> None:
        """Write a checkpoint if it is time for one, or without waiting for that at a place that ``must`` be kept."""
        ...

    def finish(self, learner: Callable[[], dict[str, Any]]) -> None:
        """The run came to its end: keep what is wanted of model and method as they are now."""
        ...

    def beforehand(self, config: RunConfig, learn: Callable[[Keeper], None]) -> dict[str, Tensor]:
        """The model's state at the end of another run, from which this one starts: as it was kept, or learned now.

        Args:
            config: of that run.
            learn: does it, and tells the keeper that it is given how it is getting on.
        """
        ...


class Forgetful:
    """Nobody keeps checkpoints."""

    def load(self) -> Snapshot | None:
        """There is none."""
        return None

    def keep(self, take: Callable[[], Snapshot], *, must: bool) -> None:
        """Write nothing."""

    def finish(self, learner: Callable[[], dict[str, Any]]) -> None:
        """Keep nothing."""

    def beforehand(self, config: RunConfig, learn: Callable[[Keeper], None]) -> dict[str, Tensor]:
        """Learn it each time."""
        caught = _Last()
        learn(caught)
        return caught.model


class _Last(Forgetful):
    """Keeps the model as it is at the end, for as long as the process lives."""

    def __init__(self) -> None:
        self.model: dict[str, Tensor] = {}

    def finish(self, learner: Callable[[], dict[str, Any]]) -> None:
        """Keep the model."""
        self.model = learner()["model"]
