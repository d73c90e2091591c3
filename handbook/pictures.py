"""The guide's pictures, drawn from the numbers in its record; the same numbers make the same file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.bench.report.svg import Drawing, Scale, axes, compact, el, text, ticks

__all__ = ["PICTURES", "legend", "line", "panel"]

_COLOURS = {"fine-tuning": "c1", "EWC": "c0", "SLDA": "c2"}


def line(x: Scale, y: Scale, points: Sequence[Sequence[float]], class_: str, *, dashed: bool = False) -> str:
    """A curve through points, cut at the edges of its panel."""
    shown = [(min(max(a, x.low), x.high), min(max(b, y.low), y.high)) for a, b in points]
    path = "M" + " L".join(f"{compact(x(a))} {compact(y(b))}" for a, b in shown)
    return el("path", d=path, class_=f"line {class_}", stroke_dasharray="5 4" if dashed else None)


def panel(x: Scale, y: Scale, x_title: str, y_title: str, x_ticks: Sequence[float]) -> str:
    """Axes with a title above the left end of this panel, wherever it stands."""
    title = el("text", text(y_title), x=x.start - 34.0, y=y.end - 12.0, class_="label")
    return axes(x, y, x_title, "", x_ticks=x_ticks) + title


def legend(entries: Sequence[tuple[str, str, bool]], x: float, y: float, step: float = 130.0) -> str:
    """Short strokes with words: ``(words, class, dashed)``."""
    parts = []
    for place, (words, class_, dashed) in enumerate(entries):
        at = x + place * step
        dash = "5 4" if dashed else None
        parts.append(el("path", d=f"M{compact(at)} {compact(y)} h22", class_=f"line {class_}", stroke_dasharray=dash))
        parts.append(el("text", text(words), x=at + 28.0, y=y + 4.0, class_="tick"))
    return "".join(parts)


def forgetting(found: Mapping[str, Any]) -> Drawing:
    """Old and new digits while the new ones are learned, without and with EWC."""
    parts = []
    for place, (name, curve) in enumerate(found.items()):
        x = Scale(0.0, curve["step"][-1], 46.0 + 330.0 * place, 330.0 + 330.0 * place)
        y = Scale(0.0, 1.0, 240.0, 60.0)
        parts.append(panel(x, y, "steps on the new task", f"{name}: accuracy", ticks(0, x.high, 4)))
        for which, class_, dashed in (("old", "c1", False), ("new", "c0", True)):
            parts.append(line(x, y, list(zip(curve["step"], curve[which], strict=True)), class_, dashed=dashed))
    parts.append(legend([("old task", "c1", False), ("new task", "c0", True)], 46.0, 14.0))
    ends = {name: curve["old"][-1] for name, curve in found.items()}
    said = "; ".join(f"{name} ends with {100 * value:.0f} % of the old task" for name, value in ends.items())
    return Drawing(672.0, 282.0, "Forgetting, step by step", f"{said}.", tuple(parts))


def fisher(found: Mapping[str, Any]) -> Drawing:
    """The old loss over two weights as bands, EWC's parabola as ellipses, and two ways to the new task's minimum."""
    x, y = Scale(*found["first"], 46.0, 446.0), Scale(*found["second"], 370.0, 30.0)
    parts = [_bands(x, y, found["loss"])]
    start, (a, b) = found["start"], found["fisher"]
    for level in (0.03, 0.12):  # of F (θ − θ*)²
        rx, ry = (level / a) ** 0.5, (level / b) ** 0.5
        parts.append(
            el("ellipse", cx=x(start[0]), cy=y(start[1]), rx=x(rx) - x(0.0), ry=y(0.0) - y(ry), class_="line ceiling",
               stroke_dasharray="5 4")
        )  # fmt: skip
    for name, way in found["ways"].items():
        parts.append(line(x, y, way, _COLOURS[name]))
        parts.append(el("circle", cx=x(way[-1][0]), cy=y(way[-1][1]), r=5.0, class_=f"mark {_COLOURS[name]}"))
    parts.append(el("circle", cx=x(start[0]), cy=y(start[1]), r=5.0, class_="ring"))
    parts.append(axes(x, y, "weight 1", "weight 2", x_ticks=ticks(x.low, x.high, 4)))
    words = [("fine-tuning", "c1", False), ("EWC", "c0", False), ("Fisher around θ*", "ceiling", True)]
    parts += [legend([entry], 464.0, 60.0 + 24.0 * place) for place, entry in enumerate(words)]
    parts.append(el("circle", cx=475.0, cy=132.0, r=5.0, class_="ring"))
    parts.append(el("text", "θ*: the old minimum", x=492.0, y=136.0, class_="tick"))
    parts.append(el("text", "bands: the old loss,", x=464.0, y=168.0, class_="tick"))
    parts.append(el("text", "darker is higher", x=464.0, y=184.0, class_="tick"))
    said = f"Fisher {a:.3f} along weight 1 and {b:.3f} along weight 2: EWC gives way along weight 2."
    return Drawing(620.0, 412.0, "A loss of two weights, and what EWC remembers of it", said, tuple(parts))


def _bands(x: Scale, y: Scale, loss: Sequence[Sequence[float]]) -> str:
    """A grid of losses in seven steps of grey, neighbours of one step as one rectangle."""
    low = min(map(min, loss))
    high = (x.end - x.start) / len(loss[0]), (y.start - y.end) / len(loss)
    parts = []
    for row, values in enumerate(loss):
        steps = [min(7, int(8 * (max(value - low, 0.0) / 1.4) ** 0.5)) for value in values]
        begin = 0
        for place in range(1, len(steps) + 1):
            if place == len(steps) or steps[place] != steps[begin]:
                if steps[begin]:
                    parts.append(
                        el("rect", x=x.start + begin * high[0], y=y.start - (row + 1) * high[1],
                           width=(place - begin) * high[0], height=high[1] + 0.3,
                           opacity=round(0.09 * steps[begin], 2), class_="band")
                    )  # fmt: skip
                begin = place
    return el("g", *parts, fill="#8f95a0")


def class_incremental(found: Mapping[str, Any]) -> Drawing:
    """What is answered for each digit at the end: a table of shades for each way of learning."""
    parts, cell = [], 19.0
    for place, (name, table) in enumerate(found.items()):
        left, top = 30.0 + 224.0 * place, 54.0
        right = sum(row[k] for k, row in enumerate(table)) / 10
        parts.append(el("text", text(f"{name}: {right:.0f} % right"), x=left, y=24.0, class_="label"))
        for k, row in enumerate(table):
            parts.append(el("text", str(k), x=left - 8.0, y=top + cell * k + 13.5, class_="tick", text_anchor="end"))
            parts.append(
                el("text", str(k), x=left + cell * (k + 0.5), y=top - 6.0, class_="tick", text_anchor="middle")
            )
            parts += [
                el("rect", x=left + cell * j, y=top + cell * k, width=cell - 1.0, height=cell - 1.0,
                   fill="currentColor", opacity=round(0.06 + 0.94 * value / 100, 2), class_=_COLOURS[name])
                for j, value in enumerate(row)
            ]  # fmt: skip
        parts.append(el("text", "row: the digit; column: the answer", x=left, y=top + cell * 10 + 20.0, class_="tick"))
    said = "Fine-tuning and EWC answer the last two digits, 8 and 9, for nearly everything; SLDA has a diagonal."
    return Drawing(686.0, 276.0, "Ten digits, two at a time: what is answered for which", said, tuple(parts))


def subspaces(found: Mapping[str, Any]) -> Drawing:
    """How few directions hold the energy of a layer's inputs, and how GPM's memory fills up."""
    names = [name for name in found["energy"]]
    x, y = Scale(1.0, 30.0, 46.0, 330.0), Scale(0.0, 1.0, 240.0, 60.0)
    parts = [panel(x, y, "directions", "energy of the inputs of the first task", [1, 10, 20, 30])]
    parts.append(line(x, y, [(1.0, found["threshold"]), (30.0, found["threshold"])], "floor", dashed=True))
    for place, name in enumerate(names):
        parts.append(line(x, y, [(k + 1.0, value) for k, value in enumerate(found["energy"][name])], f"c{place}"))
    x = Scale(1.0, 5.0, 376.0, 660.0)
    parts.append(panel(x, y, "tasks learned", "share of directions taken", [1, 2, 3, 4, 5]))
    for place, name in enumerate(names):
        points = [(k + 1.0, value) for k, value in enumerate(found["fullness"][name])]
        parts.append(line(x, y, points, f"c{place}"))
        parts += [el("circle", cx=x(a), cy=y(b), r=3.5, class_=f"mark c{place}") for a, b in points]
    words = [(f"layer {place + 1}", f"c{place}", False) for place, _ in enumerate(names)]
    parts.append(legend([*words, (f"ε = {found['threshold']}", "floor", True)], 46.0, 14.0, 110.0))
    said = "; ".join(f"layer {p + 1} ends {100 * found['fullness'][n][-1]:.0f} % full" for p, n in enumerate(names))
    return Drawing(672.0, 282.0, "Inputs use few directions; GPM takes those", f"{said}.", tuple(parts))


PICTURES: Mapping[str, Callable[[Mapping[str, Any]], Drawing]] = {
    "forgetting": forgetting,
    "fisher": fisher,
    "class-incremental": class_incremental,
    "subspaces": subspaces,
}
"""Name of a picture and of its computation -> what draws it."""
