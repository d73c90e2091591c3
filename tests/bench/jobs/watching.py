"""A monitor for tests. It does not stand beside what other processes must find, for it needs more than they do."""

from __future__ import annotations

from typing import Any

from holdfast.bench.jobs.job import Silent
from tests.bench.jobs.workers import number_of


class Watching(Silent):
    """A monitor that remembers what it was told."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended: list[tuple[int, bool]] = []

    def planned(self, runs: int) -> None:
        self.runs += runs

    def ends(self, job: Any, record: Any, *, kept: bool) -> None:
        self.ended.append((number_of(job), kept))
