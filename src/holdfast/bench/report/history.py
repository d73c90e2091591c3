"""Charts over the stream: the accuracy matrix as a heat map, every task over time, and the training loss."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.bench.records.record import Record
from holdfast.bench.report.charts import Series
from holdfast.bench.report.columns import Estimate
from holdfast.bench.report.summary import Group, SummaryRow
from holdfast.bench.report.svg import Scale, axes, el, figure, marker, text, ticks

__all__ = ["STEPS", "heat", "loss", "lowest", "mean_matrix", "meeting", "panels", "timeline"]

STEPS = 20
"""Shades of the heat map; the style sheet has a class ``h0`` ... ``h20`` for each."""

MAX_PANELS = 11
_WIDTH = 340.0


def mean_matrix(row: SummaryRow) -> list[list[Estimate]]:
    """The accuracy matrix over the finished seeds, cell by cell."""
    matrices = [record.matrix for record in row.records]
    height = min((len(matrix) for matrix in matrices), default=0)
    cells = [[Estimate.of(m[i][j] for m in matrices) for j in range(len(matrices[0][0]))] for i in range(height)]
    return [[cell for cell in line if cell is not None] for line in cells]


def lowest(group: Group) -> float:
    """The floor of all accuracy axes of a group, in per cent: below its worst learned task, a multiple of ten."""
    values = [
        cell.mean
        for row in group.rows
        for i, line in enumerate(mean_matrix(row))
        for j, cell in enumerate(line)
        if j <= i or (len(line) > 1 and len(mean_matrix(row)) == 1)
    ]
    return min(90.0, max(0.0, 10.0 * ((100 * min(values, default=0.0) - 2) // 10)))


def heat(identity: str, group: Group, row: SummaryRow, floor: float) -> str:
    """The accuracy matrix: a row for each task learned, a column for each task tested. Cells to come are faint."""
    matrix = mean_matrix(row)
    if not matrix:
        return ""
    tasks = len(matrix[0])
    left, top = 62.0, 44.0
    size = (_WIDTH - left - 2) / tasks
    height = min(size, 44.0)
    gap = 1.0 if size > 14 else 0.4
    joint = len(matrix) == 1 and tasks > 1
    parts = [el("text", "tested on task", x=left, y=14.0, class_="label")]
    parts.append(el("text", "after", x=left - 8, y=34.0, class_="label", text_anchor="end"))
    every = 1 + (tasks - 1) // 10
    for j in range(0, tasks, every):
        parts.append(el("text", str(j + 1), x=left + size * (j + 0.5), y=34.0, class_="tick", text_anchor="middle"))
    for i, line in enumerate(matrix):
        if i % every == 0:
            name = "all" if joint else f"task {i + 1}"
            at = top + height * (i + 0.5) + 4
            parts.append(el("text", name, x=left - 8, y=at, class_="tick", text_anchor="end"))
        for j, cell in enumerate(line):
            shade = round(STEPS * min(1.0, max(0.0, (100 * cell.mean - floor) / (100 - floor))))
            x, y = left + size * j, top + height * i
            box = el("rect", x=x + gap, y=y + gap, width=size - 2 * gap, height=height - 2 * gap, rx=2.5 * gap)
            note = el("title", text(f"after task {i + 1}, on {group.task_names[j]}: {100 * cell.mean:.2f} %"))
            number = ""
            if tasks <= 10:
                middle = {"x": x + size / 2, "y": y + height / 2 + 4}
                number = el("text", f"{100 * cell.mean:.0f}", **middle, text_anchor="middle")
            future = " future" if j > i and not joint else ""
            parts.append(el("g", note, box, number, class_=f"cell h{shade}{future}"))
    last = ", ".join(f"{100 * cell.mean:.1f}" for cell in matrix[-1])
    description = f"Mean over seeds, per cent. At the end, tasks 1 to {tasks}: {last}."
    return figure(
        identity, _WIDTH, top + height * len(matrix) + 2, f"Accuracy matrix of {row.label}", description, *parts
    )


def panels(group: Group) -> list[int]:
    """The tasks that get a panel: all of them, or an even selection of a long stream."""
    tasks = len(group.task_names)
    if tasks <= MAX_PANELS:
        return list(range(tasks))
    return sorted({round(k * (tasks - 1) / (MAX_PANELS - 1)) for k in range(MAX_PANELS)})


def timeline(identity: str, group: Group, task: int | None, series: dict[str, Series], floor: float) -> str:
    """Accuracy on one task, or the mean over the tasks learned so far, as further tasks are learned."""
    tasks = len(group.task_names)
    title = "All tasks so far, mean" if task is None else f"Task {task + 1}: {group.task_names[task]}"
    x, y = Scale(0.7, tasks + 0.3, 38.0, _WIDTH - 8.0), Scale(floor, 101.0, 190.0, 28.0)
    marks_at = [t for t in range(1, tasks + 1) if tasks <= 10 or (t - 1) % (1 + (tasks - 1) // 10) == 0]
    parts = [axes(x, y, "after task", title, x_ticks=marks_at)]
    spoken = []
    for row in reversed(group.rows):  # the best is drawn last, on top
        matrix = mean_matrix(row)
        if not matrix:
            continue
        look = series[row.label]
        points = _course(matrix, task)
        if len(matrix) == 1 and tasks > 1:
            level = y(100 * points[0][1])
            drawn = el("line", x1=x.start, x2=x.end, y1=level, y2=level, class_="line", stroke_dasharray=look.dash)
        else:
            spots = [(x(at), y(max(floor, 100 * value))) for at, value in points]
            path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in spots)
            drawn = el("path", d=path, class_="line", stroke_dasharray=look.dash) if len(spots) > 1 else ""
            drawn += "".join(marker(look.shape, a, b, 3.2) for a, b in spots[:: 1 + (len(spots) - 1) // 10])
        ending = f"{row.label}: {100 * points[-1][1]:.2f} % at the end"
        spoken.append(ending)
        parts.append(el("g", el("title", text(ending)), drawn, class_=look.classes))
    return figure(identity, _WIDTH, 232.0, title, f"Accuracy in per cent. {'; '.join(reversed(spoken))}.", *parts)


def _course(matrix: list[list[Estimate]], task: int | None) -> list[tuple[int, float]]:
    """Pairs of (tasks learned, accuracy) from the moment a task was learned."""
    if len(matrix) == 1:
        line = [cell.mean for cell in matrix[0]]
        return [(len(line), sum(line) / len(line) if task is None else line[task])]
    if task is None:
        return [(i + 1, sum(cell.mean for cell in line[: i + 1]) / (i + 1)) for i, line in enumerate(matrix)]
    return [(i + 1, line[task].mean) for i, line in enumerate(matrix) if i >= task]


def meeting(identity: str, group: Group, series: dict[str, Series]) -> str:
    """The sliding accuracy of first answers along the stream, mean over seeds, and that of repeating the last label."""
    found = {row.label: [r.first_answers for r in row.records if r.first_answers] for row in group.rows}
    anyone = next(answers[0] for answers in found.values() if answers)
    x, y = Scale(0.0, float(anyone.samples), 38.0, _WIDTH - 8.0), Scale(0.0, 101.0, 190.0, 28.0)
    title = "Accuracy before learning, over a window"
    parts = [axes(x, y, "samples met", title, x_ticks=ticks(0, anyone.samples, 4), show=_thousands)]

    def path(at: Sequence[int], values: Sequence[float]) -> str:
        return "M" + "L".join(f"{x(a):.1f},{y(100 * value):.1f}" for a, value in zip(at, values, strict=True))

    parts.append(el("path", d=path(anyone.at, anyone.sliding_baseline), class_="line faint ceiling"))
    spoken = [f"repeating the last label {100 * anyone.baseline:.1f} %"]
    for row in reversed(group.rows):
        alike = [answers for answers in found[row.label] if answers.at == anyone.at]
        if alike:
            mean = [sum(values) / len(values) for values in zip(*(each.sliding for each in alike), strict=True)]
            words = f"{row.label} {100 * sum(each.accuracy for each in alike) / len(alike):.1f} %"
            line = el("path", d=path(anyone.at, mean), class_="line", stroke_dasharray=series[row.label].dash)
            parts.append(el("g", el("title", text(words)), line, class_=series[row.label].classes))
            spoken.append(words)
    return figure(identity, _WIDTH, 232.0, title, f"Right over the whole stream: {', '.join(spoken)}.", *parts)


def loss(identity: str, row: SummaryRow, look: Series) -> str:
    """The training loss of every seed, over the penalty's share of it as an area; empty where nothing was sampled."""
    runs = [record for record in row.every_record if _known(record)]
    if not runs:
        return ""
    top = max(value for record in runs for _, value in _known(record)) or 1.0
    end = max(max(record.curves.step) for record in runs) or 1
    x, y = Scale(0.0, float(end), 38.0, _WIDTH - 8.0), Scale(0.0, top * 1.05, 160.0, 28.0)
    title = f"{row.label}: training loss"
    parts = [axes(x, y, "step", title, x_ticks=ticks(0, end, 4), show=_thousands)]
    shares = _shares(runs[0])
    if shares:
        spots = [(x(step), y.start - share * (y.start - y.end)) for step, share in shares]
        outline = f"M{spots[0][0]:.1f},{y.start}L" + "L".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        parts.append(el("path", d=f"{outline}L{spots[-1][0]:.1f},{y.start}Z", class_=f"share {look.colour}"))
    for record in runs:
        path = "M" + "L".join(f"{x(step):.1f},{y(value):.1f}" for step, value in _known(record))
        parts.append(el("path", d=path, class_=f"line faint {look.colour}"))
    share = f" The penalty's share of the loss is {100 * shares[-1][1]:.1f} % at the end." if shares else ""
    description = f"Loss of {len(runs)} runs over {end} steps, at most {top:.3g}.{share}"
    return figure(identity, _WIDTH, 202.0, title, description, *parts)


def _finite(value: float | None) -> bool:
    return value is not None and abs(value) < float("inf")


def _known(record: Record) -> list[tuple[int, float]]:
    return [(s, v) for s, v in zip(record.curves.step, record.curves.loss, strict=True) if _finite(v)]


def _shares(record: Record) -> list[tuple[int, float]]:
    pairs = zip(record.curves.step, record.curves.penalty_share, strict=True)
    known: Sequence[tuple[int, float]] = [(s, min(1.0, max(0.0, v))) for s, v in pairs if v is not None and _finite(v)]
    return list(known)


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
