"""What the records say, in sentences: each is computed, and links the records that it is computed from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.bench.evidence.experiments import (
    FEWEST,
    Cell,
    Difference,
    Experiment,
    differences,
    distinct,
    verdict,
)
from holdfast.bench.records.tried import tried
from holdfast.bench.report import Estimate

__all__ = [
    "Links",
    "Tally",
    "anchor",
    "behind",
    "found",
    "gap",
    "incomplete",
    "number_of",
    "ours",
    "percent",
    "tally",
    "title",
]


@dataclass(frozen=True)
class Links:
    """Where the page's links to records begin."""

    root: str

    def to(self, experiment: Experiment, part: str, label: str, name: str = "") -> str:
        """A row's name, or another one, as a link to its first record."""
        stem = f"{part}-{label}" if len(experiment.recipe.parts) > 1 else label
        seed = experiment.of(part, label)[0].config.seed
        return f"[{name or label}]({self.root}/{experiment.folder}/records/{stem}-seed{seed}.json)"


def found(experiment: Experiment, part: str, links: Links) -> list[str]:
    """The findings of one part; what lies behind them is :func:`behind`'s to say."""
    sentences = [_difference(each, experiment, links) for each in differences(experiment, part)]
    return sentences + _counted(_cells(experiment, part), experiment, links)


@dataclass(frozen=True)
class Tally:
    """Over all experiments: pairs of rows that are compared, and published numbers of the same protocol.

    ``apart`` of the ``pairs`` are told apart; ``unlearned`` more cannot be compared, a row never learned a task. Of the
    ``published`` numbers, ``inside`` lie in our interval and ``near`` within one point of our mean.
    """

    pairs: int = 0
    apart: int = 0
    unlearned: int = 0
    published: int = 0
    inside: int = 0
    near: int = 0


def tally(experiments: Iterable[Experiment]) -> Tally:
    """Count them."""
    pairs, unlearned, cells = [], 0, []
    inside = 0
    for experiment in experiments:
        for part in experiment.recipe.parts:
            judged, met, _ = _judged(_cells(experiment, part))
            cells += judged
            inside += len(met)
            for each in differences(experiment, part):
                if _failed(each, experiment):
                    unlearned += 1
                elif each.estimate.half is not None:
                    pairs.append(abs(each.estimate.mean) > each.estimate.half)
    near = sum(abs(gap(cell)) <= 1 for cell in cells)
    return Tally(len(pairs), sum(pairs), unlearned, len(cells), inside, near)


def behind(experiment: Experiment, part: str, links: Links) -> list[str]:
    """What lies behind the findings of one part: differences by task, and how far published numbers are explained."""
    cells = _cells(experiment, part)
    by_place = {(cell.label, cell.task): cell for cell in cells if cell.measure == "average"}
    sentences = [text for each in differences(experiment, part) if (text := _by_task(each, by_place))]
    return sentences + _never_learned(experiment, part) + _against_published(cells, experiment, links)


def _never_learned(experiment: Experiment, part: str) -> list[str]:
    """The rows that were no better than a constant answer right after a task, task by task."""
    rows = {row.label: experiment.unlearned(part, row.label) for row in experiment.rows(part)}
    sentences = []
    for task, constant in enumerate(experiment.recipe.parts[part].constant):
        shown = [f"{label} {percent(found[task])}" for label, found in rows.items() if task in found]
        if shown:
            after = f"({constant:.1f}) right after {_task(experiment, part, task)}"
            sentences.append(f"No better than the best constant answer {after}: {', '.join(shown)}.")
    return sentences


def _task(experiment: Experiment, part: str, task: int) -> str:
    """A task's name, as the records have it."""
    first = next(record for row in experiment.rows(part) for record in experiment.of(part, row.label))
    return first.task_names[task]


def _cells(experiment: Experiment, part: str) -> list[Cell]:
    return list(experiment.cells(part, experiment.recipe.parts[part]))


