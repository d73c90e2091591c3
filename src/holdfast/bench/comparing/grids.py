"""Choosing by grids that go on where they end: a best candidate that is the smallest or largest tried is not believed.

A baseline whose strength lies at the end of its grid may be better beyond it, and a comparison with it is not fair. So
as long as the best candidate is at an end, the next one at the same ratio is tried too, :data:`LIMIT` times at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from holdfast.bench.comparing import compare
from holdfast.bench.comparing.compare import Chosen, Comparison
from holdfast.bench.jobs.handing_out import Executor
from holdfast.bench.jobs.job import Job, Monitor, Store
from holdfast.bench.records.record import Record
from holdfast.errors import ConfigurationError
from holdfast.registry import Value

__all__ = ["LIMIT", "beyond", "reach", "settle"]

LIMIT = 3
"""How many candidates are tried beyond the ends of a grid."""


def beyond(values: Sequence[Value], best: Value) -> float | None:
    """The next candidate, to one significant digit, where the best is at an end of the grid.

    Args:
        values: the candidates.
        best: one of them.

    Returns:
        Its value; ``None`` where the best is inside, or the grid is not at least two positive numbers.

    Example:
        >>> beyond([1.0, 0.3, 3.0], 3.0), beyond([1.0, 0.3, 3.0], 0.3), beyond([1.0, 0.3, 3.0], 1.0)
        (9.0, 0.09, None)
    """
    numbers = sorted(float(value) for value in values if isinstance(value, float) and value > 0)
    if len(numbers) < max(2, len(values)):
        return None
    for end, neighbour in ((numbers[-1], numbers[-2]), (numbers[0], numbers[1])):
        more = float(f"{end * end / neighbour:.0e}")
        if best == end and not numbers[0] <= more <= numbers[-1]:
            return more
    return None


def reach(values: Sequence[Value]) -> list[Value]:
    """Every value that a grid can choose: its candidates, and those beyond either end.

    Example:
        >>> sorted(reach([1.0, 10.0]))
        [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0]
    """
    found = list(values)
    numbers = [value for value in values if isinstance(value, float)]
    for end in (max, min) if len(numbers) == len(values) > 0 else ():
        grown = list(numbers)
        while len(grown) < len(numbers) + LIMIT and (more := beyond(grown, end(grown))) is not None:
            grown.append(more)
        found += grown[len(numbers) :]
    return found


def _size(value: Value) -> float:
    return value if isinstance(value, float) else 0.0


class _Grid:
    """One comparison's grid, its candidates so far and their records."""

    def __init__(self, comparison: Comparison) -> None:
        (self.method,) = comparison.methods
        self.comparison = comparison
        self.jobs: list[Job] = []
        self.records: list[Record] = []
        self.next: list[Job] = compare.candidates(comparison)[self.method]

    def take(self, records: Sequence[Record]) -> None:
        """The candidates that were asked for are done."""
        self.jobs, self.records, self.next = [*self.jobs, *self.next], [*self.records, *records], []

    def chosen(self) -> Chosen:
        """The best so far."""
        return compare.choose(self.jobs, self.records, self.comparison.grids[self.method])

    def grow(self) -> None:
        """Ask for one more candidate where the best is at an end, or as good as it, if the method takes such a value.

        On a plateau the larger end comes first: what does nothing yet may do more.
        """
        keys = list(self.comparison.grids[self.method])
        if len(keys) != 1:
            return
        (key,) = keys
        values = [job.config.hyperparameters[key].value for job in self.jobs]
        scores = [compare.score(record) for record in self.records]
        finished = [score for score in scores if score is not None]
        best = [value for value, score in zip(values, scores, strict=True) if finished and score == max(finished)]
        found = (beyond(values, value) for value in sorted(best, key=_size, reverse=True))
        more = next((value for value in found if value is not None), None)
        if more is None:
            return
        wider = dataclasses.replace(self.comparison, grids={self.method: {key: [str(more)]}})
        try:
            compare.check(wider)
        except ConfigurationError:
            return
        self.next = compare.candidates(wider)[self.method]


def settle(
    comparisons: Mapping[int, Comparison], executor: Executor, store: Store, monitor: Monitor, *, limit: int = LIMIT
) -> dict[int, Chosen]:
    """Choose by every grid, all of them round by round, so that an executor has as much to do at once as there is.

    Args:
        comparisons: key -> a comparison of one method that has a grid.
        executor: does the candidates.
        store: keeps their records.
        monitor: is told how it is getting on.
        limit: how many candidates beyond its ends a grid may try.

    Returns:
        Key -> hyperparameter -> the value, with every candidate and its score.
    """
    grids = {key: _Grid(comparison) for key, comparison in comparisons.items()}
    for left in range(limit, -1, -1):
        todo = [job for grid in grids.values() for job in grid.next]
        monitor.planned(len(todo))
        records = iter(compare.execute(todo, executor, store, monitor))
        for grid in grids.values():
            if grid.next:
                grid.take([next(records) for _ in grid.next])
                if left:
                    grid.grow()
    return {key: grid.chosen() for key, grid in grids.items()}
