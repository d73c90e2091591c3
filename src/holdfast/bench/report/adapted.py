"""The front of an adaptation: what each candidate kept of the old against what it learned of the new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holdfast.bench.report.document import box
from holdfast.bench.report.svg import Scale, axes, el, figure, marker, span, text, ticks

__all__ = ["front_section"]

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


def front_section(
    points: Sequence[Candidate], curve: Sequence[Candidate], chosen: Candidate, before: float | None, unit: str
) -> str:
    """The section's markup.

    Args:
        points: the candidates.
        curve: the line from before to after.
        chosen: which was chosen.
        before: what the model before has on the old data; ``None`` without any.
        unit: of all these, higher is better.
    """
    note = el(
        "p", text(f"On validation data, {unit}. Chosen: {chosen.name}. The test parts below were read once, by it.")
    )
    rows = [
        (point.name, "" if point.kept is None else f"{point.kept:.2f}", f"{point.learned:.2f}")
        for point in [*points, *(each for each in curve if each.name == chosen.name)]
    ]  # fmt: skip
    table = box(("Candidate", "Old kept", "New learned"), rows, "Candidates")
    if before is None or any(point.kept is None for point in points):
        return note + table
    return (
        note
        + el("div", el("figure", _chart(points, curve, chosen, before, unit), _caption()), class_="cards")
        + el("h3", "All candidates")
        + table
    )


def _caption() -> str:
    words = (
        "Ring: chosen. Broken line: what the model before keeps. Thin line: weights between before and after "
        "(WiSE-FT), which cost no training."
    )
    return el("figcaption", words)


def _chart(points: Sequence[Candidate], curve: Sequence[Candidate], chosen: Candidate, before: float, unit: str) -> str:
    every = [*points, *curve]
    kept = [point.kept for point in every if point.kept is not None]
    x = Scale(*span([*kept, before], pad=0.08, least=1e-6), 44.0, _WIDTH - 14.0)
    y = Scale(*span([point.learned for point in every], pad=0.1, least=1e-6), _HEIGHT - 46.0, 34.0)
    parts = [axes(x, y, f"old kept ({unit})", f"new learned ({unit})", x_ticks=ticks(x.low, x.high, 5))]
    parts.append(el("line", x1=x(before), x2=x(before), y1=y.start, y2=y.end, class_="axis", stroke_dasharray="4 3"))
    line = [(x(point.kept), y(point.learned)) for point in curve if point.kept is not None]
    if len(line) > 1:
        path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in line)
        parts.append(el("g", el("path", d=path, class_="line faint"), class_="floor"))
    named: list[tuple[float, float]] = []
    for number, point in sorted(enumerate(points), key=lambda pair: pair[1].name != chosen.name):
        assert point.kept is not None
        place = x(point.kept), y(point.learned)
        clear = all(abs(place[0] - a) > 60 or abs(place[1] - b) > 12 for a, b in named)  # the table names them all
        named += [place] if clear else []
        parts.append(_point(x, y, point, number, named=clear))
    if chosen.kept is not None:
        parts.append(
            el(
                "circle",
                cx=x(chosen.kept),
                cy=y(chosen.learned),
                r=10.0,
                fill="none",
                stroke="currentColor",
                class_="axis",
            )
        )
    spoken = "; ".join(f"{point.name} old {point.kept:.2f} new {point.learned:.2f}" for point in points)
    title = "What was kept against what was learned"
    return figure("front", _WIDTH, _HEIGHT, title, f"{title}: {spoken}.", *parts)


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
