"""The report's section on how importances are spread: a table, and a density for every method and layer."""

from __future__ import annotations

from pathlib import Path

from holdfast.bench.records import spreads as importance_record
from holdfast.bench.records.spreads import ImportanceRecord, Spread
from holdfast.bench.report.svg import Scale, axes, el, figure, text, ticks

__all__ = ["extra_sections", "importance_section"]

_HEADING = "How importance is spread over the weights"
_WIDTH = 340.0


def extra_sections(folder: Path) -> list[tuple[str, str]]:
    """Headings and HTML of what a folder holds beside the records of runs.

    Raises:
        StateError: if a file in it is not what it should be.
    """
    study = importance_record.load(folder)
    return [] if study is None else [(_HEADING, importance_section(study))]


def importance_section(study: ImportanceRecord) -> str:
    """The section's HTML.

    Args:
        study: what to show.
    """
    task = (
        f"The first task of {study.config.stream}, learned to {study.accuracy_before:.2%} validation accuracy; then "
        f"{study.pruned_share:.1%} of the hidden layers' weights were pruned, 5 % at a time, smallest ANPyC importance "
        f"first, and retrained to {study.accuracy_after:.2%}."
    )
    layers = list(dict.fromkeys(spread.layer for spread in study.spreads))
    figures = [
        el("figure", _chart(f"imp{i}-{k}", study, method, layer))
        for i, layer in enumerate(layers)
        for k, method in enumerate(study.methods)
    ]
    note = "A full line is before pruning, a broken one after. Exact zeros are not on the axis: the table counts them."
    return (
        el("p", text(task))
        + el("div", _table(study), class_="scroll", tabindex="0")
        + el("p", text(note), class_="note")
        + el("div", *figures, class_="cards")
        + (el("pre", el("code", text(study.command)), tabindex="0", aria_label="Command") if study.command else "")
    )


def _table(study: ImportanceRecord) -> str:
    names = ("method", "layer", "pruned", "weights", "zeros", "skewness", "kurtosis")
    head = el("tr", *(el("th", name, scope="col") for name in names))
    lines = []
    for s in study.spreads:
        cells = (
            s.method, s.layer, "after" if s.pruned else "before", f"{s.count:,}", f"{s.zeros:.1%}",
            _number(s.skewness), _number(s.kurtosis),
        )  # fmt: skip
        lines.append(el("tr", *(el("td", text(cell)) for cell in cells)))
    return el("table", el("thead", head), el("tbody", *lines), class_="spreads")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _chart(identity: str, study: ImportanceRecord, method: str, layer: str) -> str:
    mine = [s for s in study.spreads if s.method == method and s.layer == layer]
    top = max((max(s.density) for s in mine), default=0.0) or 1.0
    x, y = Scale(study.low, study.high, 38.0, _WIDTH - 8.0), Scale(0.0, top * 1.05, 160.0, 28.0)
    title = f"{method}, {layer}: density"
    marks = ticks(study.low, study.high, 4)
    parts = [axes(x, y, "importance (powers of ten)", title, x_ticks=marks)]
    parts += [_line(s, x, y) for s in mine]
    spoken = "; ".join(f"{'after' if s.pruned else 'before'} pruning {s.zeros:.1%} zeros" for s in mine)
    return figure(identity, _WIDTH, 202.0, title, f"Density of the logarithm of the importance; {spoken}.", *parts)


def _line(spread: Spread, x: Scale, y: Scale) -> str:
    width = (x.high - x.low) / len(spread.density)
    points = [(x(x.low + (k + 0.5) * width), y(value)) for k, value in enumerate(spread.density)]
    path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return el("path", d=path, class_="line c1" if spread.pruned else "line c0", **_dash(spread.pruned))


def _dash(pruned: bool) -> dict[str, object]:
    return {"stroke_dasharray": "6 3"} if pruned else {}
