"""Choosing hyperparameters without peeking: a search that sees validation data only, and can be killed at any time.

The trial with number n is suggested by a sampler made anew from the search's seed and n, out of the trials before n
that are finished. So a search that is killed and begun again goes on with the same suggestions. With several workers a
suggestion also depends on which trials are under way; then every trial is done and none twice, but they need not be
the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from holdfast import registry
from holdfast.bench.comparing import compare
from holdfast.bench.comparing.compare import Chosen, Comparison
from holdfast.bench.comparing.studies import Finished, Space, Study, Values, distribution, suggest
from holdfast.bench.data.language import HOLDS
from holdfast.bench.data.tasks import Stream
from holdfast.bench.jobs.handing_out import Executor, carry_out
from holdfast.bench.jobs.job import Job, Monitor, Store
from holdfast.bench.records import choice as choices
from holdfast.bench.records.choice import By, Candidate, Choice
from holdfast.bench.records.record import Hyperparameter, RunConfig
from holdfast.checks import check_count
from holdfast.errors import ConfigurationError, Option
from holdfast.registry import Value

__all__ = ["Search", "check", "finished", "search", "search_all", "space"]


_FEW = 3


@dataclass(frozen=True)
class Search:
    """How hyperparameters are chosen; every method gets the same.

    Args:
        trials: settings tried for each method, the defaults among them.
        tasks: the score is the average accuracy over the first so many tasks, after learning them; ``None``: all;
            ``"auto"``: three, or all of a stream that has fewer.
        storage: URL of the database that holds the studies; ``None``: memory, and the records in the folder.

    Raises:
        ConfigurationError: for a number below 1.
    """

    trials: int
    tasks: int | Literal["auto"] | None = "auto"
    storage: str | None = None

    def __post_init__(self) -> None:
        check_count("trials", self.trials)
        if self.tasks != "auto":
            check_count("tasks", self.tasks)

    def tasks_of(self, stream: Stream) -> int:
        """How many of a stream's tasks a trial learns.

        Raises:
            ConfigurationError: if the stream has not that many.
        """
        if self.tasks == "auto":
            return min(_FEW, len(stream))
        if self.tasks is not None and self.tasks > len(stream):
            raise ConfigurationError(
                Option("tasks"), f" is {self.tasks}, but the stream {stream.name!r} has {len(stream)} tasks"
            )
        return self.tasks or len(stream)


def space(comparison: Comparison, method: str) -> Space:
    """What is searched: the ranges of the registry, without what the user gave or chooses by a grid.

    Returns:
        Hyperparameter -> distribution; empty where there is nothing to choose.
    """
    entry = registry.lookup(method)
    if comparison.grids.get(method):
        return {}  # the grid chooses, among the defaults of the others
    settled = comparison.settings.get(method, {})
    return {key: distribution(where, entry.defaults[key]) for key, where in entry.search.items() if key not in settled}


class _Trials:
    """The trials of one method's search: which are done, which are under way, which comes next."""

    def __init__(self, comparison: Comparison, method: str, asked: Search) -> None:
        self.comparison, self.method, self.asked = comparison, method, asked
        self.space = space(comparison, method)
        self.seed = comparison.seeds[0]
        self.tasks = asked.tasks_of(comparison.stream)
        self.finished: dict[int, tuple[Values, float]] = {}
        self.under_way: dict[int, Values] = {}

    def job(self, index: int, values: Values) -> Job:
        """The run of one trial: the first tasks of the stream, without a test set."""
        chosen = {key: Hyperparameter(value=value, source="tuned") for key, value in values.items()}
        config = self.comparison.config(self.method, self.seed, chosen)
        if config.validation_fraction == 0:
            raise ConfigurationError(
                f"a search for {self.method} chooses by validation data, but ", Option("validation_fraction"), " is 0"
            )
        extra = {**config.extra, "tested on": "validation data", "trial": index}
        config = config.model_copy(update={"tasks": self.tasks, "extra": extra})
        return Job(config, read_test=False, label=f"trial {index}: {choices.label(values)}")

    def defaults(self) -> dict[str, Value]:
        """The first trial: whatever a search finds is at least as good on the data that it chooses by."""
        entry = registry.lookup(self.method)
        return {key: entry.defaults[key] for key in self.space}

    def __iter__(self) -> Iterator[Job]:
        """The jobs that are left; each is suggested when it is asked for."""
        for index in range(self.asked.trials):
            if index in self.finished:
                continue
            values = self.defaults()
            if index > 0:
                values = suggest(
                    self.space,
                    index,
                    seed=self.seed,
                    finished=self.finished,
                    under_way=list(self.under_way.values()),
                )
            self.under_way[index] = values
            yield self.job(index, values)

    def best(self) -> dict[str, Hyperparameter]:
        """The setting with the highest score, the first of equals, and how it was chosen."""
        found = tuple(
            Candidate(values=dict(values), score=score, trial=index)
            for index, (values, score) in sorted(self.finished.items())
            if index < self.asked.trials
        )
        tasks = None if self.tasks == len(self.comparison.stream) else self.tasks
        by: By = "validation likelihood" if self.comparison.stream.holds == HOLDS else "validation accuracy"
        choice = Choice(kind="search", by=by, seed=self.seed, tasks=tasks, candidates=found)
        values = choice.best.values
        return {key: Hyperparameter(value=values[key], source="tuned", choice=choice) for key in self.space}


