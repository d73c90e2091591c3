"""Several groups side by side: the same methods, one panel per group, on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.bench.report.charts import Series
from holdfast.bench.report.columns import METRICS, Estimate
from holdfast.bench.report.summary import Group, SummaryRow
from holdfast.bench.report.svg import Drawing, Scale, el, marker, text
from holdfast.bench.report.tables import format_estimate

__all__ = ["ROLES", "in_order", "side_by_side"]

_ACCURACY = next(metric for metric in METRICS if metric.key == "average_accuracy")
_NAMES, _PANEL, _NUMBER, _GAP, _PITCH, _TOP = 126.0, 94.0, 44.0, 20.0, 31.0, 92.0

ROLES = {"floor": "no method", "ceiling": "all tasks at once"}
"""What a bound is, in words."""


def in_order(groups: Sequence[Group]) -> list[SummaryRow]:
    """One row per label: what learns all tasks at once, the methods with the best first, what uses no method.

    Args:
        groups: a label need not be in all of them; methods are ordered by their mean over those that have it.
    """
    first: dict[str, SummaryRow] = {}
    means: dict[str, list[float]] = {}
    for row in (row for group in groups for row in group.rows):
        estimate = row.estimates[_ACCURACY.key]
        if estimate is not None:
            first.setdefault(row.label, row)
            means.setdefault(row.label, []).append(estimate.mean)
    place = {"ceiling": 0, None: 1, "floor": 2}
    return sorted(
        first.values(),
        key=lambda row: (place[row.bound], -sum(means[row.label]) / len(means[row.label]), row.label),
    )


def side_by_side(panels: Sequence[tuple[str, str, Group]], series: Mapping[str, Series]) -> Drawing:
    """Average accuracy of the same methods in several groups, from 0 to 100 %, with each one's floor and ceiling.

    Args:
        panels: heading, a line below it, and the group.
        series: how each label looks.

    Returns:
        A drawing with a line per label and a panel per group.
    """
    rows = in_order([group for _, _, group in panels])
    bottom = _TOP + _PITCH * len(rows)
    title = "Average accuracy over all tasks at the end, %"
    parts = [el("text", text(title), x=0.0, y=14.0, class_="label")]
    for number, row in enumerate(rows):
        parts += _named(row, _TOP + _PITCH * (number + 0.5))
    spoken = []
    for k, (heading, below, group) in enumerate(panels):
        left = _NAMES + k * (_PANEL + _NUMBER + _GAP)
        x = Scale(0.0, 100.0, left, left + _PANEL)
        parts.append(el("text", text(heading), x=left, y=48.0, class_="heading"))
        parts.append(el("text", text(below), x=left, y=65.0, class_="tick"))
        parts += _panel(x, rows, group, series, bottom)
        estimates = {row.label: row.estimates[_ACCURACY.key] for row in group.rows}
        said = "; ".join(f"{label} {format_estimate(each, _ACCURACY)}" for label, each in estimates.items() if each)
        spoken.append(f"{heading} ({below}): {said}")
    width = _NAMES + len(panels) * (_PANEL + _NUMBER + _GAP) - _GAP
    note = "Shaded: what there is to win, from no method at its best to all tasks at once. Lines: 95 % intervals."
    parts.append(el("text", text(note), x=0.0, y=bottom + 42, class_="tick"))
    return Drawing(width, bottom + 46, title, ". ".join(spoken) + ".", (el("g", *parts, class_="panels"),))


def _named(row: SummaryRow, y: float) -> list[str]:
    """A label, and what it is where it is no method to be compared."""
    role = ROLES[row.bound] if row.bound else "control" if row.control else ""
    name = row.label if len(row.label) <= 18 else row.label[:17] + "…"
    found = [el("text", text(name), x=0.0, y=y + (0.0 if role else 4.0), class_="name")]
    return [*found, el("text", text(role), x=0.0, y=y + 12.0, class_="role")] if role else found


def _panel(
    x: Scale, rows: Sequence[SummaryRow], group: Group, series: Mapping[str, Series], bottom: float
) -> list[str]:
    """Grid, bounds and marks of one group."""
    parts = []
    for tick in (0, 50, 100):
        parts.append(el("line", x1=x(tick), x2=x(tick), y1=_TOP - 12, y2=bottom, class_="grid"))
        parts.append(el("text", f"{tick}", x=x(tick), y=bottom + 15, class_="tick", text_anchor="middle"))
    known = {row.label: estimate for row in group.rows if (estimate := row.estimates[_ACCURACY.key]) is not None}
    bounds = {row.bound: known[row.label].mean for row in reversed(group.rows) if row.bound and row.label in known}
    if len(bounds) == 2:  # the best floor: what there is to win lies between it and the ceiling
        low, high = (min(max(100 * bounds[bound], 0.0), 100.0) for bound in ("floor", "ceiling"))
        if low < high:
            parts.append(
                el("rect", x=x(low), y=_TOP - 12, width=x(high) - x(low), height=bottom - _TOP + 12, class_="gain")
            )
    for number, row in enumerate(rows):
        y = _TOP + _PITCH * (number + 0.5)
        estimate = known.get(row.label)
        if estimate is None:
            parts.append(el("text", "–", x=x.end + _NUMBER, y=y + 4, class_="tick", text_anchor="end"))
            continue
        parts.append(_mark(x, y, row, estimate, series[row.label]))
        mean = f"{100 * estimate.mean:.1f}"
        parts.append(el("text", mean, x=x.end + _NUMBER, y=y + 4, class_="value", text_anchor="end"))
    return parts


def _mark(x: Scale, y: float, row: SummaryRow, estimate: Estimate, look: Series) -> str:
    marks = [el("title", text(f"{row.label}: {format_estimate(estimate, _ACCURACY)} %"))]
    if estimate.half is not None:
        ends = [min(max(x(100 * (estimate.mean + sign * estimate.half)), x.start), x.end) for sign in (-1, 1)]
        marks.append(el("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_="interval"))
    marks.append(marker(look.shape, x(100 * estimate.mean), y, 5.0))
    return el("g", *marks, class_=look.classes)
