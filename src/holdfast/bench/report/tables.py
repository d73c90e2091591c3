"""The methods x metrics table for the terminal, Markdown, CSV and LaTeX; all of it comes from `summary`."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from holdfast.bench.records.record import Record
from holdfast.bench.report.columns import BY_CLASS, METRICS, OF_WORDS, Estimate, Metric
from holdfast.bench.report.summary import CONTROLS, Group, SummaryRow, groups

__all__ = [
    "SHORT",
    "Cell",
    "TextTable",
    "cell",
    "format_estimate",
    "row_name",
    "streamed_metrics",
    "streamed_notes",
    "text_table",
    "to_csv",
    "to_latex",
    "to_markdown",
]

SHORT = ("average_accuracy", "forgetting", "learning_accuracy", "step_time", "peak_memory", "state_bytes")
"""The columns that fit a terminal; the page shows all of them."""

MISSING = "\u2013"
_LITTLE = ("average_accuracy", "forgetting", "learning_accuracy", "peak_memory")
"""What the accuracy of words says little of, so that there is room for what their likelihood says."""


@dataclass(frozen=True)
class Cell:
    """A text of a table, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table in plain text: the CLI gives it colours, Markdown gives it bars."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def format_estimate(estimate: Estimate | None, metric: Metric) -> str:
    """``mean ± half-width`` in the metric's unit on the page; the mean alone for one seed."""
    if estimate is None:
        return MISSING
    sign = "+" if metric.signed else ""
    mean = f"{estimate.mean * metric.scale:{sign}.{metric.digits}f}"
    if float(mean) == 0:
        mean = f"{0:.{metric.digits}f}"  # never "-0.00"
    if metric.exact and len(set(estimate.values)) == 1:
        return mean
    return mean if estimate.half is None else f"{mean} ± {estimate.half * metric.scale:.{metric.digits}f}"


def cell(row: SummaryRow, metric: Metric) -> Cell:
    """One metric of one row."""
    return Cell(format_estimate(row.estimates[metric.key], metric), metric.key in row.best)


def row_name(row: SummaryRow) -> str:
    """The row's label with its marks: a control, how its strength came about, seeds that failed."""
    marks = row.marks
    if row.failures:
        marks.append(f"{len(row.failures)} of {len(row.every_record)} seeds did not finish")
    return f"{row.label} [{'; '.join(marks)}]" if marks else row.label


def text_table(
    records: Iterable[Record], *, keys: Sequence[str] = SHORT, controls: Collection[str] = CONTROLS
) -> list[TextTable]:
    """One table per group of comparable runs.

    Args:
        records: any runs.
        keys: the metrics to show, by key, in order.
        controls: methods to mark as controls.

    Returns:
        Tables of plain text, best average accuracy first.

    Raises:
        DataError: if there is no record.
    """
    found = groups(records, controls=controls)
    return [table for group in found for table in _text_tables(group, _chosen(keys, group))]


def _text_tables(group: Group, chosen: list[Metric]) -> Iterator[TextTable]:
    """The table of a group; and one of what was answered before it was learned, where it was asked for."""
    yield _text_table(group, chosen)
    streamed = streamed_metrics(group)
    if streamed:
        table = _text_table(group, streamed)
        title = f"{group.title}, answered before learned"
        yield replace(table, title=title, notes=tuple(streamed_notes(group)))


def streamed_metrics(group: Group) -> list[Metric]:
    """The columns of answers before learning, if any row of a group has them."""
    return [m for m in METRICS if m.streamed and any(row.estimates[m.key] is not None for row in group.rows)]


def streamed_notes(group: Group) -> list[str]:
    """How to read the columns of :func:`streamed_metrics`, in sentences."""
    windows = sorted({r.config.prequential for row in group.rows for r in row.records if r.config.prequential})
    kappas = {row.label: row.estimates["temporal_kappa"] for row in group.rows}
    idle = [label for label, kappa in kappas.items() if kappa is not None and kappa.mean <= 0]
    shown = " or ".join(f"{window:,}" for window in windows)
    notes = [f"Windows of {shown} samples. It shows how fast one learns, not what is kept: read it beside forgetting."]
    if idle:
        notes.append(f"No better than repeating the last label: {', '.join(idle)}.")
    return notes


def _chosen(keys: Sequence[str], group: Group) -> list[Metric]:
    """The columns of a group's table; where its classes are told apart, theirs too, and none that is empty."""
    by_key = {metric.key: metric for metric in METRICS}
    chosen = [by_key[key] for key in keys]
    if any(row.estimates["perplexity"] is not None for row in group.rows):
        kept = [m for m in chosen if m.key not in (*OF_WORDS, *_LITTLE)]
        return [*(m for m in METRICS if m.key in OF_WORDS), *kept]
    if not any(record.by_class for row in group.rows for record in row.records):
        return chosen
    further = [by_key[key] for key in BY_CLASS if key not in keys]
    wide = ("forgetting", "learning_accuracy", "peak_memory")  # left to the page: too many would fit nowhere
    return [
        metric
        for metric in (*chosen[:1], *further, *chosen[1:])
        if any(row.estimates[metric.key] is not None for row in group.rows)
        and (metric.key not in wide or tuple(keys) != SHORT[: len(keys)])
    ]