def _name(trials: _Trials) -> str:
    """The study's name: searches that differ in anything but the number of trials do not mix."""
    fields = trials.job(0, trials.defaults()).config.model_dump(mode="json")
    for key in trials.space:
        del fields["hyperparameters"][key]
    asked = json.dumps([fields, {key: repr(where) for key, where in trials.space.items()}], sort_keys=True)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:12]
    return f"{fields['stream']}-{fields['scenario']}-{trials.method}-{digest}"


def check(comparison: Comparison, asked: Search) -> list[RunConfig]:
    """The configurations of the first trials, so that what is wrong is said before anything is trained.

    Raises:
        ConfigurationError: if there is nothing to choose by, or the stream has too few tasks.
    """
    trials = [_Trials(comparison, method, asked) for method in comparison.methods]
    return [one.job(0, one.defaults()).config for one in trials if one.space]


def finished(comparison: Comparison, method: str, asked: Search) -> Finished:
    """What a search's database says has been tried: trial -> its values and its score."""
    trials = _Trials(comparison, method, asked)
    study = Study(asked.storage, _name(trials), trials.space)
    try:
        return study.finished()
    finally:
        study.close()


def search(
    comparison: Comparison, method: str, asked: Search, *, executor: Executor, store: Store, monitor: Monitor
) -> Chosen:
    """Choose one method's hyperparameters on validation data, with the first of the seeds.

    Args:
        comparison: the protocol under which they will be used.
        method: a name of the registry.
        asked: how long to search, and by what.
        executor: does the trials.
        store: keeps their records.
        monitor: is told how it is getting on.

    Returns:
        Hyperparameter -> the value, with how it was chosen; empty where there is nothing to choose.

    Raises:
        ConfigurationError: if there is nothing to choose by.
        StateError: if the database cannot be used.
    """
    trials = _Trials(comparison, method, asked)
    if not trials.space:
        return {}
    study = Study(asked.storage, _name(trials), trials.space)
    try:
        trials.finished.update(study.finished())
        monitor.planned(sum(index not in trials.finished for index in range(asked.trials)))
        for _, job, record in carry_out(trials, executor, store, monitor):
            index = job.config.extra["trial"]
            values = trials.under_way.pop(index)
            found = compare.score(record) or 0.0  # a run that failed is as bad as can be
            study.write(index, values, found)
            trials.finished[index] = (values, found)
    finally:
        study.close()
    return trials.best()


def search_all(
    comparison: Comparison, asked: Search, *, executor: Executor, store: Store, monitor: Monitor
) -> dict[str, Chosen]:
    """Choose the hyperparameters of every method that has something to choose; each gets the same number of trials.

    Returns:
        Method -> hyperparameter -> the value, with how it was chosen.
    """
    found = {
        method: search(comparison, method, asked, executor=executor, store=store, monitor=monitor)
        for method in comparison.methods
    }
    return {method: chosen for method, chosen in found.items() if chosen}
