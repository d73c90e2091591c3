"""Records -> one row per method: the one place that computes what tables, charts and exports show.

Records are grouped by what makes them comparable (stream, scenario, number of tasks, which outputs the loss sees). In a
group, runs that differ in their seed only form one row. Runs of one method under different settings form one row each,
and the label says what differs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from holdfast import metrics, registry
from holdfast.bench.records import likelihood
from holdfast.bench.records.by_class import measures
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig
from holdfast.bench.report.columns import METRICS, Estimate, PublishedValue
from holdfast.errors import DataError
from holdfast.registry import Bound

__all__ = [
    "BOUNDS",
    "CONTROLS",
    "Group",
    "SummaryRow",
    "groups",
    "hyperparameter_text",
    "is_untuned",
    "rows",
]

BOUNDS: Mapping[str, Bound] = {entry.name: entry.bound for entry in registry.entries() if entry.bound}
"""The floor and the ceiling: shown beside the methods, never marked best."""

FLOOR = registry.bound("floor").name
"""What protects nothing: the measure of every time per step."""

AUTOMATIC = {entry.name: entry.automatic for entry in registry.entries()}
"""The settings that a method may find itself."""

CONTROLS = frozenset(entry.name for entry in registry.entries() if entry.control)
"""What a method has to beat before it has shown anything."""


@dataclass(frozen=True)
class SummaryRow:
    """One method under one setting, over its seeds. ``estimates`` are in the units of the record."""

    stream: str
    scenario: str
    method: str
    label: str
    control: bool
    bound: Bound | None
    seeds: tuple[int, ...]
    hyperparameters: tuple[tuple[str, str], ...]
    settings: dict[str, str]
    estimates: dict[str, Estimate | None]
    best: frozenset[str]
    failures: tuple[tuple[int, str, str], ...]
    records: tuple[Record, ...]
    every_record: tuple[Record, ...] = field(repr=False)

    @property
    def untuned(self) -> bool:
        """Whether the strength, or every hyperparameter where there is none, stands at its documented default."""
        return all(is_untuned(record.config) for record in self.every_record)

    @property
    def marks(self) -> list[str]:
        """What must be known beside the label: a control, a strength found in training, or one that nobody chose."""
        automatic = all(record.config.automatic for record in self.every_record)
        return ["control"] * self.control + ["auto"] * automatic + ["default, untuned"] * self.untuned

    @property
    def front(self) -> str:
        """What this row is called with the others of its front: its method under several strengths, none chosen."""
        return str(self.every_record[0].config.extra.get("front", ""))

    def published(self, metric: str, values: Sequence[PublishedValue]) -> PublishedValue | None:
        """The published value that belongs to this row's metric, if one does."""
        names = (self.label,) if "label" in self.every_record[0].config.extra else (self.method, self.label)
        for value in values:
            if (
                value.metric == metric
                and value.method in names
                and value.stream in (None, self.stream)
                and value.scenario in (None, self.scenario)
            ):
                return value
        return None


@dataclass(frozen=True)
class Group:
    """Rows that may be compared, best average accuracy first, and the settings that all of them share."""

    stream: str
    scenario: str
    training_outputs: str
    task_names: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    common: dict[str, str]

    @property
    def title(self) -> str:
        """The stream and the scenario in words."""
        return f"{self.stream}, {self.scenario}-incremental"


def is_untuned(config: RunConfig) -> bool:
    """Whether the strength, or every hyperparameter where there is none, is a default that fits no run in particular.

    A strength that is found in training is none.
    """
    found = config.hyperparameters
    chosen = [found["strength"]] if "strength" in found else list(found.values())
    own = AUTOMATIC.get(config.method, frozenset())
    by_itself = config.automatic or any(found[name].value == "auto" for name in own & found.keys())
    return bool(chosen) and not by_itself and all(value.source == "default" for value in chosen)


def hyperparameter_text(values: Sequence[Hyperparameter]) -> str:
    """The value over the seeds, and how it was chosen: ``0.1 (default, untuned)``."""
    first = values[0]
    shown = ", ".join(dict.fromkeys(_text(value.value) for value in values))
    plain = first.source == "default" and not first.detail and first.value != "auto"
    how = "default, untuned" if plain else first.source
    stories = dict.fromkeys(value.story for value in values if value.story)
    story = next(iter(stories), "") if len(stories) <= 1 else "chosen for each seed"
    return f"{shown} ({how}{': ' + story if story else ''})"


