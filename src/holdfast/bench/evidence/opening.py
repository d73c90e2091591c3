"""What a newcomer reads first: one protocol in every scenario, in a picture and in sentences that are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from holdfast.bench.evidence.experiments import Experiment, between
from holdfast.bench.evidence.findings import Tally, tally
from holdfast.bench.evidence.findings import percent as in_percent
from holdfast.bench.evidence.pictures import group_of
from holdfast.bench.evidence.texts import contained
from holdfast.bench.records.record import Scenario
from holdfast.bench.report import Estimate, Group, SummaryRow

__all__ = ["WORDS", "Scene", "in_a_line", "scenes", "scenes_of", "sentences"]

_ACCURACY = "average_accuracy"

WORDS: Mapping[str, tuple[str, str]] = {
    "task": ("Told which task it is", "a head per task, told at the test which one to use"),
    "domain": ("Not told, same outputs", "all tasks share their outputs, and the test does not say which task it is"),
    "class": ("Not told, all classes", "every class has its output, and all of them compete at the test"),
}
"""A scenario in words: short, and in a clause."""


@dataclass(frozen=True)
class Scene:
    """One part of an experiment as a newcomer looks at it: what was held without a method, with one, and at best."""

    experiment: Experiment
    part: str
    group: Group

    @property
    def scenario(self) -> str:
        """Its name in the field."""
        return self.group.scenario

    @property
    def seeds(self) -> int:
        """Of the row that has most."""
        return max(len(row.seeds) for row in self.group.rows)

    @property
    def finished(self) -> list[SummaryRow]:
        """The rows that have a finished run, best first."""
        return [row for row in self.group.rows if row.seeds]

    @property
    def floor(self) -> SummaryRow | None:
        """The best row without a method."""
        return next((row for row in self.finished if row.bound == "floor"), None)

    @property
    def ceiling(self) -> SummaryRow | None:
        """The row that learned all tasks at once."""
        return next((row for row in self.finished if row.bound == "ceiling"), None)

    @property
    def control(self) -> SummaryRow | None:
        """The best control that is no bound."""
        return next((row for row in self.finished if row.control and row.bound is None), None)

    @property
    def methods(self) -> list[SummaryRow]:
        """The rows that are neither bounds nor controls, best first, without those that never learned some task."""
        return [row for row in self._compared if row.label not in self.failed]

    @property
    def failed(self) -> list[str]:
        """Those that never learned some task."""
        return [row.label for row in self._compared if self.experiment.unlearned(self.part, row.label)]

    @property
    def _compared(self) -> list[SummaryRow]:
        return [row for row in self.finished if row.bound is None and not row.control]

    def more(self, one: SummaryRow, other: SummaryRow) -> bool | None:
        """Whether one row holds more than another, seed by seed at 95 %; ``None`` where they are not told apart."""
        found = between(self.experiment, self.part, (one.label, other.label))
        if found is None or found.half is None or abs(found.mean) <= found.half:
            return None
        return found.mean > 0


def scenes_of(experiment: Experiment) -> list[Scene]:
    """The parts of an experiment that have finished runs."""
    groups = ((part, group_of(experiment, part)) for part in experiment.recipe.parts)
    return [Scene(experiment, part, group) for part, group in groups if group is not None]


def scenes(experiments: Sequence[Experiment]) -> list[Scene]:
    """The protocol that was run in most scenarios, one of its parts for each, with most records where several have."""
    best: list[Scene] = []
    for experiment in sorted(experiments, key=lambda each: -len(each.records)):
        found: dict[str, Scene] = {}
        for scene in scenes_of(experiment):
            if len(scene.finished) > 1 and not contained(experiment, scene.part):
                found.setdefault(scene.scenario, scene)
        if len(found) > len(best):
            best = [found[name] for name in get_args(Scenario) if name in found]
    return best


def sentences(found: Sequence[Scene], experiments: Sequence[Experiment]) -> list[str]:
    """What the records say, for somebody who reads of this for the first time."""
    lines = [_asked(found)] if found else []
    for scene in found:
        short, clause = WORDS[scene.scenario]
        lines += [f"**{short}** (*{scene.scenario}-incremental*: {clause}). {_held(scene)}"]
        lines += [text] if (text := _controlled(scene)) else []
    lines += [text] if (text := _cost(found)) else []
    return [*lines, *_counted(tally(experiments))]


def _asked(found: Sequence[Scene]) -> str:
    group = found[0].group
    seeds = max(scene.seeds for scene in found)
    return (
        f"{len(group.task_names)} tasks of {group.stream} ({', '.join(group.task_names)}) are learned one after the "
        "other, without the data of the tasks before; the picture shows the average accuracy over all of them at the "
        f"end, the mean of {_count(seeds, 'seed')}, in {_count(len(found), 'scenario')}."
    )


def _held(scene: Scene) -> str:
    """What is left without a method, with all tasks at once, and by the method that held most."""
    clauses = []
    if scene.floor is not None:
        clauses.append(f"without a method {_percent(scene.floor)} are right at the end ({scene.floor.label})")
    if scene.ceiling is not None:
        clauses.append(f"with all tasks learned at once {_percent(scene.ceiling)}")
    if scene.methods:
        best = scene.methods[0]
        told = "" if scene.floor is None else _TOLD[scene.more(best, scene.floor)]
        clauses.append(f"the method that holds most is {best.label} with {_percent(best)}{told}")
    words = "; ".join(clauses)
    return f"{words[:1].upper()}{words[1:]}."


def _controlled(scene: Scene) -> str:
    """The methods beside the control; empty where there is none of one of them."""
    control = scene.control
    if control is None or not scene.methods:
        return ""
    sides: dict[bool | None, list[str]] = {True: [], None: [], False: []}
    for row in scene.methods:
        sides[scene.more(row, control)].append(row.label)
    verbs = {True: "held more", None: "cannot be told from it", False: "held less"}
    shown = [f"{_listed(labels)} {verbs[side]}" for side, labels in sides.items() if labels]
    return f"Beside the best control, {control.label} with {_percent(control)}: {'; '.join(shown)}."


def in_a_line(scene: Scene) -> tuple[str, str, str, str]:
    """No method, the method that held most, that one beside the best control, all at once; empty where missing."""
    best, control = next(iter(scene.methods), None), scene.control
    beside = ""
    if best is not None and control is not None:
        told = {True: "more than", None: "not told from", False: "less than"}[scene.more(best, control)]
        beside = f"{told} {_exactly(control)}"
    floor, held, ceiling = ("" if row is None else _exactly(row) for row in (scene.floor, best, scene.ceiling))
    if best is None and scene.failed:
        held = f"none learned every task ({_listed(scene.failed)})"
    return floor, held, beside, ceiling


def _exactly(row: SummaryRow) -> str:
    estimate = _accuracy(row)
    percent = Estimate(100 * estimate.mean, None if estimate.half is None else 100 * estimate.half, ())
    return f"{row.label} {in_percent(percent)}"


_TOLD = {
    True: ", more than no method",
    None: ", which is not told apart from no method",
    False: ", less than no method",
}


def _cost(found: Sequence[Scene]) -> str:
    """What the methods remember and how much longer their steps take, from the least to the most."""
    rows = [row for scene in found for row in scene.methods]
    state = _extremes(rows, "state_bytes")
    times = _extremes(rows, "step_time")
    clauses = []
    if state:
        clauses.append(f"a method remembers {state} bytes for each parameter of the model")
    if times:
        clauses.append(f"a training step takes {times} times as long as one without a method")
    return f"What that costs: {', and '.join(clauses)}." if clauses else ""


def _extremes(rows: Sequence[SummaryRow], key: str) -> str:
    """The smallest and the largest mean over the scenarios, with whose they are."""
    values: dict[str, list[float]] = {}
    for row in rows:
        estimate = row.estimates[key]
        if estimate is not None:
            values.setdefault(row.label, []).append(estimate.mean)
    means = {label: sum(each) / len(each) for label, each in values.items()}
    if not means:
        return ""
    low, high = min(means, key=lambda label: means[label]), max(means, key=lambda label: means[label])
    if f"{means[low]:.1f}" == f"{means[high]:.1f}":
        return f"{means[low]:.1f}"
    return f"{means[low]:.1f} ({low}) to {means[high]:.1f} ({high})"


def _counted(found: Tally) -> list[str]:
    """Over all protocols: how many pairs are told apart, how many published numbers are met."""
    lines = []
    if found.pairs:
        rest = f"{found.pairs - found.apart} are not"
        if found.unlearned:
            rest += f"; {found.unlearned} more cannot be compared, because a row never learned a task"
        lines.append(
            f"All protocols together set {_count(found.pairs, 'pair')} of rows side by side, seed by seed: "
            f"{found.apart} are told apart at 95 %, {rest}."
        )
    if found.published:
        lines.append(
            f"Of {_count(found.published, 'published number')} of the same protocol, {found.inside} lie in our 95 % "
            f"interval and {found.near} within one point of our mean."
        )
    return lines


def _percent(row: SummaryRow) -> str:
    return f"{100 * _accuracy(row).mean:.1f}\u00a0%"  # never the sign alone on the next line


def _accuracy(row: SummaryRow) -> Estimate:
    estimate = row.estimates[_ACCURACY]
    assert estimate is not None
    return estimate


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
