"""Charts of the summary: intervals of one metric, and one metric against another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.bench.report.columns import METRICS, Estimate, Metric, PublishedValue
from holdfast.bench.report.summary import Group, SummaryRow
from holdfast.bench.report.svg import Drawing, LogScale, Scale, axes, el, marker, span, text, ticks
from holdfast.bench.report.tables import format_estimate

__all__ = ["Series", "drawn_forest", "drawn_scatter", "forest", "legend", "scatter", "series_of", "swatch"]

_METRIC = {metric.key: metric for metric in METRICS}
_COLOURS = 8
_WIDTH = 360.0


@dataclass(frozen=True)
class Series:
    """How one label looks everywhere on the page: a slot in the palette, a shape and a dash."""

    index: int
    colour: str
    shape: int
    dash: str | None

    @property
    def classes(self) -> str:
        """Classes of its group: ``s`` for any series, ``m<k>`` for this one, and its colour."""
        return f"s m{self.index} {self.colour}"


def series_of(groups: Iterable[Group]) -> dict[str, Series]:
    """One look per label over the whole page, and for the rows of a front the same.

    The bounds are neutral: colour is for what is compared.
    """
    found: dict[str, Series] = {}
    looks: dict[str, Series] = {}  # of a front, or of a row that belongs to none
    used = 0
    for row in (row for group in groups for row in group.rows):
        name = row.front or row.label
        if name not in looks and row.bound:
            floor = row.bound == "floor"
            looks[name] = Series(len(looks), "floor" if floor else "ceiling", 0, "6 4" if floor else "1.5 3.5")
        elif name not in looks:
            dash = ("", "7 3", "2 2")[used // _COLOURS % 3] or None
            looks[name] = Series(len(looks), f"c{used % _COLOURS}", 1 + used % 6, dash)
            used += 1
        found.setdefault(row.label, looks[name])
    return found


def legend(identity: str, group: Group, series: dict[str, Series]) -> str:
    """The key to all charts of the section; choosing a method, or a front, fades the others, without a script."""
    name = f"{identity}-pick"
    entries = [el("label", el("input", type="radio", name=name, value="all", checked="checked"), "All")]
    for label, look in {row.front or row.label: series[row.label] for row in group.rows}.items():
        choice = el("input", type="radio", name=name, value=look.index)
        entries.append(el("label", choice, swatch(look), text(label)))
    return el("fieldset", el("legend", "Highlight"), el("div", *entries), class_="legend")


def swatch(series: Series) -> str:
    """The mark and the line of a series, for a legend."""
    line = el("line", x1=1.0, x2=25.0, y1=7.0, y2=7.0, stroke_dasharray=series.dash, class_="line")
    mark = marker(series.shape, 13.0, 7.0, 4.2)
    drawing = el("g", line, mark, class_=series.colour)
    return el("svg", drawing, viewBox="0 0 26 14", class_="swatch", aria_hidden="true")


def forest(
    identity: str, group: Group, key: str, series: dict[str, Series], published: Sequence[PublishedValue] = ()
) -> str:
    """One metric of every method, as a part of a page; an empty string where no method has the metric."""
    found = drawn_forest(group, key, series, published)
    return "" if found is None else found.inline(identity)


def drawn_forest(
    group: Group,
    key: str,
    series: dict[str, Series],
    published: Sequence[PublishedValue] = (),
    *,
    width: float = _WIDTH,
    names: float = 112.0,
    key_to_marks: bool = False,
) -> Drawing | None:
    """One metric of every method: a dot per seed, the mean, the 95 % interval, and published values as rings.

    Args:
        group: the methods.
        key: of the metric.
        series: their looks.
        published: what others reported.
        width: of the drawing.
        names: how much of it the names have; longer ones stand above their rows.
        key_to_marks: whether the drawing itself says what its marks are.

    Returns:
        The drawing; ``None`` where no method has the metric.
    """
    metric = _METRIC[key]
    shown = [(row, estimate) for row in group.rows if (estimate := row.estimates[key]) is not None]
    if not shown:
        return None
    if metric.better == "lower":
        shown.sort(key=lambda pair: pair[1].mean)
    reported = {row.label: value for row, _ in shown if (value := row.published(key, published)) is not None}
    wide = max(len(row.label) for row, _ in shown) > names / 7.4
    pitch = max(38.0 if wide else 28.0, min(52.0, 224.0 / len(shown)))  # as tall as its neighbours where it may be
    top = 34.0
    bottom = top + pitch * len(shown)
    numbers = [value * metric.scale for _, estimate in shown for value in estimate.values]
    numbers += [(e.mean + sign * (e.half or 0.0)) * metric.scale for _, e in shown for sign in (-1, 1)]
    numbers += [value.value * metric.scale for value in reported.values()]
    limit = 100.0 if metric.unit == "%" else float("inf")
    low, high = span(numbers, pad=0.04, least=1.0 if metric.scale == 100 else 1e-3)
    end = min(high, limit + 0.01 * (high - low)) if low < limit else high
    if metric.unit == "%" and high > 0:  # an interval may reach where no accuracy lies
        low = max(low, -0.01 * high)
    x = Scale(low, end, 12.0 if wide else names, width - 62.0)
    parts = [el("text", text(_titled(metric)), x=2.0, y=16.0, class_="label")]
    if key_to_marks:
        words = "dots: seeds · line: 95 % interval" + (" · ◇ published" if reported else "")
        parts.append(el("text", text(words), x=width - 4, y=16.0, class_="tick", text_anchor="end"))
    for tick in ticks(x.low, x.high, 4):
        parts.append(el("line", x1=x(tick), x2=x(tick), y1=top - 6, y2=bottom, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=x(tick), y=bottom + 15, class_="tick", text_anchor="middle"))
    for number, (row, estimate) in enumerate(shown):
        y = top + pitch * (number + 0.5) + (7.0 if wide else 0.0)
        name = row.label if len(row.label) <= 46 else row.label[:45] + "…"
        parts.append(el("text", text(name), x=2.0, y=y - 14.0 if wide else y + 4.0, class_="name"))
        parts.append(_row(x, y, row.label, estimate, metric, series[row.label], reported.get(row.label)))
        mean = f"{estimate.mean * metric.scale:.{metric.digits}f}"
        parts.append(el("text", text(mean), x=width - 4, y=y + 4, class_="value", text_anchor="end"))
    spoken = "; ".join(f"{row.label} {format_estimate(estimate, metric)}" for row, estimate in shown)
    described = f"{metric.meaning}{', ' * bool(metric.unit)}{metric.unit}: {spoken}."
    return Drawing(width, bottom + 24, f"{metric.title} of every method", described, tuple(parts))


def _row(
    x: Scale, y: float, label: str, estimate: Estimate, metric: Metric, look: Series, theirs: PublishedValue | None
) -> str:
    """The marks of one method."""
    marks = [el("title", text(f"{label}: {format_estimate(estimate, metric)} {metric.unit}"))]
    marks += [el("circle", cx=x(v * metric.scale), cy=y, r=2.6, class_="seed") for v in estimate.values]
    if estimate.half is not None:
        ends = [x((estimate.mean + sign * estimate.half) * metric.scale) for sign in (-1, 1)]
        low, high = (min(max(end, x.start), x.end) for end in ends)
        marks.append(el("line", x1=low, x2=high, y1=y, y2=y, class_="interval"))
    if theirs is not None:  # below our mean, which may lie on it
        note = el("title", text(f"published: {theirs.value * metric.scale:.{metric.digits}f} ({theirs.source})"))
        marks.append(el("g", note, marker(2, x(theirs.value * metric.scale), y, 6.4, "ring"), class_="published"))
    marks.append(marker(look.shape, x(estimate.mean * metric.scale), y, 5.0))
    return el("g", *marks, class_=look.classes)


def _retained(row: SummaryRow) -> tuple[float, float] | None:
    """Stability: 100 % minus forgetting, with the half-width of its interval."""
    estimate = row.estimates["forgetting"]
    return None if estimate is None else (100 - 100 * estimate.mean, 100 * (estimate.half or 0.0))


def _point(row: SummaryRow, key: str) -> tuple[float, float] | None:
    if key == "stability":
        return _retained(row)
    estimate, scale = row.estimates[key], _METRIC[key].scale
    return None if estimate is None else (estimate.mean * scale, (estimate.half or 0.0) * scale)


_AXIS = {
    "stability": ("Stability: 100 % minus forgetting", "%"),
    "learning_accuracy": ("Plasticity: learning accuracy, %", "%"),
}


def _titled(metric: Metric) -> str:
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def _axis(key: str) -> tuple[str, str]:
    if key in _AXIS:
        return _AXIS[key]
    metric: Metric = _METRIC[key]
    return _titled(metric), metric.unit


def scatter(
    identity: str, group: Group, x_key: str, y_key: str, series: dict[str, Series], better: str, *, joined: bool = False
) -> str:
    """One metric against another, as a part of a page; an empty string where no method has both."""
    found = drawn_scatter(group, x_key, y_key, series, better, joined=joined)
    return "" if found is None else found.inline(identity)


def drawn_scatter(
    group: Group,
    x_key: str,
    y_key: str,
    series: dict[str, Series],
    better: str,
    *,
    joined: bool = False,
    width: float = _WIDTH,
    height: float = 302.0,
) -> Drawing | None:
    """One metric against another, a mark with both intervals per method.

    Args:
        group: the methods.
        x_key: of the metric along the page.
        y_key: of the metric up the page.
        series: their looks.
        better: says which corner is the better one.
        joined: whether a line joins the rows of a front, or of one method under several settings, from left to right.
        width: of the drawing.
        height: of the drawing.

    Returns:
        The drawing; ``None`` where no method has both. Perplexities stand on logarithmic axes.
    """
    points = [
        (row, at, up)
        for row in group.rows
        if (at := _point(row, x_key)) is not None and (up := _point(row, y_key)) is not None
    ]
    if not points:
        return None
    (x_title, x_unit), (y_title, y_unit) = _axis(x_key), _axis(y_key)
    x, x_ticks = _scaled(x_key, [at for _, at, _ in points], x_unit, (44.0, width - 12.0))
    y, y_ticks = _scaled(y_key, [up for _, _, up in points], y_unit, (height - 42.0, 28.0))
    parts = [axes(x, y, x_title, y_title, x_ticks=x_ticks, y_ticks=y_ticks)]
    parts.append(el("text", better, x=x.end, y=y.end - 10, class_="corner", text_anchor="end"))
    parts += _lines(points, x, y, series) if joined else []
    taken: list[tuple[float, float, float, float]] = []
    taken += [(x(px) - 6, y(py) - 6, 12.0, 12.0) for _, (px, _), (py, _) in points]
    named: set[str] = set()
    for row, (px, xh), (py, yh) in points:
        look = series[row.label]
        marks = [el("title", text(f"{row.label}: {px:.2f} {x_unit}, {py:.2f} {y_unit}"))]
        if xh:
            low, high = max(px - xh, x.low), min(px + xh, x.high)  # an interval may reach farther than the axis
            marks.append(el("line", x1=x(low), x2=x(high), y1=y(py), y2=y(py), class_="interval thin"))
        if yh:
            low, high = max(py - yh, y.low), min(py + yh, y.high)
            marks.append(el("line", x1=x(px), x2=x(px), y1=y(low), y2=y(high), class_="interval thin"))
        marks.append(marker(look.shape, x(px), y(py), 5.2))
        name = row.front or row.label
        if name not in named:
            shown = _name(name, x(px), y(py), x, y, taken)
            named |= {name} if shown else set()
            marks.append(shown)
        parts.append(el("g", *marks, class_=look.classes))
    spoken = "; ".join(f"{row.label} at {px:.2f} {x_unit} and {py:.2f} {y_unit}" for row, (px, _), (py, _) in points)
    missing = [row.label for row in group.rows if row.label not in {p.label for p, _, _ in points}]
    without = f" Not shown, because it has no such value: {', '.join(missing)}." if missing else ""
    return Drawing(width, height, f"{y_title} against {x_title}", f"{spoken}.{without}", tuple(parts))


_Points = Sequence[tuple[SummaryRow, tuple[float, float], tuple[float, float]]]


def _lines(points: _Points, x: Scale, y: Scale, series: dict[str, Series]) -> list[str]:
    """A line through the rows of every front, or of every method, from left to right."""
    drawn = []
    for name in dict.fromkeys(row.front or row.method for row, _, _ in points):
        mine = [each for each in points if (each[0].front or each[0].method) == name]
        if len(mine) > 1:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in sorted((x(at), y(up)) for _, (at, _), (up, _) in mine))
            drawn.append(el("polyline", points=path, class_=f"line faint {series[mine[0][0].label].classes}"))
    return drawn


def _scaled(
    key: str, values: Sequence[tuple[float, float]], unit: str, ends: tuple[float, float]
) -> tuple[Scale, list[float]]:
    """The axis of a metric, and where it has numbers."""
    if key.endswith("perplexity"):
        low, high = span([math.log(value) for value, _ in values], least=0.2)
        scale = LogScale(math.exp(low), math.exp(high), *ends)
        return scale, scale.ticks()
    low, high = span([value + sign * half for value, half in values for sign in (-1, 1)], least=_least(unit))
    most = 100.0 if unit == "%" else math.inf
    # Where all of the axis lies above, as when every method got better at old tasks, the bound means nothing.
    return Scale(low, high, *ends), ticks(low, min(high, most) if low < most else high)


def _least(unit: str) -> float:
    """The narrowest axis worth drawing, so that noise in the last digit does not fill a chart."""
    return {"%": 1.0, "points": 1.0, "MiB": 8.0}.get(unit, 0.1)


def _name(label: str, px: float, py: float, x: Scale, y: Scale, taken: list[tuple[float, float, float, float]]) -> str:
    """The label beside its mark where there is room, else nothing: the legend has it too."""
    short = label if len(label) <= 26 else label[:25] + "…"
    width = 5.9 * len(short) + 4
    places = ((9.0, 4.0, "start"), (-9.0, 4.0, "end"), (0.0, -10.0, "middle"), (0.0, 17.0, "middle"))
    for dx, dy, anchor in places:
        left = px + dx - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
        box = (left, py + dy - 10, width, 13.0)
        inside = box[0] >= x.start and box[0] + width <= x.end + 10 and box[1] >= y.end - 4 and box[1] + 13 <= y.start
        if inside and not any(_overlap(box, other) for other in taken if other != (px - 6, py - 6, 12.0, 12.0)):
            taken.append(box)
            return el("text", text(short), x=px + dx, y=py + dy, class_="name", text_anchor=anchor)
    return ""


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
