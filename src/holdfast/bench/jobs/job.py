"""What is to be done, who watches it, and where its result is kept: the words that all executors share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast.bench.records.record import Record, RunConfig, row_name
from holdfast.bench.training import observer
from holdfast.bench.training.observer import Observer
from holdfast.bench.training.snapshot import Keeper

__all__ = ["Job", "Monitor", "Silent", "Store"]


@dataclass(frozen=True)
class Job:
    """One run, independent of every other: what any executor needs in order to do it anywhere.

    ``read_test`` is false for a grid's candidates; ``label`` says which candidate.
    """

    config: RunConfig
    read_test: bool = True
    command: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        """The job in words."""
        config = self.config
        return f"{row_name(config)}, seed {config.seed}" + (f", trying {self.label}" if self.label else "")


class Monitor(Observer, Protocol):
    """Who wants to know how a comparison is getting on."""

    def planned(self, runs: int) -> None:
        """So many more runs are to come."""
        ...

    def starts(self, job: Job) -> None:
        """A run begins."""
        ...

    def ends(self, job: Job, record: Record, *, kept: bool) -> None:
        """A run has ended, or its record was ``kept`` from before."""
        ...


class Silent(observer.Silent):
    """Nobody wants to know how a comparison is getting on, either."""

    def planned(self, runs: int) -> None:
        """Say nothing."""

    def starts(self, job: Job) -> None:
        """Say nothing."""

    def ends(self, job: Job, record: Record, *, kept: bool) -> None:
        """Say nothing."""


class Store(Protocol):
    """Where records are kept as they come."""

    def find(self, job: Job) -> Record | None:
        """The finished record of exactly this job, if there is one."""
        ...

    def keep(self, job: Job, record: Record) -> None:
        """Write a record down."""
        ...

    def keeper(self, job: Job) -> Keeper | None:
        """Who keeps the checkpoints of a job, if anyone does."""
        ...