def rows(
    records: Iterable[Record], *, controls: Collection[str] = CONTROLS, reference: str = FLOOR
) -> list[SummaryRow]:
    """Every row of every group, in the order in which the tables show them.

    Args:
        records: any runs, of any streams and methods.
        controls: methods to mark as controls.
        reference: the method whose time per step counts as 1; unless told otherwise, the one that protects nothing.

    Returns:
        One row per method and setting.

    Raises:
        DataError: if there is no record, or two of them differ in nothing but their results.
    """
    return [row for group in groups(records, controls=controls, reference=reference) for row in group.rows]


def groups(records: Iterable[Record], *, controls: Collection[str] = CONTROLS, reference: str = FLOOR) -> list[Group]:
    """The rows in their groups; the arguments are those of `rows`."""
    split: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        config = record.config
        names = (config.stream, config.scenario, config.training_outputs, *record.task_names)
        split.setdefault(names, []).append(record)
    if not split:
        raise DataError("There are no records to report; run a comparison first.")
    return [_group(members, controls, reference) for members in split.values()]


def _group(records: list[Record], controls: Collection[str], reference: str) -> Group:
    cells: dict[tuple[str, tuple[tuple[str, str], ...], str], list[Record]] = {}
    for record in records:
        key = (record.config.method, tuple(_settings(record).items()), record.config.extra.get("label", ""))
        cells.setdefault(key, []).append(record)
    references = [record for record in records if record.config.method == reference and record.status == "finished"]
    settings = {key: dict(key[1]) for key in cells}
    made = []
    for key, members in cells.items():
        members.sort(key=lambda record: record.config.seed)
        _refuse_twins(key[0], members)
        label = key[2] or _label(key[0], settings[key], [settings[other] for other in cells if other[0] == key[0]])
        made.append(_row(label, settings[key], members, controls, references))
    made.sort(key=_place)
    shared = dict.fromkeys(name for values in settings.values() for name in values)
    seen = {name: {values.get(name) for values in settings.values()} for name in shared}
    chosen = {name for record in records for name in record.config.hyperparameters}
    config = records[0].config
    return Group(
        stream=config.stream,
        scenario=config.scenario,
        training_outputs=config.training_outputs,
        task_names=tuple(records[0].task_names),
        rows=tuple(_mark_best(made)),
        common={name: str(*values) for name, values in seen.items() if len(values) == 1 and name not in chosen},
    )


def _place(row: SummaryRow) -> tuple[bool, float, float, str]:
    """Best first: by accuracy, or where texts are continued by what words are worth; then what did not finish."""
    return (
        row.estimates["average_accuracy"] is None, _mean(row, "perplexity"), -_mean(row, "average_accuracy"), row.label
    )  # fmt: skip


def _row(
    label: str,
    settings: dict[str, str],
    members: list[Record],
    controls: Collection[str],
    references: list[Record],
) -> SummaryRow:
    finished = tuple(record for record in members if record.status == "finished")
    measured = [_measure(record, references) for record in finished]
    config = members[0].config
    return SummaryRow(
        stream=config.stream,
        scenario=config.scenario,
        method=config.method,
        label=label,
        control=config.method in controls,
        bound=None if "front" in config.extra else BOUNDS.get(config.method),
        seeds=tuple(record.config.seed for record in finished),
        hyperparameters=tuple(
            (name, hyperparameter_text([record.config.hyperparameters[name] for record in members]))
            for name in config.hyperparameters
        ),
        settings=settings,
        estimates={metric.key: Estimate.of(values[metric.key] for values in measured) for metric in METRICS},
        best=frozenset(),
        failures=tuple((r.config.seed, r.status, r.failure) for r in members if r.status != "finished"),
        records=finished,
        every_record=tuple(members),
    )


def _measure(record: Record, references: list[Record]) -> dict[str, float | None]:
    costs, first = record.costs, record.first_answers
    return {
        "average_accuracy": metrics.average_accuracy(record.matrix),
        "forgetting": metrics.forgetting(record.matrix),
        "backward_transfer": metrics.backward_transfer(record.matrix),
        "learning_accuracy": metrics.learning_accuracy(record.matrix),
        "worst_case_accuracy": metrics.worst_case_accuracy(record.matrix),
        "forward_transfer": metrics.forward_transfer(record.matrix, record.initial),
        **measures(record.by_class),
        **likelihood.measures(record.likelihood),
        "step_time": _relative_step_time(record, references),
        "consolidate_seconds": costs.seconds_consolidate,
        "peak_memory": float(costs.peak_memory_bytes),
        "state_bytes": costs.state_bytes_per_parameter,
        "prequential_accuracy": None if first is None else first.accuracy,
        "no_change_accuracy": None if first is None else first.baseline,
        "temporal_kappa": None if first is None else first.kappa,
        "worst_window": None if first is None else first.worst,
    }


