"""Pictures of the results, drawn from records by the report's own charts: one SVG file each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from holdfast.bench.evidence.experiments import Experiment
from holdfast.bench.report import Group, PublishedValue, SummaryRow, groups
from holdfast.bench.report.charts import Series, drawn_forest, drawn_scatter, series_of
from holdfast.bench.report.panels import side_by_side

__all__ = ["group_of", "looks", "of_part", "overview"]

_WIDTH, _NAMES = 520.0, 180.0


def group_of(experiment: Experiment, part: str) -> Group | None:
    """The rows of one part, best first; ``None`` where no run has finished."""
    found = [record for row in experiment.rows(part) for record in experiment.of(part, row.label)]
    if not any(record.status == "finished" for record in found):
        return None
    return groups(found)[0]


def of_part(experiment: Experiment, part: str) -> str | None:
    """Every row of a part with its seeds and its interval, and published averages as rings.

    Returns:
        The text of an SVG file; ``None`` where there is nothing to be set side by side.
    """
    group = group_of(experiment, part)
    if group is None or len([row for row in group.rows if row.seeds]) < 2:
        return None
    if group.rows[0].estimates["perplexity"] is not None:
        fronts = drawn_scatter(
            _above_the_floor(group), "old_perplexity", "new_perplexity", looks(experiment), "↙ better",
            joined=True, width=2 * _WIDTH, height=620.0,
        )  # fmt: skip
        return None if fronts is None else fronts.alone()
    published = [
        PublishedValue(label, "average_accuracy", value / 100, each.source)
        for each in experiment.reported(part)
        if each.task is None and each.measure == "average"
        for label, value in each.values.items()
    ]
    drawing = drawn_forest(
        group, "average_accuracy", looks(experiment), published, width=_WIDTH, names=_NAMES, key_to_marks=True
    )
    return None if drawing is None else drawing.alone()


def _above_the_floor(group: Group) -> Group:
    """Without the rows of texts that lost more than plain fine-tuning and learned less: far from all others."""

    def lost_and_learned(row: SummaryRow) -> tuple[float, float]:
        found = [row.estimates[key] for key in ("old_perplexity", "new_perplexity")]
        old, new = (math.inf if each is None else each.mean for each in found)
        return old, new

    floor = next((lost_and_learned(row) for row in group.rows if row.bound == "floor"), (math.inf, math.inf))
    rows = [row for row in group.rows if any(a <= b for a, b in zip(lost_and_learned(row), floor, strict=True))]
    return dataclasses.replace(group, rows=tuple(rows))


def overview(panels: Sequence[tuple[str, str, Group]], experiment: Experiment) -> str:
    """The same methods under several scenarios of an experiment, side by side, as the text of an SVG file."""
    return side_by_side(panels, looks(experiment)).alone()


def looks(experiment: Experiment) -> dict[str, Series]:
    """How each row looks in all pictures of an experiment."""
    return series_of([group for part in experiment.recipe.parts if (group := group_of(experiment, part)) is not None])
