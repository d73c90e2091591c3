"""Methods x seeds under one protocol: a list of independent jobs, and what chooses a grid's value without the test set.

A comparison runs in two rounds. First every candidate of a grid is trained on the first seed with the test parts taken
away, and the best by validation accuracy is chosen. Then every method runs on every seed with what was chosen; only
these runs read the test set, once each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from holdfast import registry
from holdfast.bench.comparing import plan, rehearsal
from holdfast.bench.comparing.protocols import TEXT_MODEL, protocol
from holdfast.bench.comparing.typed import typed
from holdfast.bench.data import pretrained, text
from holdfast.bench.data.tasks import Stream
from holdfast.bench.jobs.handing_out import Executor, carry_out
from holdfast.bench.jobs.job import Job, Monitor, Store
from holdfast.bench.records import choice as choices
from holdfast.bench.records.choice import By, Candidate, Choice
from holdfast.bench.records.record import Hyperparameter, Record, RunConfig
from holdfast.errors import ConfigurationError, Option

__all__ = [
    "Chosen",
    "Comparison",
    "Settings",
    "candidate",
    "candidates",
    "check",
    "choose",
    "execute",
    "jobs",
    "run",
    "score",
    "with_controls",
]

Settings = Mapping[str, Hyperparameter | str]
Chosen = Mapping[str, Hyperparameter]


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        stream: the stream as the first seed has it.
        methods: names of the registry, in the order in which they run.
        seeds: at least one.
        settings: method -> hyperparameter -> what the user typed.
        grids: method -> hyperparameter -> the candidates that the user typed.
        changes: fields of the stream's default protocol that are not to be the default.
        fields: further fields of every configuration.
        threads: what the user set, for the commands that repeat the runs.
    """

    stream: Stream
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Settings] = field(default_factory=dict)
    grids: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None

    @property
    def _model(self) -> str:
        return self.changes.get("model") or protocol(self.stream.name, self.stream.holds).model

    @property
    def _settled(self) -> dict[str, Any]:
        """The options of the model that follow from the stream, and from what lies at the model's place."""
        if pretrained.is_pretrained(self._model):
            return {"digest": pretrained.digest(self._model)}
        if self._model != "transformer" or self.stream.tokenizer is None or self.fields.get("model_options"):
            return {}
        width = TEXT_MODEL if self.stream.own else {}
        return {"text": {"vocabulary": text.vocabulary(self.stream.tokenizer), **width}}

    @cached_property
    def planned(self) -> Mapping[str, RunConfig]:
        """Method -> the configuration of its runs, before anything is chosen: each is planned once."""
        fields = dict(self.fields)
        if self.stream.own:
            fields["stream_options"] = {**fields.get("stream_options", {}), **self.stream.about, "own": self.stream.own}
        fields["model_options"] = {**self._settled, **fields.get("model_options", {})}
        return {
            method: plan.plan(
                self.stream,
                method,
                seed=self.seeds[0],
                settings=self.settings.get(method, {}),
                changes=self.changes,
                **fields,
            )
            for method in self.methods
        }

    def config(self, method: str, seed: int, chosen: Settings | None = None) -> RunConfig:
        """The configuration of one run, with some hyperparameters chosen."""
        return plan.settled(self.planned[method], chosen or {}, seed=seed)


