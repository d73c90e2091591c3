"""Records -> ``docs/results.md``: published numbers beside ours. No number in that page is typed by hand.

A folder of results holds one folder per recipe, or per variant of a recipe, each with the records of its runs. The same
records give the same page byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from holdfast.bench import metrics, recipes
from holdfast.bench import record as records
from holdfast.bench.recipes import Method, Paired, Part, Published, Recipe
from holdfast.bench.record import Record
from holdfast.bench.report import Estimate
from holdfast.errors import StateError

__all__ = ["Cell", "Difference", "Experiment", "collect", "differences", "verdict"]


@dataclass(frozen=True)
class Cell:
    """One number of ours: the accuracy of one row in one part, on average or on one task, and what was published."""

    label: str
    part: str
    task: int | None
    records: tuple[Record, ...]
    failed: tuple[Record, ...] = ()
    published: Published | None = None
    differs: str = ""

    @cached_property
    def estimate(self) -> Estimate | None:
        """Over the seeds, in percent; ``None`` where no run has finished."""
        return Estimate.of(100 * accuracy(record, self.task) for record in self.records)

    @property
    def theirs(self) -> float | None:
        """The published number, in percent."""
        return None if self.published is None else self.published.values[self.label]


def accuracy(record: Record, task: int | None) -> float:
    """Accuracy at the end, on average or on one task, as a fraction."""
    return metrics.average_accuracy(record.matrix) if task is None else record.matrix[-1][task]


@dataclass(frozen=True)
class Difference:
    """How much better one row is than another, seed by seed, in points of average accuracy."""

    paired: Paired
    part: str
    seeds: tuple[int, ...]
    estimate: Estimate

    @property
    def sentence(self) -> str:
        """The difference in words, as far as the seeds bear it out."""
        one, other = self.paired.rows
        mean, half = self.estimate.mean, self.estimate.half
        if half is None:
            return f"{one} is {mean:+.2f} points from {other} in one run, which shows nothing yet."
        over = f"{mean:+.2f} ± {half:.2f} points, paired over {len(self.seeds)} seeds"
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
    def command(self) -> str:
        """What to type to make all of its records again."""
        return recipes.command(self.recipe.name, self.variant)

    def of(self, part: str, label: str) -> list[Record]:
        """The records of a row, by seed."""
        found = [
            record
            for record in self.records
            if record.config.extra.get("part", part) == part and record.config.extra["label"] == label
        ]
        return sorted(found, key=lambda record: record.config.seed)

    def rows(self, part: str) -> list[Method]:
        """The rows that this part has in this variant."""
        return [
            row
            for row in self.recipe.methods
            if (not row.parts or part in row.parts) and (not row.variants or self.variant in row.variants)
        ]

    def cells(self, name: str, part: Part) -> Iterator[Cell]:
        """Every number of a part: each row's average, and the tasks for which something was published."""
        reported = [
            each
            for each in self.recipe.published
            if each.part in (None, name) and (not each.variants or self.variant in each.variants)
        ]
        tasks = sorted({each.task for each in reported if each.task is not None})
        for row in self.rows(name):
            found = self.of(name, row.label)
            finished = tuple(record for record in found if record.status == "finished")
            failed = tuple(record for record in found if record.status != "finished")
            for task in [None, *tasks]:
                theirs = next((each for each in reported if each.task == task and row.label in each.values), None)
                differs = (theirs.differs or part.differs) if theirs is not None else ""
                yield Cell(row.label, name, task, finished, failed, theirs, differs)


def collect(folder: Path) -> list[Experiment]:
    """The experiments in a folder of results, in the order of their names.

    Raises:
        StateError: if a record belongs to no recipe, or to one whose folder is another.
    """
    found = []
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
        _check(inner, recipe, variant, loaded)
        found.append(Experiment(recipe, variant, name, tuple(loaded)))
    return found


def _check(folder: Path, recipe: Recipe, variant: str, loaded: Iterable[Record]) -> None:
    labels = {row.label for row in recipe.methods}
    for record in loaded:
        extra = record.config.extra
        if (extra.get("recipe"), extra.get("variant", "")) != (recipe.name, variant):
            raise StateError(f"{folder} holds records of more than one recipe or variant; expected one")
        if extra.get("label") not in labels or extra.get("part", next(iter(recipe.parts))) not in recipe.parts:
            raise StateError(
                f"{folder} holds {records.filename(record)}, a row that the recipe {recipe.name} no longer has"
            )
        if extra.get("quick"):
            raise StateError(f"{folder} holds records of a quick version, which are no evidence")


def differences(experiment: Experiment) -> list[Difference]:
    """The recipe's pairs of rows, wherever both have finished runs of the same seeds."""
    found = []
    for part in experiment.recipe.parts:
        for paired in experiment.recipe.paired:
            one, other = (
                {r.config.seed: r for r in experiment.of(part, label) if r.status == "finished"}
                for label in paired.rows
            )
            seeds = tuple(sorted(one.keys() & other.keys()))
            estimate = Estimate.of(100 * (accuracy(one[s], None) - accuracy(other[s], None)) for s in seeds)
            if estimate is not None:
                found.append(Difference(paired, part, seeds, estimate))
    return found


def verdict(cell: Cell) -> str:
    """What our number says of the published one, in a few words; empty where there is nothing to compare."""
    ours, theirs = cell.estimate, cell.theirs
    if ours is None or theirs is None:
        return ""
    if cell.differs:
        return "protocol differs"
    if ours.half is None:
        return "one seed says nothing"
    if abs(ours.mean - theirs) <= ours.half:
        return "inside the interval"
    if min(ours.values) <= theirs <= max(ours.values):
        return "outside the interval, within the seeds' range"
    return "outside the interval"


def distinct(values: Sequence[str]) -> list[str]:
    """Each once, in the order of first appearance, without the empty ones."""
    return [value for value in dict.fromkeys(values) if value]