def incomplete(experiment: Experiment) -> str:
    """How many of its rows have all their seeds; empty where all have."""
    rows = [cell for part in experiment.recipe.parts for cell in _cells(experiment, part) if cell.is_average]
    whole = sum(len(cell.records) >= cell.planned for cell in rows)
    some = sum(0 < len(cell.records) < cell.planned for cell in rows)
    if whole == len(rows):
        return ""
    fewer = f", {some} have fewer" if some else ""
    return f"So far: of {len(rows)} rows, {whole} have all the seeds that the recipe says{fewer}."


def _difference(each: Difference, experiment: Experiment, links: Links) -> str:
    def linked(label: str) -> str:
        return links.to(experiment, each.part, label)

    why = f" {each.paired.why[0].upper()}{each.paired.why[1:]}." if each.paired.why else ""
    failed = _failed(each, experiment)
    if failed:
        shown = "; ".join(
            f"{label} did not learn {' and '.join(_task(experiment, each.part, task) for task in tasks)}"
            for label, tasks in failed.items()
        )
        sentence = f"{' and '.join(map(linked, each.paired.rows))} cannot be compared: {shown}."
    else:
        sentence = each.sentence(linked) + _reservations(each, experiment)
    return f"{sentence}{why}"


def _failed(each: Difference, experiment: Experiment) -> dict[str, dict[int, Estimate]]:
    """The rows of a pair that never learned some task, and their accuracies there."""
    return {label: found for label in each.paired.rows if (found := experiment.unlearned(each.part, label))}


def _reservations(each: Difference, experiment: Experiment) -> str:
    """What is to be held against a comparison: a strength at the end of its grid, or one method under two strengths."""
    said = ""
    first = [experiment.of(each.part, label)[0] for label in each.paired.rows]
    searched = [tried(record) for record in first]
    for label, grid in zip(each.paired.rows, searched, strict=True):
        if grid is not None and grid.edge:
            said += f" {label} has the {grid.edge} {grid.name} that was tried: a better one may lie beyond."
    one, other = searched
    same = first[0].config.method == first[1].config.method
    if same and one is not None and other is not None and one.name == other.name and one.chosen != other.chosen:
        said += f" Each has its own {one.name}, {one.chosen:g} and {other.chosen:g}."
    return said


def _by_task(each: Difference, cells: Mapping[tuple[str, int | None], Cell]) -> str:
    """The same difference for every task of which something was published; empty where nothing was."""
    one, other = each.paired.rows
    if each.estimate.half is None or not each.by_task:
        return ""
    tasks = []
    for task, estimate in each.by_task.items():
        both = [cells[label, task] for label in each.paired.rows]
        shown = [ours(cell) + (f" ({cell.theirs:.2f} published)" if cell.theirs is not None else "") for cell in both]
        change = f"{estimate.mean:+.2f} ± {estimate.half:.2f} seed by seed"
        tasks.append(f"{number_of(both[0])} {' and '.join(shown)}, {change}")
    return f"{one} and {other}: {'; '.join(tasks)}."


def _judged(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell], list[Cell]]:
    """Rows with several seeds beside a number of the same protocol; those inside; those more than a point outside."""
    judged = [cell for cell in cells if verdict(cell) and not cell.differs and len(cell.records) >= FEWEST]
    inside = [cell for cell in judged if verdict(cell) == "inside the interval"]
    return judged, inside, [cell for cell in judged if cell not in inside and abs(gap(cell)) > 1]


def _counted(cells: Sequence[Cell], experiment: Experiment, links: Links) -> list[str]:
    """How many published numbers of a part are met, and which are not."""
    judged, inside, far = _judged(cells)
    if not judged:
        return []
    near = sum(abs(gap(cell)) <= 1 for cell in judged)
    count = f"{len(judged)} published number{'s' * (len(judged) != 1)}"
    wide = sum(abs(gap(cell)) > 1 for cell in inside)
    but = f" ({wide} of them more than a point away)" if wide else ""
    sentence = f"Of {count}, {len(inside)} inside our interval{but}, {near} within one point of our mean."
    if far:
        sentence += f" Outside and further away (ours less theirs): {_linked(far, experiment, links)}."
    return [sentence]


def _linked(some: Iterable[Cell], experiment: Experiment, links: Links) -> str:
    return ", ".join(
        f"{links.to(experiment, cell.part, cell.label)} {number_of(cell)} {gap(cell):+.2f}"
        for cell in sorted(some, key=lambda cell: -abs(gap(cell)))
    )