def with_controls(methods: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The methods, each once, and the controls that some of them must be held against and that are missing.

    Example:
        >>> with_controls(["classp", "l2sp"])
        (('classp', 'l2sp'), ('adagrad',))
    """
    asked = tuple(dict.fromkeys(methods))
    wanted = dict.fromkeys(control for method in asked for control in registry.lookup(method).controls)
    return asked, tuple(control for control in wanted if control not in asked)


def _combinations(comparison: Comparison, method: str) -> list[dict[str, Hyperparameter]]:
    """Every candidate of a method's grid, in the order in which they were typed."""
    entry = registry.lookup(method)
    grid = comparison.grids[method]
    for key in grid:
        if key in comparison.settings.get(method, {}):
            raise ConfigurationError(
                f"{method}.{key} is given by ",
                Option("settings"),
                " and by ",
                Option("grids"),
                "; expected one of them",
            )
    values = [[typed(entry, key, text) for text in texts] for key, texts in grid.items()]
    for key, found in zip(grid, values, strict=True):
        if len(set(found)) < len(found):
            twice = ", ".join(map(str, found))
            raise ConfigurationError(Option("grids"), f" has a value twice for {method}.{key}: {twice}")
    return [
        {key: Hyperparameter(value=value, source="grid") for key, value in zip(grid, combination, strict=True)}
        for combination in itertools.product(*values)
    ]


def candidates(comparison: Comparison) -> dict[str, list[Job]]:
    """Method -> the jobs among which its grid chooses; they never see the test set.

    Raises:
        ConfigurationError: for a wrong grid, or one without validation data to choose by.
    """
    found = {}
    for method in comparison.grids:
        trials = []
        for chosen in _combinations(comparison, method):
            config = comparison.config(method, comparison.seeds[0], chosen)
            if config.validation_fraction == 0:
                raise ConfigurationError(
                    Option("grids"),
                    f" for {method} chooses by validation data, but ",
                    Option("validation_fraction"),
                    " is 0",
                )
            config = config.model_copy(update={"extra": {**config.extra, "tested on": "validation data"}})
            label = choices.label({key: parameter.value for key, parameter in chosen.items()})
            trials.append(Job(config, read_test=False, label=label))
        found[method] = trials
    return found


def score(record: Record) -> float | None:
    """Average validation accuracy after the last task that was learned; ``None`` for a run that failed.

    Of words it is their likelihood (geometric mean): the accuracy of a language model says little.
    """
    if record.status != "finished":
        return None
    if record.likelihood is not None:
        return record.likelihood.score
    row = record.validation[-1]
    return math.fsum(row) / len(row)


def candidate(config: RunConfig, record: Record, keys: Iterable[str], *, trial: int | None = None) -> Candidate:
    """What was tried in a run that chooses, and what came of it.

    Args:
        config: of the run.
        record: its record.
        keys: the hyperparameters that are chosen.
        trial: its number in a search.
    """
    values = {key: config.hyperparameters[key].value for key in keys}
    return Candidate(values=values, score=score(record), trial=trial)


def choose(trials: Sequence[Job], records: Sequence[Record], keys: Iterable[str]) -> dict[str, Hyperparameter]:
    """The candidate with the best average validation accuracy after the last task; the first of equals.

    Args:
        trials: a method's candidates.
        records: their records, in the same order; a failed one cannot win.
        keys: the hyperparameters that are chosen.

    Returns:
        Hyperparameter -> its value, with every candidate and its score.
    """
    keys = tuple(keys)
    found = [candidate(trial.config, record, keys) for trial, record in zip(trials, records, strict=True)]
    words = any(record.likelihood is not None for record in records)
    by: By = "validation likelihood" if words else "validation accuracy"
    choice = Choice(kind="grid", by=by, seed=trials[0].config.seed, candidates=tuple(found))
    values = choice.best.values
    return {key: Hyperparameter(value=values[key], source="grid", choice=choice) for key in keys}


def jobs(comparison: Comparison, chosen: Mapping[str, Chosen] | None = None) -> list[Job]:
    """The runs that read the test set: every method on every seed.

    Args:
        comparison: what is compared.
        chosen: method -> hyperparameter -> what its grid or a search chose.
    """
    found = []
    for method in comparison.methods:
        for seed in comparison.seeds:
            config = comparison.config(method, seed, (chosen or {}).get(method))
            found.append(Job(config, command=plan.command(config, threads=comparison.threads)))
    return found


def check(comparison: Comparison) -> None:
    """Refuse, before anything is trained, whatever would be refused later.

    Raises:
        ConfigurationError: in one sentence.
    """
    trials = candidates(comparison)
    for method in comparison.methods:
        configs = [job.config for job in trials.get(method, ())] or [comparison.config(method, comparison.seeds[0])]
        for config in configs:
            rehearsal.check(config, comparison.stream)


def execute(todo: Sequence[Job], executor: Executor, store: Store, monitor: Monitor) -> list[Record]:
    """Do jobs, leaving out those whose record is kept already.

    Returns:
        The records, in the order of the jobs.
    """
    found = {key: record for key, _, record in carry_out(todo, executor, store, monitor)}
    return [found[key] for key in range(len(todo))]


def run(
    comparison: Comparison,
    store: Store,
    monitor: Monitor,
    *,
    executor: Executor,
    chosen: Mapping[str, Chosen] | None = None,
) -> list[Record]:
    """Run a comparison: choose where there is a grid, then run every method on every seed.

    Args:
        comparison: what is compared.
        store: keeps every record as soon as it is there, and knows those of an earlier call.
        monitor: is told how it is getting on.
        executor: does the runs.
        chosen: method -> hyperparameter -> what a search has chosen already.

    Returns:
        The records of the runs that read the test set.
    """
    trials = candidates(comparison)
    monitor.planned(sum(map(len, trials.values())) + len(comparison.methods) * len(comparison.seeds))
    settled = dict(chosen or {})
    for method, tried in trials.items():
        records = execute(tried, executor, store, monitor)
        settled[method] = choose(tried, records, comparison.grids[method])
    return execute(jobs(comparison, settled), executor, store, monitor)
