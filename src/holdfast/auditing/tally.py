"""Answers, batch after batch, counted into what a data set's audit says; no answer is kept."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from holdfast.auditing.answers import Answers, Side, is_language, part_of
from holdfast.auditing.changes import Flips, clustered_interval, mcnemar, wilson_interval
from holdfast.auditing.record import Change, ClassChange, DataAudit, Measured, Risen, WorstFlip
from holdfast.errors import DataError
from holdfast.objectives import Classification

__all__ = ["AnswerTally", "LossTally"]

SHOWN = 20
"""How many of the worst are kept."""

_BINS = 15
_MOST_CLASSES = 1000

_SIDES = ("before", "after")

_T = TypeVar("_T")


class _Largest(Generic[_T]):
    """The few that are worst; of two as bad the earlier one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _T]] = []

    def add(self, value: float, place: int, item: _T) -> None:
        """Keep an item if its value is among the largest; ``place`` is its own, in order."""
        heapq.heappush(self._heap, (value, -place, item))
        if len(self._heap) > SHOWN:
            heapq.heappop(self._heap)

    def sorted(self) -> tuple[_T, ...]:
        """The largest first."""
        return tuple(entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2], reverse=True))


class LossTally:
    """The losses of both models, sample by sample."""

    samples: int

    def __init__(self) -> None:
        self.samples = 0
        self._counts: list[Tensor] = []
        self._losses: dict[str, list[Tensor]] = {side: [] for side in _SIDES}
        self._risen: _Largest[Risen] = _Largest()

    def add(self, before: Tensor, after: Tensor, counts: Tensor, names: list[str]) -> None:
        """One batch.

        Args:
            before: the sum of the model before's losses over each sample's parts, ``[B]``.
            after: the same of the model after, ``[B]``.
            counts: how many parts each sample has, ``[B]``.
            names: what the samples are called, B of them.
        """
        old, new, parts = (values.detach().double().cpu() for values in (before, after, counts))
        self._counts.append(parts)
        self._losses["before"].append(old)
        self._losses["after"].append(new)
        mean_old, mean_new = ((values / parts.clamp(min=1)).tolist() for values in (old, new))
        for place, (was, now) in enumerate(zip(mean_old, mean_new, strict=True)):
            if now > was:
                self._risen.add(now - was, self.samples + place, Risen(names[place], was, now))
        self.samples += len(parts)

    @property
    def risen(self) -> tuple[Risen, ...]:
        """The samples whose mean loss rose most, the worst first."""
        return self._risen.sorted()

    def change(self) -> Change | None:
        """Mean loss per part of both; ``None`` where one is not finite."""
        counts = torch.cat(self._counts)
        old, new = (torch.cat(self._losses[side]) for side in _SIDES)
        found = change_of(old, new, counts)
        return found if math.isfinite(found.difference.value) else None

    def perplexity(self) -> Change:
        """Exponential of the mean loss; intervals by the delta method, of the difference over the same samples."""
        counts = torch.cat(self._counts)
        old, new = (torch.cat(self._losses[side]) for side in _SIDES)
        before, after = (math.exp(float(losses.sum() / counts.sum())) for losses in (old, new))
        linear = (before * old, after * new, after * new - before * old)
        values = (before, after, after - before)
        halves = (clustered_interval(sums, counts)[1] for sums in linear)
        return Change(*(_measured(value, half) for value, half in zip(values, halves, strict=True)))

    def audit(self, name: str, objective: object) -> DataAudit:
        """What the losses alone say."""
        count = round(float(torch.cat(self._counts).sum()))
        kind = type(objective).__name__
        return DataAudit(name, kind, self.samples, "sample", count, self.change(), risen=self.risen)