def _relative_step_time(record: Record, references: list[Record]) -> float | None:
    """Time per step over the reference's: same device; same optimizer and seed where there is such a run."""
    near = [r for r in references if r.config.device == record.config.device and r.costs.seconds_per_step > 0]
    for name in ("optimizer", "seed"):
        near = [r for r in near if getattr(r.config, name) == getattr(record.config, name)] or near
    if not near or not record.costs.steps:  # what takes no step is not infinitely fast at it
        return None
    return record.costs.seconds_per_step * len(near) / sum(r.costs.seconds_per_step for r in near)


def _settings(record: Record) -> dict[str, str]:
    """What distinguishes rows: hyperparameters by value, or by how they were chosen where that may differ by seed."""
    config = record.config
    chosen = {
        name: f"[{value.source}]" if value.source in ("grid", "tuned", "auto") else _text(value.value)
        for name, value in config.hyperparameters.items()
    }
    plain = {
        "model": config.model,
        **{f"model {name}": _text(value) for name, value in sorted(config.asked_of_model.items())},
        "optimizer": config.optimizer,
        "lr": _text(config.lr),
        **{f"optimizer {name}": _text(value) for name, value in sorted(config.optimizer_options.items())},
        "optimizer between tasks": config.optimizer_between_tasks,
        "epochs per task": str(config.epochs),
        "batch size": str(config.batch_size),
        "validation part": _text(config.validation_fraction),
        "device": config.device,
        "precision": config.precision,
        **({} if config.backbone is None else {"backbone": config.backbone}),
        **({} if config.outputs == "fixed" else {"outputs": config.outputs}),
        **({} if config.pretrain_epochs is None else {"first task": f"{config.pretrain_epochs} epochs beforehand"}),
        **({} if config.memory is None else {"memory": config.memory}),
        **({} if config.low_perplexity is None else {"words": f"of perplexity up to {_text(config.low_perplexity)}"}),
        **({} if config.prequential is None else {"window": f"{config.prequential} samples"}),
        **_unusual_test(config),
        **{name: _text(value) for name, value in sorted(config.extra.items()) if name not in ("label", "front")},
    }
    return {**chosen, **{name: value for name, value in plain.items() if name not in chosen}}


def _unusual_test(config: RunConfig) -> dict[str, str]:
    if (config.evaluate_on, config.evaluate_mode) == ("test", "eval"):
        return {}
    return {"tested on": f"{config.evaluate_on} data" + ", dropout on" * (config.evaluate_mode == "train")}


def _label(method: str, own: dict[str, str], siblings: list[dict[str, str]]) -> str:
    differing = [f"{name}={value}" for name, value in own.items() if any(s.get(name) != value for s in siblings)]
    return f"{method} ({', '.join(differing)})" if differing else method


def _refuse_twins(method: str, members: list[Record]) -> None:
    seeds = [record.config.seed for record in members]
    for seed in seeds:
        if seeds.count(seed) > 1:
            times = seeds.count(seed)
            raise DataError(f"Found {times} records of {method} with one setting and seed {seed}; keep one.")


def _mean(row: SummaryRow, key: str) -> float:
    estimate = row.estimates[key]
    return 0.0 if estimate is None else estimate.mean


def _mark_best(made: list[SummaryRow]) -> list[SummaryRow]:
    """Mark, in every column, the best of the rows that are not bounds; equal as printed is equally good."""
    contenders = [row for row in made if not row.bound]
    best: dict[str, set[str]] = {row.label: set() for row in made}
    for metric in METRICS:
        sign = 1 if metric.better == "higher" else -1
        printed = {}
        for row in contenders:
            estimate = row.estimates[metric.key]
            if estimate is not None:
                printed[row.label] = sign * round(estimate.mean * metric.scale, metric.digits)
        if len(printed) < 2 or len(set(printed.values())) < 2:
            continue  # nothing to choose between
        for label, value in printed.items():
            if value == max(printed.values()):
                best[label].add(metric.key)
    return [replace(row, best=frozenset(best[row.label])) for row in made]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
