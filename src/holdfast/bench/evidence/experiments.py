"""Records -> experiments: published numbers beside ours. No number in the pages made of them is typed by hand.

A folder of results holds one folder per recipe, or per variant of a recipe, each with the records of its runs. The same
records give the same pages byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from holdfast import metrics
from holdfast.bench import recipes
from holdfast.bench.evidence import check as results_check
from holdfast.bench.recipes import Method, Paired, Part, Published, Recipe
from holdfast.bench.records import record as records
from holdfast.bench.records.by_class import FREQUENCIES, measures
from holdfast.bench.records.record import Record
from holdfast.bench.report import Estimate
from holdfast.errors import StateError

__all__ = [
    "FEWEST",
    "Cell",
    "Difference",
    "Experiment",
    "accuracy",
    "between",
    "collect",
    "differences",
    "distinct",
    "measured",
    "verdict",
]


@dataclass(frozen=True)
class Cell:
    """One number of ours: the accuracy of one row in one part, on average or on one task, and what was published.

    ``planned`` is the number of seeds that the recipe says.
    """

    label: str
    part: str
    task: int | None
    records: tuple[Record, ...]
    failed: tuple[Record, ...] = ()
    published: Published | None = None
    differs: str = ""
    planned: int = 0
    measure: str = "average"

    @property
    def is_average(self) -> bool:
        """Whether it is the average over tasks: one such for every row."""
        return self.task is None and self.measure == "average"

    @property
    def place(self) -> tuple[str, int | None, str]:
        """Which number of its part it is."""
        return self.label, self.task, self.measure

    @cached_property
    def estimate(self) -> Estimate | None:
        """Over the seeds, in percent; ``None`` where no run has finished."""
        if self.task is not None:
            return Estimate.of(100 * accuracy(record, self.task) for record in self.records)
        found = [measured(record, self.measure) for record in self.records]
        return Estimate.of(None if value is None else 100 * value for value in found)

    @property
    def theirs(self) -> float | None:
        """The published number, in percent."""
        return None if self.published is None else self.published.values[self.label]


def accuracy(record: Record, task: int | None) -> float:
    """Accuracy at the end, on average or on one task, as a fraction."""
    return metrics.average_accuracy(record.matrix) if task is None else record.matrix[-1][task]


def measured(record: Record, measure: str) -> float | None:
    """What a pair of rows is compared by, as a fraction; ``None`` where the record has no such number."""
    if measure == "average":
        return accuracy(record, None)
    return measures(record.by_class)[measure.replace(" ", "_")]


FEWEST = 3
"""Seeds below which an interval is too wide to say anything of a published number."""


_WHERE = {"average": "", "last session": " after the last session"} | {
    which: f" on classes with {which} samples" for which in FREQUENCIES
}
"""What is measured -> how a sentence says so."""


@dataclass(frozen=True)
class Difference:
    """How much better one row is than another, seed by seed, in points of average accuracy.

    ``by_task`` is the same for the accuracy of single tasks; ``planned`` are the seeds that both rows are to have.
    """

    paired: Paired
    part: str
    seeds: tuple[int, ...]
    estimate: Estimate
    by_task: Mapping[int, Estimate] = field(default_factory=dict)
    planned: int = 0

    def sentence(self, shown: Callable[[str], str] = str) -> str:
        """The difference in words, as far as the seeds bear it out.

        Args:
            shown: gives a row's label as it is to stand there, such as a link.
        """
        one, other = map(shown, self.paired.rows)
        mean, half = self.estimate.mean, self.estimate.half
        if half is None:
            return f"{one} is {mean:+.2f} points from {other} in one run, which shows nothing yet."
        where, seeds = _WHERE[self.paired.measure], _of(len(self.seeds), self.planned)
        if not any(self.estimate.values):
            return f"{one} and {other} have the same accuracy{where} on each of {seeds} seeds."
        over = f"{mean:+.2f} ± {half:.2f} points{where}, paired over {seeds} seeds"
        if abs(mean) <= half:
            return f"{one} and {other} are not told apart ({over})."
        return f"{one} is {'better' if mean > 0 else 'worse'} than {other} ({over})."


@dataclass(frozen=True)
class Experiment:
    """The records of one recipe in one variant, and the folder that they lie in."""

    recipe: Recipe
    variant: str
    folder: str
    records: tuple[Record, ...] = field(repr=False)

    @property
    def commands(self) -> list[str]:
        """What to type to make all of its records again: these rows, with as many seeds as they have."""
        name, variant = self.recipe.name, self.variant
        rows = {
            (part, row.label): (found[-1].config.seed + 1, self.recipe.seeds_of(row, variant))
            for part in self.recipe.parts
            for row in self.rows(part)
            if (found := self.of(part, row.label))
        }
        counts = {count for count, _ in rows.values()}
        if all(count == planned for count, planned in rows.values()):
            wanted: dict[int | None, list[tuple[str, str]]] = {None: list(rows)}
        elif len(counts) == 1:
            wanted = {counts.pop(): list(rows)}
        else:
            wanted = {}
            for place, (count, planned) in rows.items():
                wanted.setdefault(None if count == planned else count, []).append(place)
        return [
            recipes.command(name, variant, labels, parts, seeds)
            for seeds, places in wanted.items()
            for labels, parts in self._selections(places)
        ]

    def _selections(self, places: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Rows as pairs of labels and parts, each empty where it means all."""
        labels_of: dict[str, list[str]] = {}
        for part, label in places:
            labels_of.setdefault(part, []).append(label)
        parts_of: dict[tuple[str, ...], list[str]] = {}
        for part, labels in labels_of.items():
            every = [row.label for row in self.rows(part)]
            parts_of.setdefault(() if labels == every else tuple(labels), []).append(part)
        return [
            (labels, () if parts == list(self.recipe.parts) else tuple(parts)) for labels, parts in parts_of.items()
        ]

    def of(self, part: str, label: str) -> list[Record]:
        """The records of a row, by seed."""
        first = next(iter(self.recipe.parts))
        found = [
            record
            for record in self.records
            if (record.config.extra.get("part", first), record.config.extra["label"]) == (part, label)
        ]
        return sorted(found, key=lambda record: record.config.seed)

    def finished(self, part: str, label: str) -> list[Record]:
        """Those of them that have finished."""
        return [record for record in self.of(part, label) if record.status == "finished"]

    def rows(self, part: str) -> list[Method]:
        """The rows that this part has in this variant."""
        return self.recipe.rows_of(part, self.variant)

    def reported(self, part: str) -> list[Published]:
        """What was published of this part, and applies to this variant."""
        return self.recipe.reported(part, self.variant)

    def unlearned(self, part: str, label: str) -> dict[int, Estimate]:
        """The tasks that a row never learned, and its accuracy right after each: not above the best constant answer's.

        Where the recipe does not say what that is, nothing is found.
        """
        found = {}
        finished = self.finished(part, label)
        for task, constant in enumerate(self.recipe.parts[part].constant if finished else []):
            after = [record.matrix[min(task, len(record.matrix) - 1)][task] for record in finished]
            estimate = Estimate.of(100 * value for value in after)
            if estimate is not None and estimate.mean - (estimate.half or 0.0) <= constant:
                found[task] = estimate
        return found

    def tasks(self, part: str) -> list[int]:
        """The tasks of which something was published."""
        return sorted({each.task for each in self.reported(part) if each.task is not None})

    def cells(self, name: str, part: Part) -> Iterator[Cell]:
        """Every number of a part: each row's average, and the tasks for which something was published."""
        reported = self.reported(name)
        for row in self.rows(name):
            found = self.of(name, row.label)
            finished = tuple(record for record in found if record.status == "finished")
            failed = tuple(record for record in found if record.status != "finished")
            planned = self.recipe.seeds_of(row, self.variant)
            for task in [None, *self.tasks(name)]:
                mine = [each for each in reported if each.task == task and row.label in each.values]
                theirs = next((each for each in mine if each.measure == "average"), None)
                differs = (theirs.differs or part.differs) if theirs is not None else ""
                yield Cell(row.label, name, task, finished, failed, theirs, differs, planned)
                for each in (each for each in mine if each.measure != "average"):
                    differs = each.differs or part.differs
                    yield Cell(row.label, name, task, finished, failed, each, differs, planned, each.measure)


