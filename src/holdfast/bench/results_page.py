"""The page of results, as Markdown: tables, sentences that are computed from records, and how to make them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.bench.recipes import Part
from holdfast.bench.record import Record
from holdfast.bench.results import Cell, Difference, Experiment, collect, differences, distinct, verdict

__all__ = ["render"]

_HEAD = """\
# Results

Made by `holdfast results` (or `make results`) from the records in `{folder}/`; do not edit it. Every number is computed
from a record, or is a published one, as its recipe has it with its source.

Accuracy in percent after the last task: the mean over seeds ± half the width of its 95 % interval (Student's t).
*Inside* means that the published number lies in that interval. A strength that was chosen was chosen by validation
accuracy on the first seed, before the test set was read. *State* is what a method remembers, in bytes per parameter of
the model.
"""


def render(folder: Path, *, name: str = "results") -> str:
    """The whole page.

    Args:
        folder: of results.
        name: what the page calls it.

    Returns:
        Markdown, the same for the same records.

    Raises:
        StateError: if a file in it is not a record, or a record belongs to no recipe.
    """
    experiments = collect(folder) if folder.is_dir() else []
    parts = [_HEAD.format(folder=name)]
    if not experiments:
        parts.append("There are no records yet.\n")
    else:
        parts.append(_found(experiments, name))
        parts += [_experiment(experiment, name) for experiment in experiments]
    return "\n".join(parts)


def _found(experiments: Sequence[Experiment], name: str) -> str:
    lines = ["## What we found", ""]
    for experiment in experiments:
        where = f"[{_title(experiment)}](#{_anchor(experiment)})"
        sentences = [_difference(found, experiment, name) for found in differences(experiment)]
        for part_name, part in experiment.recipe.parts.items():
            sentences += _against_published(list(experiment.cells(part_name, part)), experiment, name)
        if sentences:
            lines += [f"**{where}**", "", *(f"- {sentence}" for sentence in sentences), ""]
    return "\n".join(lines)


def _difference(found: Difference, experiment: Experiment, name: str) -> str:
    where = f"{found.part}: " if len(experiment.recipe.parts) > 1 else ""
    evidence = ", ".join(_link(experiment, name, found.part, label) for label in found.paired.rows)
    why = f" {found.paired.why[0].upper()}{found.paired.why[1:]}." if found.paired.why else ""
    return f"{where}{found.sentence}{why} ({evidence})"


def _against_published(cells: Sequence[Cell], experiment: Experiment, name: str) -> list[str]:
    """How the published numbers of one part compare, in a sentence for each protocol that they are from."""
    comparable = [cell for cell in cells if verdict(cell)]
    where = f"{comparable[0].part}: " if comparable and len(experiment.recipe.parts) > 1 else ""
    sentences = []
    judged = [cell for cell in comparable if not cell.differs and cell.estimate and cell.estimate.half is not None]
    if judged:
        inside = sum(verdict(cell) == "inside the interval" for cell in judged)
        near = sum(abs(_gap(cell)) <= 1 for cell in judged)
        count = f"{len(judged)} published number{'s' * (len(judged) != 1)}"
        sentence = f"{where}of {count}, {inside} inside our interval, {near} within one point of our mean."
        far = [cell for cell in judged if verdict(cell) != "inside the interval" and abs(_gap(cell)) > 1]
        far.sort(key=lambda cell: -abs(_gap(cell)))
        if far:
            shown = (f"{_link(experiment, name, cell.part, cell.label)} {_of(cell)} {_gap(cell):+.2f}" for cell in far)
            sentence += f" Outside and further away (ours less theirs): {', '.join(shown)}."
        sentences.append(sentence)
    for reason in distinct([cell.differs for cell in comparable]):
        shown = (
            f"{_link(experiment, name, cell.part, cell.label)} {_of(cell)} {_ours(cell)} here, {cell.theirs:.2f} there"
            for cell in comparable
            if cell.differs == reason
        )
        sentences.append(f"{where}not comparable, {reason}: {'; '.join(shown)}.")
    return sentences


def _gap(cell: Cell) -> float:
    assert cell.estimate is not None and cell.theirs is not None
    return cell.estimate.mean - cell.theirs


def _experiment(experiment: Experiment, name: str) -> str:
    recipe = experiment.recipe
    about = " ".join(recipe.about.split())
    lines = [f"## {_title(experiment)}", "", f"{recipe.title}. Source: {recipe.source}.", "", about, ""]
    if experiment.variant:
        lines += [" ".join(recipe.variants[experiment.variant].about.split()), ""]
    lines += [*(f"- {' '.join(note.split())}" for note in recipe.notes), ""]
    for part_name, part in recipe.parts.items():
        cells = list(experiment.cells(part_name, part))
        if any(cell.records or cell.failed for cell in cells):
            lines += _table(experiment, part_name, part, cells)
    lines += _foot(experiment, name)
    return "\n".join(lines)


def _table(experiment: Experiment, name: str, part: Part, cells: Sequence[Cell]) -> list[str]:
    outputs = f", training sees the outputs {part.training_outputs}" if part.scenario == "class" else ""
    lines = [f"### {name}: {part.stream}, {part.scenario}-incremental{outputs}", ""]
    lines += [
        "| row | accuracy | seeds | ours (%) | published (%) | difference | verdict | by task | s per run | state | "
        "settings |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(cell) for cell in cells if cell.records and (cell.task is None or cell.published is not None)]
    lines.append("")
    absent = distinct([cell.label for cell in cells if not cell.records and not cell.failed])
    if absent:
        lines += [f"Not run yet: {', '.join(absent)}.", ""]
    for cell in cells:
        if cell.failed and cell.task is None:
            seeds = ", ".join(str(record.config.seed) for record in cell.failed)
            lines += [f"{cell.label} did not finish with seed {seeds}: {cell.failed[0].failure}", ""]
    reasons = distinct([cell.differs for cell in cells if cell.records])
    lines += [f"Protocol differs: {reason}." for reason in reasons] + [""] * bool(reasons)
    return lines


def _line(cell: Cell) -> str:
    estimate, theirs = cell.estimate, cell.theirs
    assert estimate is not None
    first = cell.task is None
    costs = [record.costs for record in cell.records]
    seconds = sum(cost.seconds_total for cost in costs) / len(costs)
    values = [
        cell.label,
        _of(cell),
        str(len(cell.records)),
        _ours(cell),
        "" if theirs is None else f"{theirs:.2f}",
        "" if theirs is None else f"{_gap(cell):+.2f}",
        verdict(cell),
        _by_task(cell) if first else "",
        f"{seconds:.0f}" if first else "",
        f"{costs[0].state_bytes_per_parameter:.1f}" if first else "",
        _settings(cell.records[0]) if first else "",
    ]
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"


def _by_task(cell: Cell) -> str:
    rows = [record.matrix[-1] for record in cell.records]
    return " / ".join(f"{100 * sum(column) / len(column):.1f}" for column in zip(*rows, strict=True))


def _settings(record: Record) -> str:
    """What makes the row, and where its values are from; defaults are left out."""
    config = record.config
    shown = []
    for key, value in config.hyperparameters.items():
        if value.source == "grid":
            shown.append(f"{key} {_number(value.value)} (by validation)")
        elif value.source != "default":
            shown.append(f"{key} {_number(value.value)}")
    if config.method != config.optimizer:
        shown.append(f"{config.optimizer} {config.lr:g}")
    return ", ".join(shown)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _foot(experiment: Experiment, name: str) -> list[str]:
    environments = [record.environment for record in experiment.records]
    machines = distinct(
        [f"{e.processor if e.device_name == 'cpu' else e.device_name}, {e.threads} CPU thread"
         f"{'s' * (e.threads != 1)} a run" for e in environments]
    )  # fmt: skip
    versions = distinct([f"Python {e.python}, PyTorch {e.torch}, holdfast {e.holdfast}" for e in environments])
    seconds = sum(record.costs.seconds_total for record in experiment.records)
    return [
        "Again:",
        "",
        "```",
        experiment.command,
        "```",
        "",
        f"Records: [{len(experiment.records)}](../{name}/{experiment.folder}/records), "
        f"{seconds / 3600:.1f} hours in all. Ran on {'; '.join(sorted(machines))}; {'; '.join(sorted(versions))}.",
        "",
    ]


def _of(cell: Cell) -> str:
    if cell.task is None:
        return "average"
    names = cell.records[0].task_names if cell.records else []
    return f"task {cell.task + 1}" + (f" ({names[cell.task]})" if names else "")


def _ours(cell: Cell) -> str:
    estimate = cell.estimate
    assert estimate is not None
    return f"{estimate.mean:.2f}" + (f" ± {estimate.half:.2f}" if estimate.half is not None else "")


def _title(experiment: Experiment) -> str:
    return experiment.recipe.name + (f", {experiment.variant}" if experiment.variant else "")


def _anchor(experiment: Experiment) -> str:
    return _title(experiment).replace(", ", "-")


def _link(experiment: Experiment, name: str, part: str, label: str) -> str:
    stem = f"{part}-{label}" if len(experiment.recipe.parts) > 1 else label
    return (
        f"[{label}](../{name}/{experiment.folder}/records/{stem}-seed{experiment.of(part, label)[0].config.seed}.json)"
    )
