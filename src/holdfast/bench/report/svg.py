"""SVG by hand: escaping, elements, scales, axes and markers. Colours live in the style sheet, as classes."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

__all__ = [
    "Drawing",
    "LogScale",
    "Scale",
    "axes",
    "compact",
    "el",
    "figure",
    "marker",
    "span",
    "style_sheet",
    "text",
    "ticks",
]


_LEAVES = {"br", "circle", "input", "line", "path", "polygon", "rect"}


def text(value: object) -> str:
    """Any text, safe inside HTML and SVG: markup is escaped, control characters are dropped."""
    return html.escape("".join(c for c in str(value) if c.isprintable() or c in "\n\t"), quote=True)


def compact(number: float) -> str:
    """A coordinate with two decimals at most."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def el(name: str, /, *children: str, **attributes: object) -> str:
    """An element; ``children`` are markup already. ``class_`` becomes ``class`` and ``text_anchor`` ``text-anchor``."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{compact(value) if isinstance(value, float) else text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{shown}/>" if name in _LEAVES else f"<{name}{shown}>{''.join(children)}</{name}>"


@dataclass(frozen=True)
class Drawing:
    """A chart: its size, a name and a description that a screen reader speaks, and its markup."""

    width: float
    height: float
    title: str
    description: str
    parts: tuple[str, ...]

    def inline(self, identity: str) -> str:
        """As a part of a page, which brings the style sheet; ``identity`` is its own there."""
        box = f"0 0 {compact(self.width)} {compact(self.height)}"
        return el("svg", *self._body(identity), viewBox=box, **_spoken(identity), class_="chart")

    def alone(self) -> str:
        """As a file of its own: it brings its colours, for bright and for dark screens, and its background.

        In a page it has its own size; in a window that is narrower it shrinks to fit.
        """
        width, height = self.width + 2 * _MARGIN, self.height + 2 * _MARGIN
        place: dict[str, object] = {"x": -_MARGIN, "y": -_MARGIN, "width": width, "height": height}
        box = f"{compact(-_MARGIN)} {compact(-_MARGIN)} {compact(width)} {compact(height)}"
        drawing = el(
            "svg",
            *self._body("drawing", el("style", _ALONE + style_sheet("chart.css")), el("rect", **place, class_="card")),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=box,
            width=width,
            height=height,
            **_spoken("drawing"),
            class_="chart",
        )
        return drawing + "\n"

    def _body(self, identity: str, *before: str) -> tuple[str, ...]:
        title = el("title", text(self.title), id=f"{identity}-t")
        return (title, el("desc", text(self.description), id=f"{identity}-d"), *before, *self.parts)


_MARGIN = 14.0
_ALONE = """
.chart { font: 12px -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
.chart { max-width: 100%; height: auto; }
.card { fill: var(--card); }
"""


def _spoken(identity: str) -> dict[str, object]:
    return {"role": "img", "aria_labelledby": f"{identity}-t {identity}-d"}


def style_sheet(name: str) -> str:
    """One of the report's style sheets."""
    return (resources.files("holdfast.bench.report") / name).read_text(encoding="utf-8")


def figure(identity: str, width: float, height: float, title: str, description: str, *children: str) -> str:
    """A chart with a name and a description, as a part of a page."""
    return Drawing(width, height, title, description, children).inline(identity)


class Scale:
    """A straight line from data to coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        """Map ``[low, high]`` to ``[start, end]``; ``low`` and ``high`` must differ."""
        assert high > low
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        """The coordinate of a value; outside the domain it stays on the line."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


class LogScale(Scale):
    """The same for the logarithms of positive data."""

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        low, high = math.log(self.low), math.log(self.high)
        return self.start + (math.log(value) - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers on the axis: 1, 2, 5 or, where these are few, more of every power of ten."""
        tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found: list[float] = []
        for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(k / 10 for k in range(10, 100, 2))):
            found = [d * 10.0**ten for ten in tens for d in digits if self.low <= d * 10.0**ten <= self.high]
            if len(found) >= 3:
                break
        return [round(value, 6) for value in found][:12]


def span(values: Sequence[float], *, pad: float = 0.08, least: float = 1e-9) -> tuple[float, float]:
    """A domain around the values that is never empty; ``least`` is its smallest width."""
    low, high = min(values), max(values)
    width = max(high - low, least, 1e-6 * abs(high))
    low, high = low - pad * width, high + pad * width
    if high - low < least:
        low, high = low - least / 2, high + least / 2
    return low, high


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside ``[low, high]``, about ``count`` of them."""
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * k, 12) for k in range(first, last + 1)]


def axes(
    x: Scale,
    y: Scale,
    x_title: str,
    y_title: str,
    *,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float] | None = None,
    show: Callable[[float], str] = "{:g}".format,
) -> str:
    """Grid lines, tick labels and titles: x below, y on top of its axis so that it reads without turning the head."""
    parts = []
    for value in ticks(y.low, y.high) if y_ticks is None else y_ticks:
        at = y(value)
        parts.append(el("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        parts.append(el("text", f"{value:g}", x=x.start - 7, y=at + 3.5, class_="tick", text_anchor="end"))
    for value in x_ticks:
        at = x(value)
        parts.append(el("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(el("text", text(show(value)), x=at, y=y.start + 17, class_="tick", text_anchor="middle"))
    parts.append(el("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    middle = (x.start + x.end) / 2
    parts.append(el("text", text(x_title), x=middle, y=y.start + 36, class_="label", text_anchor="middle"))
    parts.append(el("text", text(y_title), x=2.0, y=y.end - 10, class_="label"))
    return "".join(parts)


_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),  # a circle
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    ((0, 1.25), (1.15, -0.85), (-1.15, -0.85)),
    ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4),
     (0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
    ((0, -1.25), (1.19, -0.39), (0.73, 1.01), (-0.73, 1.01), (-1.19, -0.39)),
)  # fmt: skip


def marker(shape: int, x: float, y: float, size: float, class_: str = "mark") -> str:
    """A mark of one of seven shapes, so that a series is known without its colour."""
    corners = _SHAPES[shape % len(_SHAPES)]
    if not corners:
        return el("circle", cx=x, cy=y, r=size, class_=class_)
    points = " ".join(f"{compact(x + size * dx)},{compact(y + size * dy)}" for dx, dy in corners)
    return el("polygon", points=points, class_=class_)
