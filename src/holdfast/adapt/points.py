"""What each candidate kept and learned, on validation data, and which of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from holdfast.adapt.opened import Kind, Opened
from holdfast.auditing.answers import has_answers
from holdfast.importance.untouched import untouched
from holdfast.objectives import Objective, count
from holdfast.objectives.positions import Positions

__all__ = ["Point", "choose", "front", "least", "measured", "shown"]


@dataclass(frozen=True)
class Point:
    """A candidate on validation data.

    Attributes:
        name: of the candidate.
        method: its method.
        settings: what differs from the defaults.
        kept: on the old data: accuracy in per cent, of a language model minus the loss in nats; ``None`` without any.
        learned: the same on the new data.
        weight: on the line from before to after, where it is a point on one; else 1.
        seconds: what training took.
    """

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: float | None = None
    learned: float = math.nan
    weight: float = 1.0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measured(opened: Opened, objective: Objective, batches: Iterable[Any]) -> float:
    """How well a model does: accuracy in per cent, or where its classes are words, minus the loss in nats.

    Args:
        opened: the model; left as it was.
        objective: what a batch means.
        batches: with labels.
    """
    right, total, losses = 0.0, 0, 0.0
    by_words = opened.kind == "language"
    with untouched(opened.model, ()), torch.no_grad():
        for batch in batches:
            outputs = objective.outputs(opened.model, batch)
            total += count(objective, batch, outputs)
            if by_words:
                losses += float(objective.losses(outputs, batch).double().sum())
            else:
                assert isinstance(objective, Positions) and has_answers(objective)
                right += float((outputs.argmax(-1) == batch[1]).sum())
    return -losses / max(total, 1) if by_words else 100 * right / max(total, 1)


def shown(value: float | None, kind: Kind) -> str:
    """What was measured as readers know it: accuracy in per cent, or of a language model its perplexity."""
    if value is None:
        return ""
    return f"{math.exp(-value):.4g}" if kind == "language" else f"{value:.2f}"


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both, the one that kept most first."""
    known = [point for point in points if point.kept is not None]
    best: list[Point] = []
    for point in sorted(known, key=lambda p: (-_kept(p), -p.learned)):
        if not best or point.learned > best[-1].learned:
            best.append(point)
    return best


def choose(points: Sequence[Point], before: float | None, hold: float | None) -> tuple[Point, bool]:
    """The candidate to write, and whether it holds what was asked.

    Without old data: what learned most. With: what has the best mean of old and new; with ``hold``, what learned most
    among those that lost at most so much of the old (points of accuracy, or per cent of the loss), and if none did, the
    one that lost least.

    Args:
        points: at least one.
        before: what the model before had on the old data.
        hold: how much may be lost.
    """
    if before is None:
        return max(points, key=lambda p: p.learned), True
    if hold is None:
        return max(points, key=lambda p: (_kept(p) + p.learned, p.learned)), True
    within = [point for point in points if lost(point, before) <= hold + 1e-9]
    if within:
        return max(within, key=lambda p: (p.learned, _kept(p))), True
    return max(points, key=lambda p: (_kept(p), p.learned)), False


def least(before: float | None, hold: float | None) -> float | None:
    """What has to be kept of the old, where that was asked for."""
    if before is None or hold is None:
        return None
    return before - hold if before >= 0 else before * (1 + hold / 100)


def lost(point: Point, before: float) -> float:
    """What was lost of the old: points of accuracy, or per cent by which the loss rose."""
    gone = before - _kept(point)
    return gone if before >= 0 else 100 * gone / -before


def _kept(point: Point) -> float:
    return -math.inf if point.kept is None else point.kept