def _against_published(cells: Sequence[Cell], experiment: Experiment, links: Links) -> list[str]:
    """What can be said of the published numbers that our mean is not close to."""
    judged, inside, far = _judged(cells)
    sentences = []
    wide = [cell for cell in inside if abs(gap(cell)) > 1]
    if wide:
        shown = _linked(wide, experiment, links)
        sentences.append(f"Inside our interval, though more than a point away (ours less theirs): {shown}.")
    for cell in far:
        for text in filter(None, (_single_run(cell), _strengths(cell))):
            sentences.append(f"{links.to(experiment, cell.part, cell.label)}: {text}")
    beside = [cell for cell in cells if verdict(cell)]
    alone = [cell for cell in beside if cell not in judged and not cell.differs]
    if alone:
        sentences.append(f"Too few seeds to say, yet (ours less theirs): {_linked(alone, experiment, links)}.")
    for reason in distinct([cell.differs for cell in beside]):
        shown = "; ".join(
            f"{links.to(experiment, cell.part, cell.label)} {number_of(cell)} {ours(cell)} here, "
            f"{cell.theirs:.2f} there"
            for cell in beside
            if cell.differs == reason
        )
        sentences.append(f"Not comparable, {reason}: {shown}.")
    return sentences


def _single_run(cell: Cell) -> str:
    """Where one run was reported: whether such a run may come out of ours; empty where it was not one."""
    assert cell.published is not None and cell.estimate is not None and cell.estimate.half is not None
    if cell.published.runs != 1:
        return ""
    half = cell.estimate.half * math.sqrt(1 + len(cell.records))  # the spread of a run, beside that of our mean
    where = "inside" if abs(gap(cell)) <= half else "outside"
    return (
        f"of {number_of(cell)} one run was reported, {cell.theirs:.2f}; at 95 % one more run of ours lies within "
        f"{cell.estimate.mean:.2f} ± {half:.2f}, and theirs is {where}."
    )


def _strengths(cell: Cell) -> str:
    """What the grid of a row says about its distance from the published number; empty where there is no such grid."""
    grid = tried(cell.records[0])
    if grid is None or not cell.is_average or len(grid.scores) < 2:
        return ""
    assert cell.theirs is not None
    finished = {value: score for value, score in grid.scores.items() if score >= 0}
    low, high = (pick(finished, key=lambda value: finished[value]) for pick in (min, max))
    text = (
        f"its {grid.name} is chosen by validation accuracy, which goes from {grid.scores[low]:.2f} ({low:g}) to "
        f"{grid.scores[high]:.2f} ({high:g}) over the {len(grid.scores)} that were tried"
    )
    if grid.scores[low] <= cell.theirs <= grid.scores[high]:
        text += f"; the published {cell.theirs:.2f} lies between, so the {grid.name} alone makes such a difference"
    else:
        text += f"; the published {cell.theirs:.2f} lies beyond, so the {grid.name} does not explain it"
    return text + (f". The {grid.edge} was chosen: a better one may lie beyond." if grid.edge else ".")


def gap(cell: Cell) -> float:
    """Ours less theirs, in points."""
    assert cell.estimate is not None and cell.theirs is not None
    return cell.estimate.mean - cell.theirs


def number_of(cell: Cell) -> str:
    """What the number is of: the average, or a task."""
    if cell.task is None:
        return cell.measure
    names = cell.records[0].task_names if cell.records else []
    return f"task {cell.task + 1}" + (f" ({names[cell.task]})" if names else "")


def ours(cell: Cell) -> str:
    """Our mean, with its interval if there are several seeds."""
    assert cell.estimate is not None
    return percent(cell.estimate)


def percent(estimate: Estimate) -> str:
    """A mean, with its interval if there are several seeds."""
    return f"{estimate.mean:.2f}" + (f" ± {estimate.half:.2f}" if estimate.half is not None else "")


def title(experiment: Experiment) -> str:
    """Its heading."""
    return experiment.recipe.name + (f", {experiment.variant}" if experiment.variant else "")


def anchor(experiment: Experiment) -> str:
    """Its heading as the target of a link."""
    return title(experiment).replace(", ", "-")
