"""An audit -> one HTML page: what was lost, what was gained, and where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.auditing import words
from holdfast.auditing.record import Audit, DataAudit, Measured
from holdfast.bench.records.writing import write_whole
from holdfast.bench.report.document import box, document
from holdfast.bench.report.svg import Scale, el, figure, marker, span, text, ticks

__all__ = ["audit_page", "audit_sections", "write_audit"]

_WIDTH = 380.0
_PITCH, _TOP = 26.0, 34.0
_MOST = 24
"""Rows of a chart: what has more shows those that changed most."""


@dataclass(frozen=True)
class _Row:
    """One line of a chart: where it was and where it is, each with the ends of its interval."""

    name: str
    before: float
    after: float
    before_ends: tuple[float, float] | None = None
    after_ends: tuple[float, float] | None = None


def audit_page(
    found: Audit,
    *,
    title: str = "What was lost, what was gained",
    command: str = "",
    first: Sequence[tuple[str, str]] = (),
) -> str:
    """The report of an audit, as one HTML page that needs no network and no script.

    Args:
        found: the audit.
        title: the page's heading.
        command: what was typed, if it was.
        first: sections before the audit's own: headings (plain text) and markup.

    Returns:
        The text of the file.
    """
    sections = [*first, *audit_sections(found)]
    links = "".join(el("li", el("a", text(heading), href=f"#a{k}")) for k, (heading, _) in enumerate(sections))
    facts = [("before", found.before), ("after", found.after)]
    leads = (
        el("p", el("strong", text(data.name)), text(f": {words.verdict(data)}"), class_="lead") for data in found.data
    )
    header = [el("h1", text(title)), *leads]
    header.append(el("ul", *(el("li", f"{text(k)}: {text(v)}") for k, v in facts), class_="facts"))
    parts = [el("section", el("h2", text(heading)), html, id=f"a{k}") for k, (heading, html) in enumerate(sections)]
    if command:
        parts.append(
            el(
                "section",
                el("h2", "Repeat it"),
                el("pre", el("code", text(command)), tabindex="0", aria_label="Command"),
            )
        )
    parts.append(_reading())
    footer = el("footer", el("p", "Made by holdfast from the audit alone. This file loads nothing from anywhere."))
    body = el("header", *header, el("nav", el("ul", links))) + el("main", *parts) + footer
    return document(title, body)


def write_audit(found: Audit, path: str | os.PathLike[str], *, command: str = "") -> Path:
    """Write :func:`audit_page` to a file; the old file stays until the new one is whole.

    Raises:
        StateError: if the file cannot be written.
    """
    return write_whole(path, audit_page(found, command=command), "report")


def audit_sections(found: Audit) -> list[tuple[str, str]]:
    """Headings (plain text) and markup: one section for each data set, one for the layers."""
    parts = [(data.name, _data(f"d{number}", found, data)) for number, data in enumerate(found.data)]
    if found.layers:
        parts.append(("Layer by layer", _layers(found)))
    if rows := words.steepness(found):
        note = f"Of the loss's Hessian, in all parameters, on the first batch of {found.data[0].name}. The larger, the "
        note += "smaller a step of plain gradient descent it bears. It says nothing about what was forgotten."
        table = box(("", found.before, found.after, "ratio"), rows, "Norms of the Hessian")
        parts.append(("How steep the loss is", el("p", text(note), class_="note") + table))
    return parts


def _data(identity: str, found: Audit, data: DataAudit) -> str:
    heads = ("", found.before, found.after, "change")
    rows = [tuple(cell.replace("-", "\u2212") for cell in row) for row in words.figures(data)]
    parts = [
        el("p", text(f"{words.counts(data)}; objective {data.objective}. In brackets: 95 % intervals."), class_="note"),
        box(heads, rows, f"Figures of {data.name}"),
        el("h3", "At a glance"),
    ]
    charts = [_headline(f"{identity}-a", found, data), _flips(f"{identity}-f", data), _classes(f"{identity}-c", data)]
    shown = [el("figure", chart, el("figcaption", text(caption))) for chart, caption in charts if chart]
    if shown:
        parts.append(el("div", *shown, class_="cards"))
    parts += _agreement(found, data) + _lists(found, data)
    return "".join(parts)


def _headline(identity: str, found: Audit, data: DataAudit) -> tuple[str, str]:
    """Accuracy (or loss) of both, with intervals."""
    percent = data.accuracy is not None and data.perplexity is None
    change, scale = (data.accuracy, 100.0) if percent else (data.perplexity or data.loss, 1.0)
    if change is None:
        return "", ""
    rows = [_Row(found.before, *_twice(change.before, scale)), _Row(found.after, *_twice(change.after, scale))]
    title = "Accuracy, %" if percent else "Perplexity" if data.perplexity is not None else "Loss"
    return _dumbbells(identity, rows, title, 100.0 if percent else None), "Bar: 95 % interval."


def _twice(of: Measured, scale: float) -> tuple[float, float, None, tuple[float, float] | None]:
    value = scale * of.value
    return value, value, None, None if of.low is None or of.high is None else (scale * of.low, scale * of.high)


def _classes(identity: str, data: DataAudit) -> tuple[str, str]:
    """Classes, the one that lost most on top."""
    changed = sorted(data.classes, key=lambda each: -abs(each.change))[:_MOST]
    rows = [
        _Row(
            each.name, 100 * each.before, 100 * each.after,
            _percent(each.before_interval), _percent(each.after_interval),
        )
        for each in sorted(changed, key=lambda each: each.change)
    ]  # fmt: skip
    if len(rows) < 2:
        return "", ""
    left = len(data.classes) - len(rows)
    caption = "Hollow: before. Filled: after, orange where it lost, green where it gained, with a 95 % interval."
    if left:
        caption += f" The {left} classes that changed least are left out."
    return _dumbbells(identity, rows, "Right answers in each class, %", 100.0), caption


def _percent(ends: tuple[float, float]) -> tuple[float, float]:
    return 100 * ends[0], 100 * ends[1]


def _dumbbells(identity: str, rows: Sequence[_Row], title: str, limit: float | None) -> str:
    """A line per row from before to after."""
    names = min(170.0, 20.0 + 7.0 * max(len(_short(row.name)) for row in rows))
    values = [value for row in rows for value in (row.before, row.after, *(row.after_ends or ()))]
    low, high = span(values, pad=0.06, least=1.0 if limit else 1e-6)
    if limit is not None:
        low, high = max(low, -0.01 * limit), min(high, 1.01 * limit)
    bottom = _TOP + _PITCH * len(rows)
    x = Scale(low, high, names, _WIDTH - 56.0)
    parts = [el("text", text(title), x=2.0, y=16.0, class_="label")]
    for tick in ticks(low, high, 4):
        parts.append(el("line", x1=x(tick), x2=x(tick), y1=_TOP - 6, y2=bottom, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=x(tick), y=bottom + 15, class_="tick", text_anchor="middle"))
    for number, row in enumerate(rows):
        y = _TOP + _PITCH * (number + 0.5)
        parts.append(el("text", text(_short(row.name)), x=2.0, y=y + 4, class_="name"))
        parts.append(_dumbbell(x, y, row))
        parts.append(
            el(
                "text",
                f"{row.after:{'.1f' if limit else '.4g'}}",
                x=_WIDTH - 4,
                y=y + 4,
                class_="value",
                text_anchor="end",
            )
        )
    spoken = "; ".join(f"{row.name} from {row.before:.4g} to {row.after:.4g}" for row in rows)
    return figure(identity, _WIDTH, bottom + 24, title, f"{title}: {spoken}.", *parts)


def _dumbbell(x: Scale, y: float, row: _Row) -> str:
    marks = [el("title", text(f"{row.name}: {row.before:.4g} before, {row.after:.4g} after"))]
    if row.after_ends is not None:
        low, high = (min(max(x(end), x.start), x.end) for end in row.after_ends)
        marks.append(el("line", x1=low, x2=high, y1=y, y2=y, class_="interval"))
    if row.before != row.after:
        marks.append(el("line", x1=x(row.before), x2=x(row.after), y1=y, y2=y, class_="interval thin"))
        marks.append(el("circle", cx=x(row.before), cy=y, r=4.6, class_="ring"))
    marks.append(marker(0, x(row.after), y, 5.0))
    return el("g", *marks, class_="c1" if row.after < row.before else "c2" if row.after > row.before else "c0")


def _flips(identity: str, data: DataAudit) -> tuple[str, str]:
    """All answers as one bar: right in both, lost, gained, wrong in both."""
    if data.negative_flips is None or data.positive_flips is None or data.accuracy is None:
        return "", ""
    was = round(data.accuracy.before.value * data.count)
    both = was - data.negative_flips
    wrong = data.count - was - data.positive_flips
    shares = (
        ("right in both", both, "ceiling"), ("right, wrong now", data.negative_flips, "c1"),
        ("wrong, right now", data.positive_flips, "c2"), ("wrong in both", wrong, "floor"),
    )  # fmt: skip
    x = Scale(0.0, float(max(data.count, 1)), 2.0, _WIDTH - 4.0)
    parts = [el("text", "What became of every answer", x=2.0, y=16.0, class_="label")]
    start = 0
    for place, (name, number, class_) in enumerate(shares):
        y = 82.0 + 24.0 * place
        bar = el("rect", x=x(start), y=30.0, width=x(start + number) - x(start), height=30.0, fill="currentColor")
        key = el("rect", x=2.0, y=y - 10.0, width=12.0, height=12.0, rx=2.0, fill="currentColor")
        parts.append(el("g", el("title", text(f"{name}: {number:,}")), bar, key, class_=class_))
        parts.append(el("text", text(name), x=22.0, y=y, class_="name"))
        share = f"{number:,}  ({100 * number / max(data.count, 1):.1f} %)"
        parts.append(el("text", text(share), x=_WIDTH - 4, y=y, class_="value", text_anchor="end"))
        start += number
    spoken = "; ".join(f"{name} {number}" for name, number, _ in shares)
    drawn = figure(identity, _WIDTH, 168.0, "What became of every answer", f"{spoken}.", *parts)
    return drawn, "Equal accuracies with many flips are no sign that nothing was forgotten."


def _agreement(found: Audit, data: DataAudit) -> list[str]:
    """What accuracies do not show."""
    items = []
    if data.kl is not None:
        items.append(
            (f"KL({found.before} ‖ {found.after})", f"{data.kl:.4g} nats: how far the answers moved, right or wrong")
        )
    if data.mcnemar is not None:
        items.append(
            ("McNemar's test", f"{words.probability(data.mcnemar)}, exact and two-sided, over the flips alone")
        )
    if data.between_wrong is not None:
        items.append(("Other wrong answers", f"{data.between_wrong:,} wrong answers are other wrong answers now"))
    if data.relative_negative_flips is not None:
        items.append(
            ("Relative negative flips", f"{data.relative_negative_flips:.2f}; 1 is what two unrelated models have")
        )
    if not items:
        return []
    return [el("h3", "Beyond accuracy"), el("dl", *(el("dt", text(k)) + el("dd", text(v)) for k, v in items))]


def _lists(found: Audit, data: DataAudit) -> list[str]:
    parts = []
    if data.worst:
        heads = ("Sample", "Right answer", "Answer now", "Its probability before", "and now")
        rows = [
            (_short(w.sample, 160), w.right, w.now, f"{100 * w.before:.1f} %", f"{100 * w.after:.1f} %")
            for w in data.worst
        ]
        parts += [el("h3", "Worst flips"), box(heads, rows, f"Worst flips of {data.name}", words=True)]
    if data.risen:
        losses = ("Sample", f"Loss of {found.before}", f"Loss of {found.after}")
        risen = [(_short(r.sample, 160), f"{r.before:.4g}", f"{r.after:.4g}") for r in data.risen]
        summary = el("summary", "Samples whose loss rose most")
        parts.append(el("details", summary, box(losses, risen, f"Loss of samples of {data.name}", words=True)))
    if data.classes:
        columns = ("Class", "Samples", found.before, found.after, "Change")
        lines = [
            (c.name, f"{c.count:,}", _share(c.before, c.before_interval), _share(c.after, c.after_interval),
             f"{100 * c.change:+.1f}".replace("-", "\u2212"))
            for c in data.classes
        ]  # fmt: skip
        summary = el("summary", f"All {len(lines)} classes, with 95 % intervals")
        parts.append(el("details", summary, box(columns, lines, f"Classes of {data.name}")))
    return parts


def _share(value: float, ends: tuple[float, float]) -> str:
    return f"{100 * value:.1f} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


def _layers(found: Audit) -> str:
    rows = [
        (
            layer.name, "" if layer.distance is None else f"{layer.distance:.4g}",
            "" if layer.similarity is None else f"{layer.similarity:.4f}",
        )
        for layer in found.layers
    ]  # fmt: skip
    note = (
        "How far each layer's weights moved, relative to their size, and how alike what it gives is (unbiased linear "
        f"CKA, 1: the same but for rotation and scale), over {found.similarity_samples:,} samples. A similarity near 1 "
        "can hide the loss of a few classes."
    )
    heads = ("Layer", "Relative weight distance", "Similarity")
    return _bars(found) + el("p", note, class_="note") + box(heads, rows, "Layers")


def _bars(found: Audit) -> str:
    """A bar per layer, the same order as in the model."""
    known = [(layer.name, layer.distance) for layer in found.layers if layer.distance is not None]
    rows = sorted(sorted(known, key=lambda pair: -pair[1])[:_MOST], key=known.index)
    rows = [(name, value) for name, value in rows if value < float("inf")]
    if not rows or not any(value for _, value in rows):
        return ""
    names, bottom = 190.0, _TOP + 20.0 * len(rows)
    x = Scale(0.0, 1.02 * max(value for _, value in rows), names, _WIDTH - 60.0)
    parts = [el("text", "Relative weight distance", x=2.0, y=16.0, class_="label")]
    for number, (name, value) in enumerate(rows):
        y = _TOP + 20.0 * number
        parts.append(el("text", text(_short(name, 28, end=True)), x=2.0, y=y + 12, class_="tick"))
        bar = el("rect", x=names, y=y + 3, width=x(value) - names, height=12.0, fill="currentColor", rx=2.0)
        parts.append(el("g", el("title", text(f"{name}: {value:.4g}")), bar, class_="c0"))
        parts.append(el("text", f"{value:.3g}", x=_WIDTH - 4, y=y + 13, class_="tick", text_anchor="end"))
    spoken = "; ".join(f"{name} {value:.3g}" for name, value in rows)
    drawn = figure("layers", _WIDTH, bottom + 8, "Relative weight distance of each layer", f"{spoken}.", *parts)
    return el("div", el("figure", drawn), class_="cards")


def _short(name: str, most: int = 22, *, end: bool = False) -> str:
    """A name that fits; of a layer the end says more."""
    line = " ".join(name.split())
    if len(line) <= most:
        return line
    return f"…{line[1 - most :]}" if end else f"{line[: most - 1]}…"


def _reading() -> str:
    meanings = (
        ("Flip", "an answer that was right and is wrong now, or the reverse"),
        ("Interval", "95 %; of classes Wilson's, of means over samples drawn as a whole"),
        ("Calibration error", "how far confidence and accuracy lie apart (15 bins); too large where samples are few"),
        ("Perplexity", "exp of the mean loss per token; comparable within one tokenizer only"),
    )
    items = [el("dt", text(name)) + el("dd", text(meaning)) for name, meaning in meanings]
    return el("section", el("h2", "How to read this"), el("dl", *items), id="reading")