class AnswerTally:
    """The answers of both models: right and wrong, sure and unsure, class by class."""

    losses: LossTally

    def __init__(self, objective: object, class_names: Mapping[int, str]) -> None:
        self.objective = objective
        self.class_names = class_names
        self.losses = LossTally()
        self._right: dict[str, list[Tensor]] = {side: [] for side in _SIDES}
        self._counts: list[Tensor] = []
        self._flips = torch.zeros(4, dtype=torch.int64)
        self._gaps = {side: torch.zeros(_BINS, dtype=torch.float64) for side in _SIDES}
        self._sums = {side: torch.zeros(2, dtype=torch.float64) for side in _SIDES}  # of confidence and Brier scores
        self._kl = 0.0
        self._classes = torch.zeros(3, 0, dtype=torch.int64)  # how many, right before, right after
        self._worst: _Largest[WorstFlip] = _Largest()

    @property
    def samples(self) -> int:
        """How many samples were seen."""
        return self.losses.samples

    def add(self, found: Answers, names: list[str]) -> None:
        """One batch; ``names`` are what its samples are called."""
        seen = self.losses.samples
        row, rows = found.row.cpu(), found.rows
        per_row = _per_row(torch.ones(len(row), dtype=torch.float64), row, rows)
        sides = {side: _on_cpu(getattr(found, side)) for side in _SIDES}
        target, kl = found.target.cpu(), found.kl.double().cpu()
        old, new = (_per_row(side.loss, row, rows) for side in sides.values())
        self.losses.add(old, new, per_row, names)
        self._counts.append(per_row)
        right = {side: answers.answer == target for side, answers in sides.items()}
        for side, answers in sides.items():
            self._right[side].append(_per_row(right[side].double(), row, rows))
            place = (answers.confidence * _BINS).long().clamp(max=_BINS - 1)
            self._gaps[side].index_add_(0, place, answers.confidence - right[side].double())
            self._sums[side] += torch.stack([answers.confidence.sum(), answers.brier.sum()])
        self._kl += float(kl.sum())
        was, now = right["before"], right["after"]
        moved = sides["before"].answer != sides["after"].answer
        self._flips += torch.stack(
            [(was & ~now).sum(), (~was & now).sum(), (was & now).sum(), (~was & ~now & moved).sum()]
        )
        self._count_classes(target, was, now, found.outputs)
        if isinstance(self.objective, Classification):
            self._note_worst(sides, target, (was & ~now).nonzero()[:, 0], row, names, seen)

    def _count_classes(self, target: Tensor, was: Tensor, now: Tensor, outputs: int) -> None:
        if part_of(self.objective) == "answer" or outputs > _MOST_CLASSES:
            return
        if outputs > self._classes.shape[1]:
            self._classes = torch.nn.functional.pad(self._classes, (0, outputs - self._classes.shape[1]))
        for place, counted in enumerate((target, target[was], target[now])):
            self._classes[place] += torch.bincount(counted, minlength=self._classes.shape[1])

    def _note_worst(
        self, sides: Mapping[str, Side], target: Tensor, flipped: Tensor, row: Tensor, names: list[str], seen: int
    ) -> None:
        old, new = sides["before"].right[flipped], sides["after"].right[flipped]
        order = (old - new).sort(descending=True, stable=True).indices[:SHOWN]
        for place in order.tolist():
            answer = int(flipped[place])
            sample = int(row[answer])
            worst = WorstFlip(
                names[sample], self._called(int(target[answer])), self._called(int(sides["after"].answer[answer])),
                float(old[place]), float(new[place]),
            )  # fmt: skip
            self._worst.add(worst.before - worst.after, seen + sample, worst)

    def _called(self, label: int) -> str:
        return self.class_names.get(label, str(label))

    def audit(self, name: str, objective: object) -> DataAudit:
        """All that the answers say.

        Raises:
            DataError: if there was none.
        """
        counts = torch.cat(self._counts)
        total = int(counts.sum())
        if not total:
            raise DataError(f"{name} has no sample with a target")
        found = Flips(total, *self._flips.tolist())
        loss = self.losses.change()
        single = isinstance(objective, Classification)
        old, new = (torch.cat(self._right[side]) for side in _SIDES)
        accuracy = change_of(old, new, counts)
        return DataAudit(
            name=name,
            objective=type(objective).__name__,
            samples=self.samples,
            part=part_of(objective),
            count=total,
            loss=loss,
            accuracy=_shares(accuracy, found) if single else accuracy,
            perplexity=self.losses.perplexity() if loss is not None and is_language(objective) else None,
            negative_flips=found.negative,
            positive_flips=found.positive,
            between_wrong=found.between_wrong,
            relative_negative_flips=found.relative_negative_rate,
            mcnemar=mcnemar(found.negative, found.positive) if single else None,
            calibration_error=self._both({side: float(self._gaps[side].abs().sum()) for side in _SIDES}, total),
            confidence=self._both({side: float(self._sums[side][0]) for side in _SIDES}, total),
            brier=self._both({side: float(self._sums[side][1]) for side in _SIDES}, total),
            kl=self._kl / total,
            classes=self._class_changes(),
            worst=self._worst.sorted(),
            risen=self.losses.risen,
        )

    @staticmethod
    def _both(sums: Mapping[str, float], total: int) -> tuple[float, float]:
        return sums["before"] / total, sums["after"] / total

    def _class_changes(self) -> tuple[ClassChange, ...]:
        changes = [
            ClassChange(
                label, self._called(label), count,
                was / count, wilson_interval(was, count), now / count, wilson_interval(now, count),
            )
            for label, (count, was, now) in enumerate(self._classes.T.tolist())
            if count
        ]  # fmt: skip
        return tuple(sorted(changes, key=lambda each: (each.change, each.label)))


def change_of(before: Tensor, after: Tensor, counts: Tensor) -> Change:
    """Two means over the parts of the same samples, and their difference, each with its interval.

    Args:
        before: sums over each sample's parts, ``[m]``.
        after: the same, ``[m]``.
        counts: parts, ``[m]``.
    """
    return Change(*(_measured(*clustered_interval(sums, counts)) for sums in (before, after, after - before)))


def _measured(value: float, half: float | None) -> Measured:
    return Measured(value, None, None) if half is None else Measured(value, value - half, value + half)


def _shares(change: Change, found: Flips) -> Change:
    """The accuracies with Wilson's intervals, which hold near 0 and 1, too."""
    right = (found.both_right + found.negative, found.both_right + found.positive)
    old, new = (Measured(number / found.count, *wilson_interval(number, found.count)) for number in right)
    return Change(old, new, change.difference)


def _per_row(values: Tensor, row: Tensor, rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.float64).index_add_(0, row, values.double())


def _on_cpu(side: Side) -> Side:
    return Side(
        side.answer.cpu(), *(getattr(side, name).double().cpu() for name in ("confidence", "right", "loss", "brier"))
    )
