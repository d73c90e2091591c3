"""The page of results, as Markdown: tables, sentences that are computed from records, and how to make them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.bench import recipes
from holdfast.bench.evidence.experiments import Cell, Experiment, collect, distinct, verdict
from holdfast.bench.evidence.findings import Links, behind, found, gap, number_of, ours, title
from holdfast.bench.recipes import Part
from holdfast.bench.records.choice import tried
from holdfast.bench.records.record import Record

__all__ = ["render"]

_HEAD = """\
# Results

Made by `holdfast results` (or `make results`) from the records in `{folder}/`; do not edit it. Every number is computed
from a record, or is a published one, as its recipe has it with its source.

Accuracy in percent after the last task: the mean over seeds ± half the width of its 95 % interval (Student's t).
*Inside* means that the published number lies in that interval, which fewer than three seeds cannot say; *3 of 10*
seeds, that 10 are to be run and 3 have finished, which alone count. A strength that was chosen was chosen by validation
accuracy on the first seed, before the test set was read; where the best candidate lay at an end of its grid, further
ones were tried. *State* is what a method remembers, in bytes per parameter of the model.
"""


def render(folder: Path, *, name: str = "results", root: str = "../results") -> str:
    """The whole page.

    Args:
        folder: of results.
        name: what the page calls it.
        root: where it is, from the page.

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
        parts.append("\n".join(found(experiments, Links(root))))
        parts += [_experiment(experiment, root) for experiment in experiments]
        parts += _absent(experiments)
    return "\n".join(parts)


def _absent(experiments: Sequence[Experiment]) -> list[str]:
    """The published protocols that have no records, by name and variant."""
    known = {(experiment.recipe.name, experiment.variant) for experiment in experiments}
    lines = [
        f"- {name}" + (f", {variant}" if variant else "")
        for name in recipes.names()
        for variant in recipes.load(name).variants or [""]
        if (name, variant) not in known
    ]
    return ["\n".join(["## Not run yet", "", *lines, ""])] if lines else []


def _experiment(experiment: Experiment, root: str) -> str:
    recipe = experiment.recipe
    about = " ".join(recipe.about.split())
    lines = [f"## {title(experiment)}", "", f"{recipe.title}. Source: {recipe.source}.", "", about, ""]
    if experiment.variant:
        lines += [" ".join(recipe.variants[experiment.variant].about.split()), ""]
    lines += [*(f"- {' '.join(note.split())}" for note in recipe.notes), ""]
    for part_name, part in recipe.parts.items():
        cells = list(experiment.cells(part_name, part))
        if any(cell.records or cell.failed for cell in cells):
            lines += _table(experiment, part_name, part, cells)
            lines += _notes(experiment, part_name, Links(root))
        elif cells:
            lines += [f"### {part_name}: not run yet", ""]
    lines += _foot(experiment, root)
    return "\n".join(lines)


def _table(experiment: Experiment, name: str, part: Part, cells: Sequence[Cell]) -> list[str]:
    outputs = f", training sees the outputs {part.training_outputs}" if part.scenario == "class" else ""
    lines = [f"### {name}: {part.stream}, {part.scenario}-incremental{outputs}", ""]
    lines += [
        "| row | accuracy | seeds | ours (%) | published (%) | difference | verdict | by task | s per run | state | "
        "settings |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    beside = _beside(experiment, cells)
    lines += [
        _line(cell)
        for cell in cells
        if (cell.records or cell.failed) and (cell.task is None or (cell.records and (cell.label, cell.task) in beside))
    ]
    lines.append("")
    absent = distinct([cell.label for cell in cells if not cell.records and not cell.failed])
    if absent:
        lines += [f"Not run yet: {', '.join(absent)}.", ""]
    for cell in cells:
        if cell.failed and cell.task is None:
            lines += [f"{cell.label} did not finish: {_failures(cell.failed)}.", ""]
    return lines


def _notes(experiment: Experiment, part: str, links: Links) -> list[str]:
    sentences = behind(experiment, part, links)
    return [*(f"- {sentence}" for sentence in sentences), ""] if sentences else []


def _beside(experiment: Experiment, cells: Sequence[Cell]) -> set[tuple[str, int]]:
    """The rows and tasks with a line of their own: something was published of them, or of a row paired with them."""
    found = {(cell.label, cell.task) for cell in cells if cell.published is not None and cell.task is not None}
    pairs = [each.rows for each in experiment.recipe.paired]
    return found | {(b, task) for rows in pairs for a, b in (rows, rows[::-1]) for label, task in found if label == a}


def _failures(failed: Sequence[Record]) -> str:
    """The seeds by reason."""
    seeds: dict[str, list[str]] = {}
    for record in failed:
        reason = " ".join(record.failure.split()).rstrip(".") or record.status
        seeds.setdefault(reason, []).append(str(record.config.seed))
    return "; ".join(f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {reason}" for reason, of in seeds.items())


def _line(cell: Cell) -> str:
    theirs = "" if cell.theirs is None else f"{cell.theirs:.2f}"
    finished = len(cell.records)
    seeds = str(finished) if finished >= cell.planned else f"{finished} of {cell.planned}"
    if not cell.records:
        return _row([cell.label, number_of(cell), seeds, "", theirs, "", "no run finished", "", "", "", ""])
    first = cell.task is None
    costs = [record.costs for record in cell.records]
    seconds = sum(cost.seconds_total for cost in costs) / len(costs)
    values = [
        cell.label,
        number_of(cell),
        seeds,
        ours(cell),
        theirs,
        f"{gap(cell):+.2f}" if theirs else "",
        verdict(cell),
        _by_task(cell) if first else "",
        f"{seconds:.0f}" if first else "",
        f"{costs[0].state_bytes_per_parameter:.1f}" if first else "",
        _settings(cell.records[0]) if first else "",
    ]
    return _row(values)


def _row(values: Sequence[str]) -> str:
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
            grid = tried(record)
            edge = f", the {grid.edge} tried" if grid is not None and grid.edge else ""
            shown.append(f"{key} {_number(value.value)} (by validation{edge})")
        elif value.source != "default":
            shown.append(f"{key} {_number(value.value)}")
    if config.method != config.optimizer:
        shown.append(f"{config.optimizer} {config.lr:g}")
    return ", ".join(shown)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _foot(experiment: Experiment, root: str) -> list[str]:
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
        *experiment.commands,
        "```",
        "",
        f"Records: [{len(experiment.records)}]({root}/{experiment.folder}/records), "
        f"{seconds / 3600:.1f} hours in all. Ran on {'; '.join(sorted(machines))}; {'; '.join(sorted(versions))}.",
        "",
    ]