def collect(folder: Path) -> list[Experiment]:
    """The experiments in a folder of results, in the order of their names.

    Raises:
        StateError: if a record belongs to no recipe, to one whose folder is another, or to an earlier version of it.
    """
    found: list[Experiment] = []
    for inner in sorted(folder.glob("**/records")):
        name = inner.parent.relative_to(folder).as_posix()
        loaded = records.load_all(inner)
        if not loaded:
            continue
        first = loaded[0].config.extra
        if first.get("recipe") not in recipes.names():
            raise StateError(f"{inner} holds records of no recipe; expected those of 'holdfast recipe run'")
        recipe = recipes.load(first["recipe"])
        variant = first.get("variant", "")
        results_check.check(inner, recipe, variant, loaded)
        twin = next((each for each in found if (each.recipe.name, each.variant) == (recipe.name, variant)), None)
        if twin is not None:
            raise StateError(f"{folder / twin.folder} and {inner.parent} hold records of one experiment; expected one")
        found.append(Experiment(recipe, variant, name, tuple(loaded)))
    return found


def between(
    experiment: Experiment, part: str, rows: tuple[str, str], task: int | None = None, measure: str = "average"
) -> Estimate | None:
    """How much better one row is than another, in points, seed by seed; ``None`` where no seed has finished in both.

    Args:
        experiment: theirs.
        part: where.
        rows: their labels.
        task: whose accuracy; ``None``: what is measured.
        measure: of :class:`~holdfast.bench.recipes.Paired`.
    """
    one, other = ({r.config.seed: r for r in experiment.finished(part, label)} for label in rows)
    seeds = sorted(one.keys() & other.keys())
    found = []
    for seed in seeds:
        ours, theirs = (
            accuracy(each[seed], task) if task is not None else measured(each[seed], measure) for each in (one, other)
        )
        found.append(None if ours is None or theirs is None else 100 * (ours - theirs))
    return Estimate.of(found)


