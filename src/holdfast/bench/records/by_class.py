"""How each class fares, in records of streams whose classes have unequal numbers of training samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

__all__ = ["FREQUENCIES", "MEASURES", "ByClass", "Frequency", "frequency_groups", "measures"]

Frequency: TypeAlias = Literal["many", "medium", "few"]
FREQUENCIES: tuple[Frequency, ...] = ("many", "medium", "few")

MEASURES = (*FREQUENCIES, "last_session", "session_mean", "performance_drop")
"""What `measures` finds."""

_MANY, _FEW = 100, 20


def frequency_groups(counts: Sequence[int]) -> tuple[list[Frequency], bool]:
    """Which classes have many training samples, and which few.

    More than 100 are many, fewer than 20 are few. Where that leaves many or few without a class, as it does for large
    or very small data, the classes are divided into thirds by their counts instead, the larger ones first; equal counts
    stay in order, and what is left over is medium.

    Source: Alshammari et al. 2022, arXiv:2203.14197, sec. 4.1, the thresholds. Differs: the thirds are ours.

    Args:
        counts: training samples of each class.

    Returns:
        The group of each class, and whether they are thirds.

    Example:
        >>> frequency_groups([150, 60, 8])
        (['many', 'medium', 'few'], False)
        >>> frequency_groups([5000, 900, 50])
        (['many', 'medium', 'few'], True)
    """
    found: list[Frequency] = ["many" if n > _MANY else "few" if n < _FEW else "medium" for n in counts]
    if {"many", "few"} <= set(found):
        return found, False
    third = len(counts) // 3
    order = sorted(range(len(counts)), key=lambda k: -counts[k])
    for place, k in enumerate(order):
        found[k] = "many" if place < third else "few" if place >= len(counts) - third else "medium"
    return found, True


class ByClass(BaseModel):
    """What a run's record says of each class.

    ``samples[j]`` are the training samples of each class of task ``j``; ``accuracies[i]`` belongs to row ``i`` of the
    matrix, and has the test accuracy of each class, task after task.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    samples: list[list[int]]
    accuracies: list[list[Annotated[float, Field(ge=0.0, le=1.0)]]]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        classes = sum(map(len, self.samples))
        if any(len(row) != classes for row in self.accuracies):
            raise ValueError(f"by_class must have {classes} accuracies in every row, one for each class")
        return self

    @property
    def sessions(self) -> list[float]:
        r"""Accuracy after each task over all classes so far, each alike: :math:`\frac1{K_i} \sum_{k \le K_i} a_k`.

        A run that learned all tasks at once has one, over all classes.
        """
        found, seen = [], 0
        at_once = len(self.accuracies) < len(self.samples)
        for number, row in enumerate(self.accuracies):
            seen += len(self.samples[number])
            found.append(_mean(row if at_once else row[:seen]))
        return found

    @property
    def performance_drop(self) -> float | None:
        """The first session's accuracy less the last one's (PD); ``None`` where there is one session."""
        return self.sessions[0] - self.sessions[-1] if len(self.sessions) > 1 else None

    @property
    def frequencies(self) -> dict[Frequency, float]:
        """Accuracy at the end over the classes of each group that has any; see `frequency_groups`."""
        if not self.accuracies:
            return {}
        groups, _ = frequency_groups([count for counts in self.samples for count in counts])
        members = {which: [k for k, group in enumerate(groups) if group == which] for which in FREQUENCIES}
        return {which: _mean(self.accuracies[-1][k] for k in inside) for which, inside in members.items() if inside}

    @property
    def grouping(self) -> str:
        """What many and few mean here, in words."""
        counts = sorted((count for counts in self.samples for count in counts), reverse=True)
        groups, thirds = frequency_groups(counts)
        if not thirds:
            return f"many: more than {_MANY} training samples, few: fewer than {_FEW}"
        ends = [[n for n, group in zip(counts, groups, strict=True) if group == which] for which in ("many", "few")]
        (many, few) = ((f"{found[-1]} to {found[0]}" if found else "none") for found in ends)
        return f"thirds of the classes by training samples, many: {many}, few: {few}"


def measures(found: ByClass | None) -> dict[str, float | None]:
    """The numbers that tables show, `None` for what is not there: with one task there are no sessions."""
    numbers: dict[str, float | None] = dict.fromkeys(MEASURES)
    if found is None:
        return numbers
    numbers |= {which: value for which, value in found.frequencies.items()}
    if len(found.samples) > 1:
        numbers["last_session"] = found.sessions[-1]
    if found.performance_drop is not None:
        numbers |= {"session_mean": _mean(found.sessions), "performance_drop": found.performance_drop}
    return numbers


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)
