"""The front of an adaptation: what each candidate kept of the old against what it learned of the new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.bench.report.document import box
from holdfast.bench.report.svg import Scale, axes, el, figure, marker, span, text, ticks

__all__ = ["Front", "front_section"]

_WIDTH, _HEIGHT = 460.0, 330.0


class Candidate(Protocol):
    """What is shown of a candidate."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def kept(self) -> float | None:
        """On the old data."""
        ...

    @property
    def learned(self) -> float:
        """On the new data."""
        ...


@dataclass(frozen=True)
class Front:
    """What was tried, on validation data.

    Attributes:
        points: the candidates.
        curve: the line from before to after; empty where nothing was trained.
        best: those that no other beats in both, the one that kept most first.
        chosen: which was chosen.
        before: what the model before has on the old data; ``None`` without any.
        least: what had to be kept of the old, if that was asked for.
        holds: whether what was chosen kept that.
        unit: of all these, higher is better.
        figure: what ``shown`` gives.
        shown: a value as readers know it.
    """

    points: Sequence[Candidate]
    curve: Sequence[Candidate]
    best: Sequence[Candidate]
    chosen: Candidate
    before: float | None
    least: float | None
    holds: bool
    unit: str
    figure: str
    shown: Callable[[float | None], str]


def front_section(found: Front) -> str:
    """The section's markup."""
    note = el(
        "p", text(f"On validation data, {found.figure}. {_choice(found)} The test parts below were read once, by it.")
    )
    listed = [*found.points, *(each for each in found.curve if each in found.best or each.name == found.chosen.name)]
    rows = [
        (point.name, found.shown(point.kept), found.shown(point.learned), _standing(found, point)) for point in listed
    ]
    heads = ("Candidate", "Old kept", "New learned", "")
    if found.before is None:
        table = box((heads[0], heads[2], heads[3]), [(name, new, mark) for name, _, new, mark in rows], "Candidates")
        return note + table
    rows.insert(0, ("before", found.shown(found.before), "", ""))
    drawn = el("div", el("figure", _chart(found, found.before), _caption(found)), class_="cards single")
    return note + drawn + el("h3", "All candidates") + box(heads, rows, "Candidates")


def _choice(found: Front) -> str:
    """What was chosen, and why, in a sentence."""
    if found.before is None:
        return f"Chosen: {found.chosen.name}, which learned most; what each lost shows on old data alone."
    if found.least is None:
        return f"Chosen: {found.chosen.name}, the best mean of old and new."
    article = "an" if found.figure[0] in "aeiou" else "a"
    limit = f"{article} {found.figure.split(',')[0]} of {found.shown(found.least)} on the old data"
    if not found.holds:
        return f"No candidate kept {limit}, as was asked. Chosen: {found.chosen.name}, which lost least."
    return f"Chosen: {found.chosen.name}, which learned most among those that kept {limit}."


def _standing(found: Front, point: Candidate) -> str:
    marks = ["chosen"] * (point.name == found.chosen.name) + ["front"] * (point in found.best)
    return ", ".join(marks)


def _caption(found: Front) -> str:
    words = "Ring: chosen. Thick line: the front, which no candidate beats in both. Broken line: what the model before "
    words += "keeps" if found.least is None else "keeps, and left of it what had to be kept"
    if found.curve:
        words += ". Thin line: weights between before and after (WiSE-FT), which cost no training"
    return el("figcaption", f"{words}.")


def _chart(found: Front, before: float) -> str:
    every = [*found.points, *found.curve]
    kept = [point.kept for point in every if point.kept is not None]
    limits = [before] if found.least is None else [before, found.least]
    x = Scale(*span([*kept, *limits], pad=0.08, least=1e-6), 44.0, _WIDTH - 14.0)
    y = Scale(*span([point.learned for point in every], pad=0.1, least=1e-6), _HEIGHT - 46.0, 34.0)
    unit = found.unit
    parts = [axes(x, y, f"old kept ({unit})", f"new learned ({unit})", x_ticks=ticks(x.low, x.high, 5))]
    for limit in limits:
        parts.append(el("line", x1=x(limit), x2=x(limit), y1=y.start, y2=y.end, class_="axis", stroke_dasharray="4 3"))
    parts += [_line(x, y, found.curve, "line faint", "floor"), _line(x, y, found.best, "line", "ceiling")]
    named: list[tuple[float, float]] = []
    for number, point in sorted(enumerate(found.points), key=lambda pair: pair[1].name != found.chosen.name):
        assert point.kept is not None
        place = x(point.kept), y(point.learned)
        clear = all(abs(place[0] - a) > 60 or abs(place[1] - b) > 12 for a, b in named)  # the table names them all
        named += [place] if clear else []
        parts.append(_point(x, y, point, number, named=clear))
    if found.chosen.kept is not None:
        ring = x(found.chosen.kept), y(found.chosen.learned)
        parts.append(el("circle", cx=ring[0], cy=ring[1], r=10.0, fill="none", stroke="currentColor", class_="axis"))
    spoken = "; ".join(f"{point.name} old {point.kept:.2f} new {point.learned:.2f}" for point in found.points)
    title = "What was kept against what was learned"
    return figure("front", _WIDTH, _HEIGHT, title, f"{title}: {spoken}.", *parts)


def _line(x: Scale, y: Scale, points: Sequence[Candidate], drawn: str, colour: str) -> str:
    """A line through some points; nothing through one."""
    places = [(x(point.kept), y(point.learned)) for point in points if point.kept is not None]
    if len(places) < 2:
        return ""
    path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in places)
    return el("g", el("path", d=path, class_=drawn), class_=colour)


def _point(x: Scale, y: Scale, point: Candidate, number: int, *, named: bool) -> str:
    assert point.kept is not None
    at, high = x(point.kept), y(point.learned)
    left = at > (x.start + x.end) / 2
    name = el(
        "text", text(point.name), x=at - 9 if left else at + 9, y=high + 4, class_="name",
        text_anchor="end" if left else "start",
    )  # fmt: skip
    title = el("title", text(f"{point.name}: old {point.kept:.2f}, new {point.learned:.2f}"))
    return el("g", title, marker(number, at, high, 5.0), name if named else "", class_=f"s c{number % 8}")