def differences(experiment: Experiment, part: str) -> list[Difference]:
    """The recipe's pairs of rows in one part, wherever both have finished runs of the same seeds."""
    found = []
    for paired in experiment.recipe.paired:
        if paired.parts and part not in paired.parts:
            continue
        whole = between(experiment, part, paired.rows, measure=paired.measure)
        if whole is None:
            continue
        by_task = {task: between(experiment, part, paired.rows, task) for task in experiment.tasks(part)}
        known = {task: each for task, each in by_task.items() if each is not None}
        one, other = (experiment.finished(part, label) for label in paired.rows)
        seeds = tuple(sorted({r.config.seed for r in one} & {r.config.seed for r in other}))
        rows = [row for row in experiment.rows(part) if row.label in paired.rows]
        planned = min((experiment.recipe.seeds_of(row, experiment.variant) for row in rows), default=0)
        found.append(Difference(paired, part, seeds, whole, known, planned))
    return found


def verdict(cell: Cell) -> str:
    """What our number says of the published one, in a few words; empty where there is nothing to compare."""
    ours, theirs = cell.estimate, cell.theirs
    if ours is None or theirs is None:
        return ""
    if cell.differs:
        return "protocol differs"
    if len(ours.values) < FEWEST:
        return "too few seeds to say"
    if ours.half is not None and abs(ours.mean - theirs) <= ours.half:
        return "inside the interval"
    found = "outside the interval"
    if min(ours.values) <= theirs <= max(ours.values):
        found += ", within the seeds' range"
    if abs(ours.mean - theirs) <= 1:
        found += ", within one point"
    return found


def _of(count: int, planned: int) -> str:
    return f"{count} of {planned}" if count < planned else str(count)


def distinct(values: Sequence[str]) -> list[str]:
    """Each once, in the order of first appearance, without the empty ones."""
    return [value for value in dict.fromkeys(values) if value]
