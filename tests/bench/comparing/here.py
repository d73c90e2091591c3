"""A comparison, run in this process."""

from __future__ import annotations

from holdfast.bench.comparing import compare
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.jobs import work
from holdfast.bench.jobs.handing_out import Local
from holdfast.bench.jobs.job import Monitor, Store
from holdfast.bench.records.record import Record


def run_here(comparison: Comparison, store: Store, monitor: Monitor) -> list[Record]:
    return compare.run(comparison, store, monitor, executor=Local(work.here(store, monitor)))
