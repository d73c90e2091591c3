"""The published numbers of a recipe, as the report draws them beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from holdfast.bench.recipes.schema import Published, Recipe, load, names
from holdfast.bench.records.record import Record
from holdfast.bench.report import PublishedValue

__all__ = ["markers", "markers_of"]


def markers(
    recipe: Recipe, variant: str, tasks: Mapping[str, int] | None = None, *, quick: bool = False
) -> list[PublishedValue]:
    """The published averages; where every task was published, but no average, the mean over the tasks.

    Args:
        recipe: the recipe.
        variant: the one that was run; empty: it has none.
        tasks: part -> how many tasks it has; a part that is missing here has no means over tasks.
        quick: whether it was the smaller version, whose numbers are not comparable.
    """
    found = []
    for name, part in recipe.parts.items():
        mine = recipe.reported(name, variant)
        for label in dict.fromkeys(label for each in mine for label in each.values):
            value = _average([each for each in mine if label in each.values], label, (tasks or {}).get(name))
            if value is not None:
                about, percent, differs = value
                differs = "a quick version" if quick else differs or part.differs
                source = about + (f"; protocol differs: {differs}" if differs else "")
                found.append(
                    PublishedValue(label, "average_accuracy", percent / 100, source, part.stream, part.scenario)
                )
            for each in (each for each in mine if each.measure != "average" and label in each.values):
                differs = "a quick version" if quick else each.differs or part.differs
                source = each.source + (f"; protocol differs: {differs}" if differs else "")
                key, share = each.measure.replace(" ", "_"), each.values[label] / 100
                found.append(PublishedValue(label, key, share, source, part.stream, part.scenario))
    return found


def _average(given: list[Published], label: str, tasks: int | None) -> tuple[str, float, str] | None:
    """Where a label's published average is from, the average in percent, and how its protocol differs."""
    given = [each for each in given if each.measure == "average"]
    for each in given:
        if each.task is None:
            return each.source, each.values[label], each.differs
    by_task = {each.task: each for each in given}
    if tasks is None or by_task.keys() != set(range(tasks)):
        return None
    ordered = [by_task[task] for task in range(tasks)]
    values = [each.values[label] for each in ordered]
    sources = ", ".join(dict.fromkeys(each.source for each in ordered))
    shown = ", ".join(f"{value:.2f}" for value in values)
    return f"{sources}: the mean over its tasks, {shown}", sum(values) / tasks, ordered[0].differs


def markers_of(records: Iterable[Record]) -> list[PublishedValue]:
    """The markers of every recipe and variant that some records are of; none for records of no recipe."""
    tasks: dict[tuple[str, str, bool], dict[str, int]] = {}
    for record in records:
        extra = record.config.extra
        name = extra.get("recipe")
        if name in names():
            part = extra.get("part") or next(iter(load(name).parts))
            tasks.setdefault((name, extra.get("variant", ""), bool(extra.get("quick"))), {})[part] = record.config.tasks
    return [
        marker
        for (name, variant, quick), counts in tasks.items()
        for marker in markers(load(name), variant, counts, quick=quick)
    ]