def _head(metric: Metric) -> str:
    return f"{metric.short} ({metric.unit})" if metric.unit else metric.short


def _frequencies(group: Group) -> list[str]:
    """What many and few mean in a group's table, as a note."""
    found = dict.fromkeys(r.by_class.grouping for row in group.rows for r in row.records if r.by_class is not None)
    return [f"Classes by frequency: {'; '.join(found)}."] if found else []


def _text_table(group: Group, chosen: list[Metric]) -> TextTable:
    seeds, fewer = _seeds(group)
    notes = [f"Mean ± half-width of the 95 % interval over {seeds}. finetune and joint are bounds, never marked best."]
    notes += [fewer] if fewer else []
    notes += _frequencies(group)
    for row in group.rows:
        notes += [f"{row.label}, seed {seed}: {status}. {reason}".rstrip(" ") for seed, status, reason in row.failures]
    return TextTable(
        title=f"{group.title}, {len(group.task_names)} task{'s' * (len(group.task_names) != 1)}",
        headers=("Method", *(_head(metric) for metric in chosen)),
        rows=tuple((Cell(row_name(row)), *(cell(row, metric) for metric in chosen)) for row in group.rows),
        notes=tuple(notes),
    )


def _seeds(group: Group) -> tuple[str, str]:
    """Over how many seeds the rows are, and a sentence about those that have fewer than others; empty for none."""
    counts = {len(row.seeds) for row in group.rows if row.seeds}
    most = max(counts, default=0)
    seeds = f"{min(counts)} to {most} seeds" if len(counts) > 1 else f"{most} seed{'s' * (most != 1)}"
    fewer = [f"{row.label} ({len(row.seeds)})" for row in group.rows if len(row.seeds) < most]
    return seeds, f"Fewer seeds than {most}: {', '.join(fewer)}." if fewer else ""


def to_markdown(records: Iterable[Record], *, keys: Sequence[str] = SHORT, controls: Collection[str] = CONTROLS) -> str:
    """The tables of `text_table` in Markdown, best values in bold."""
    parts = []
    for table in text_table(records, keys=keys, controls=controls):
        lines = [f"**{_bars(table.title)}**", ""]
        lines.append("| " + " | ".join(map(_bars, table.headers)) + " |")
        lines.append("|---|" + "---:|" * (len(table.headers) - 1))
        for row in table.rows:
            shown = [f"**{_bars(entry.text)}**" if entry.best else _bars(entry.text) for entry in row]
            lines.append("| " + " | ".join(shown) + " |")
        parts.append("\n".join([*lines, "", *(f"{_bars(note)}  " for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def _bars(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def to_csv(records: Iterable[Record], *, controls: Collection[str] = CONTROLS) -> str:
    """Every metric of every row at full precision, in the units of the record (fractions, seconds, bytes).

    ``<metric>`` is the mean and ``<metric>_interval95`` the half-width of its interval, empty where there is none.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    about = "stream scenario training_outputs tasks method label control seeds not_finished hyperparameters".split()
    columns = [name for metric in METRICS for name in (metric.key, f"{metric.key}_interval95")]
    writer.writerow([*about, *columns])
    for group in groups(records, controls=controls):
        for row in group.rows:
            numbers: list[float | str] = []
            for metric in METRICS:
                estimate = row.estimates[metric.key]
                numbers.append("" if estimate is None else estimate.mean)
                numbers.append("" if estimate is None or estimate.half is None else estimate.half)
            chosen = "; ".join(f"{name}={text}" for name, text in row.hyperparameters)
            names = [row.method, row.label, str(row.control).lower(), len(row.seeds), len(row.failures), chosen]
            writer.writerow(
                [group.stream, group.scenario, group.training_outputs, len(group.task_names), *names, *numbers]
            )
    return buffer.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    MISSING: "--",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def to_latex(records: Iterable[Record], *, keys: Sequence[str] = SHORT, controls: Collection[str] = CONTROLS) -> str:
    """One ``table`` per group, for ``booktabs``; best values in bold, controls with a dagger."""
    parts = []
    for group in groups(records, controls=controls):
        chosen = _chosen(keys, group)
        heads = " & ".join(["Method", *(_latex(_head(metric)) for metric in chosen)])
        lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(chosen)}}}", r"\toprule"]
        lines += [rf"{heads} \\", r"\midrule"]
        for row in group.rows:
            name = _latex(row.label) + (r"$^\dagger$" if row.control else "")
            shown = [_latex(entry.text) for entry in (cell(row, metric) for metric in chosen)]
            bold = [
                rf"\textbf{{{text}}}" if metric.key in row.best else text
                for text, metric in zip(shown, chosen, strict=True)
            ]
            lines.append(" & ".join([name, *bold]) + r" \\")
        seeds, fewer = _seeds(group)
        caption = f"{group.title}, {len(group.task_names)} tasks: mean ± half-width of the 95 % interval over {seeds}."
        caption += f" {fewer}" if fewer else ""
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\caption{{{_latex(caption)} $^\dagger$ control.}}", r"\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
