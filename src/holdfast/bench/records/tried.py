"""What a grid of numbers tried, as a record has it, and whether the best lies at an end of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from holdfast.bench.records.choice import Candidate
from holdfast.bench.records.record import Record

__all__ = ["Tried", "tried"]


@dataclass(frozen=True)
class Tried:
    """A grid of one hyperparameter: the candidates from small to large, and each one's validation accuracy in percent.

    A candidate whose run failed has -1.
    """

    name: str
    chosen: float
    scores: Mapping[float, float]

    @property
    def edge(self) -> str:
        """``largest`` or ``smallest`` where the chosen value is that: a better one may lie beyond; else empty."""
        if len(self.scores) < 2:
            return ""
        return {min(self.scores): "smallest", max(self.scores): "largest"}.get(self.chosen, "")


def tried(record: Record) -> Tried | None:
    """What a grid tried, as the record has it; ``None`` unless one hyperparameter had a grid of numbers."""
    grids = [(name, value) for name, value in record.config.hyperparameters.items() if value.source == "grid"]
    if len(grids) != 1:
        return None
    ((name, found),) = grids
    if isinstance(found.value, bool | str | None):
        return None
    scores = dict(_numbers(name, found.choice.candidates if found.choice is not None else ()))
    return Tried(name, float(found.value), dict(sorted(scores.items())))


def _numbers(name: str, candidates: Iterable[Candidate]) -> Iterable[tuple[float, float]]:
    """The candidates that are numbers, with their scores in percent to the hundredth."""
    for each in candidates:
        value = each.values[name]
        if isinstance(value, int | float):
            yield float(value), -1.0 if each.score is None else round(100 * each.score, 2)
