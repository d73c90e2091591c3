"""Two pictures of the guide that are drawn from the bench's records: heads by task, and language models."""

from __future__ import annotations

import math
from pathlib import Path

from handbook.pictures import legend, line
from holdfast.bench.records import record
from holdfast.bench.records.record import Record
from holdfast.bench.report.svg import Drawing, Scale, axes, el, marker, span, text, ticks

__all__ = ["heads", "language_models"]

_SHOWN = ("slda", "ncm", "joint", "ewc", "finetune")


def heads(root: Path) -> Drawing:
    """Accuracy over all classes seen so far, after each task of the README's class-incremental demonstration."""
    found = _by_method(root / "docs/records/demo/class")
    tasks = len(found["slda"][0].task_names)
    x, y = Scale(1.0, tasks, 46.0, 470.0), Scale(0.0, 1.0, 270.0, 40.0)
    parts = [axes(x, y, "tasks learned", "accuracy over all classes seen so far", x_ticks=range(1, tasks + 1))]
    entries, ends = [], []
    for place, name in enumerate(_SHOWN):
        class_, dashed = ("ceiling", True) if name == "joint" else (f"c{place}", False)
        curves = [_seen(each) for each in found[name]]
        means = [(k + 1.0, sum(curve[k] for curve in curves) / len(curves)) for k in range(tasks)]
        if name == "joint":  # it learns all at once: one number
            means = [(1.0, means[-1][1]), means[-1]]
        parts.append(line(x, y, means, class_, dashed=dashed))
        parts += [marker(place, x(a), y(b), 4.0, f"mark {class_}") for a, b in means if name != "joint"]
        entries.append((name, class_, dashed))
        ends.append(f"{name} {100 * means[-1][1]:.0f} %")
    parts += [legend([entry], 490.0, 60.0 + 22.0 * place) for place, entry in enumerate(entries)]
    said = f"At the end: {', '.join(ends)}."
    return Drawing(610.0, 310.0, "Ten digits, two at a time: what is known after each task", said, tuple(parts))


def _seen(each: Record) -> list[float]:
    """The mean accuracy over the tasks seen, after each."""
    return [sum(row[: k + 1]) / (k + 1) for k, row in enumerate(each.matrix)] if len(each.matrix) > 1 else [
        sum(each.matrix[-1]) / len(each.matrix[-1])
    ] * len(each.task_names)  # fmt: skip


def language_models(root: Path) -> Drawing:
    """Perplexity of the old and of the new text at the end, by method: left and low is where one wants to be."""
    found = _by_method(root / "docs/records/lm-sequence")
    points = {name: tuple(_perplexity(records, task) for task in (0, 1)) for name, records in found.items()}
    before = math.exp(sum(each.likelihood.matrix[0][0] for each in found["finetune"] if each.likelihood) / 3)
    x = Scale(*span([new for _, new in points.values()], pad=0.14), 56.0, 520.0)
    y = Scale(*span([old for old, _ in points.values()] + [before], pad=0.1), 300.0, 40.0)
    parts = [axes(x, y, "perplexity of the new text", "perplexity of the old text", x_ticks=ticks(x.low, x.high, 5))]
    parts.append(line(x, y, [(x.low, before), (x.high, before)], "floor", dashed=True))
    parts.append(
        el("text", "old text, before the new one", x=x.end, y=y(before) + 16.0, class_="tick", text_anchor="end")
    )
    beside = {"hft": ("end", -9.0, 12.0), "olor": ("end", -9.0, -2.0)}  # where three stand together
    for place, (name, (old, new)) in enumerate(sorted(points.items())):
        class_ = {"finetune": "floor", "joint": "ceiling"}.get(name, f"c{place % 8}")
        parts.append(marker(place, x(new), y(old), 5.5, f"mark {class_}"))
        side, right, down = beside.get(name, ("start", 9.0, -6.0))
        parts.append(el("text", text(name), x=x(new) + right, y=y(old) + down, class_="tick", text_anchor=side))
    said = "; ".join(f"{name}: old {old:.0f}, new {new:.0f}" for name, (old, new) in sorted(points.items()))
    return Drawing(560.0, 342.0, "A language model learns a second kind of text", f"{said}.", tuple(parts))


def _perplexity(records: list[Record], task: int) -> float:
    losses = [each.likelihood.matrix[-1][task] for each in records if each.likelihood is not None]
    return math.exp(sum(losses) / len(losses))


def _by_method(folder: Path) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for each in record.load_all(folder):
        found.setdefault(each.config.method, []).append(each)
    return found
