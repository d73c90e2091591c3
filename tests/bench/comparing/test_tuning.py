"""Searches that cannot peek, can be killed, and say what they did."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest
import torch

from holdfast import ConfigurationError, StateError, registry
from holdfast.bench.comparing import compare, studies, tuning
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Split, Stream
from holdfast.bench.jobs import handing_out as executing
from holdfast.bench.jobs import work
from holdfast.bench.jobs.job import Job
from holdfast.bench.records.record import Record, without_times
from holdfast.bench.training import runner
from tests.bench.jobs.watching import Watching
from tests.bench.jobs.workers import Shelf, Work, fabricated

SMALL = {"limit_per_class": 20, "test_limit_per_class": 10}
QUICK = {"model": "mlp-8", "epochs": 1}


def comparison(*methods: str, seeds: int = 1, **fields) -> Comparison:
    stream = streams.build("split-digits", seed=0, **SMALL)
    return Comparison(
        stream, methods or ("ewc",), tuple(range(seeds)), changes=QUICK, fields={"stream_options": SMALL}, **fields
    )


def run(asked: tuning.Search, compared: Comparison, work, shelf=None, watching=None):
    """A search of the first method with a stand-in for training."""
    with executing.Local(work) as executor:
        return tuning.search(
            compared,
            compared.methods[0],
            asked,
            executor=executor,
            store=shelf or Shelf(),
            monitor=watching or Watching(),
        )


def tried(shelf: Shelf) -> list[float]:
    return [job.config.hyperparameters["strength"].value for job, _ in shelf.records]


def test_the_best_trial_wins_and_the_record_says_how(tmp_path):
    shelf = Shelf()
    chosen = run(tuning.Search(20), comparison(), Work(str(tmp_path)), shelf)
    values = tried(shelf)
    assert values[0] == registry.lookup("ewc").defaults["strength"] == "auto"  # so it is never worse than no search
    best = min(values[1:], key=lambda value: abs(torch.tensor(value).log10() - 3))
    strength = chosen["strength"]
    assert (strength.value, strength.source) == (best, "tuned")
    detail = re.fullmatch(
        r"best of 20 trials by validation accuracy over the first 3 tasks, seed 0: ([\d.]+)% in trial (\d+)",
        strength.story,
    )
    assert detail and values[int(detail[2])] == best
    where = registry.lookup("ewc").search["strength"]
    assert all(where.low <= value <= where.high for value in values[1:]) and len(set(values)) == 20
    late = [abs(torch.tensor(value).log10() - 3) for value in values[10:]]
    early = [abs(torch.tensor(value).log10() - 3) for value in values[1:10]]
    assert sum(late) / len(late) < sum(early) / len(early)  # it learns where to look


@pytest.mark.parametrize("killed_at", [1, 9, 15])
def test_a_killed_search_goes_on_with_the_same_suggestions(tmp_path, killed_at):
    undisturbed = Shelf()
    expected = run(tuning.Search(18), comparison(), Work(str(tmp_path)), undisturbed)
    asked = tuning.Search(18, storage=studies.file_url(tmp_path / "100% search?.db"))
    first, second, watching = Shelf(), Shelf(), Watching()
    with pytest.raises(ConfigurationError):
        run(asked, comparison(), Work(str(tmp_path), wrong=killed_at), first)
    assert tried(first) == tried(undisturbed)[:killed_at]
    chosen = run(asked, comparison(), Work(str(tmp_path)), second, watching)
    assert tried(first) + tried(second) == tried(undisturbed)
    assert chosen == expected
    assert watching.runs == 18 - killed_at
    assert run(asked, comparison(), Work(str(tmp_path), wrong=0)) == expected  # finished: nothing is done again


def test_a_search_can_be_extended_and_another_does_not_mix_with_it(tmp_path):
    url = studies.file_url(tmp_path / "search.db")
    run(tuning.Search(3, storage=url), comparison(), Work(str(tmp_path)))
    more = Shelf()
    run(tuning.Search(5, storage=url), comparison(), Work(str(tmp_path)), more)
    assert [job.config.extra["trial"] for job, _ in more.records] == [3, 4]
    for other, asked in (
        (comparison("si"), tuning.Search(3, storage=url)),
        (comparison(settings={"ewc": {"fisher": "empirical"}}), tuning.Search(3, storage=url)),
        (comparison(), tuning.Search(3, tasks=2, storage=url)),
    ):
        shelf = Shelf()
        run(asked, other, Work(str(tmp_path)), shelf)
        assert len(shelf.records) == 3


def test_suggestions_know_what_is_under_way():
    space = tuning.space(comparison(), "ewc")
    finished = {n: ({"strength": 10.0 ** (n % 7)}, 0.9 if n % 7 == 3 else 0.1) for n in range(12)}
    alone = studies.suggest(space, 12, seed=0, finished=finished)
    assert alone == studies.suggest(space, 12, seed=0, finished=finished)
    assert alone != studies.suggest(space, 12, seed=0, finished=finished, under_way=[alone] * 3)
    assert alone != studies.suggest(space, 12, seed=1, finished=finished)
    later = finished | {20: ({"strength": 1.0}, 1.0)}
    assert alone == studies.suggest(space, 12, seed=0, finished=later)  # only what came before counts


def test_a_trial_that_fails_cannot_win(tmp_path):
    def work(job: Job, stop) -> Record:
        record = fabricated(job)
        if job.config.hyperparameters["strength"].value == "auto":  # the default, and nearly the best
            return record.model_copy(update={"status": "failed", "failure": "the loss is not finite"})
        return record

    chosen = run(tuning.Search(4), comparison(), work)
    assert chosen["strength"].value != "auto"


def test_an_automatic_default_may_win_and_is_remembered_though_it_is_no_number(tmp_path):
    asked = tuning.Search(3, storage=studies.file_url(tmp_path / "search.db"))

    def work(job: Job, stop) -> Record:
        record = fabricated(job)
        good = [[1.0 if job.config.automatic else 0.5] * job.config.tasks]
        return record.model_copy(update={"matrix": good, "validation": good})

    def refuse(job: Job, stop) -> Record:
        raise AssertionError("every trial is in the database")

    chosen = run(asked, comparison(), work)
    assert (chosen["strength"].value, chosen["strength"].source) == ("auto", "tuned")
    assert tuning.finished(comparison(), "ewc", asked)[0] == ({"strength": "auto"}, 1.0)
    assert run(asked, comparison(), refuse) == chosen


def test_what_is_given_is_not_searched_and_some_methods_have_nothing_to_search():
    assert set(tuning.space(comparison("classp"), "classp")) == {"lr", "threshold"}
    given = comparison("classp", settings={"classp": {"lr": "0.1"}})
    assert set(tuning.space(given, "classp")) == {"threshold"}
    assert tuning.space(comparison(settings={"ewc": {"strength": "auto"}}), "ewc") == {}
    assert tuning.space(comparison(grids={"ewc": {"strength": ["1", "2"]}}), "ewc") == {}
    for method in ("finetune", "joint", "freeze"):
        assert tuning.space(comparison(method), method) == {}


def test_defaults_lie_where_a_search_looks_and_optuna_knows_every_range():
    for entry in registry.entries():
        for key, where in entry.search.items():
            default = entry.defaults[key]
            if (key, default) == ("strength", "auto"):
                continue
            assert studies.distribution(where, default)._contains(
                studies.distribution(where, default).to_internal_repr(default)
            ), f"{entry.name}.{key}"


def test_every_method_gets_the_same_number_of_trials(tmp_path):
    shelf, watching = Shelf(), Watching()
    compared = comparison("finetune", "ewc", "classp", "joint")
    with executing.Local(lambda job, stop: work.run_job(job)) as executor:
        chosen = tuning.search_all(compared, tuning.Search(3), executor=executor, store=shelf, monitor=watching)
    assert set(chosen) == {"ewc", "classp"} and set(chosen["classp"]) == {"lr", "threshold"}
    assert [job.config.method for job, _ in shelf.records] == ["ewc"] * 3 + ["classp"] * 3


class Poison:
    """Test data that must not be read: nothing can be done with it but to leave it out."""

    def __getitem__(self, key: slice) -> torch.Tensor:
        assert key == slice(None, 0), "the test data was read"
        return torch.empty(0, dtype=torch.int64)

    def __getattr__(self, name: str):
        raise AssertionError("the test data was read")


@pytest.fixture
def poisoned(monkeypatch) -> Iterator[list[Stream]]:
    """Every stream that is built has poisoned test data; the list has the streams that runs were given."""
    build, seen = streams.build, []

    def poison(*args, **kwargs) -> Stream:
        stream = build(*args, **kwargs)
        tasks = [dataclasses.replace(task, test=Split(Poison(), Poison(), Poison())) for task in stream.tasks]
        return dataclasses.replace(stream, tasks=tuple(tasks))

    class Watched(runner._Run):
        def __init__(self, config, stream, *rest) -> None:
            seen.append(stream)
            super().__init__(config, stream, *rest)

    monkeypatch.setattr(streams, "build", poison)
    monkeypatch.setattr(Stream, "to", lambda self, device: self)  # moving it would be reading it
    monkeypatch.setattr(runner, "_Run", Watched)
    yield seen


def test_test_data_cannot_reach_the_search(poisoned):
    """A search over real runs never touches the test data; a run that is not part of one does at once."""
    compared = comparison("ewc", "finetune")
    shelf = Shelf()
    with executing.Local(work.here(shelf, Watching())) as executor:
        chosen = tuning.search_all(compared, tuning.Search(3), executor=executor, store=shelf, monitor=Watching())
        assert len(poisoned) == 3 and chosen["ewc"]["strength"].source == "tuned"
        assert all(len(task.test) == 0 for stream in poisoned for task in stream)
        assert all(len(task.valid) > 0 and len(stream) == 3 for stream in poisoned for task in stream)
        with pytest.raises(AssertionError, match="the test data was read"):
            compare.execute([Job(compared.config("ewc", 0))], executor, shelf, Watching())


def test_other_test_data_changes_nothing_in_a_search_and_something_outside(monkeypatch):
    """The whole records of a search are equal, whatever the test data is."""
    build = streams.build

    def others(*args, **kwargs) -> Stream:
        stream = build(*args, **kwargs)
        tasks = [
            dataclasses.replace(task, test=dataclasses.replace(task.test, targets=1 - task.test.targets))
            for task in stream.tasks
        ]
        return dataclasses.replace(stream, tasks=tuple(tasks))

    found, tested = [], []
    for make in (build, others):
        monkeypatch.setattr(streams, "build", make)
        shelf = Shelf()
        with executing.Local(work.here(shelf, Watching())) as executor:
            tuning.search(comparison(), "ewc", tuning.Search(3), executor=executor, store=shelf, monitor=Watching())
        found.append([without_times(record) for _, record in shelf.records])
        tested.append(runner.run(comparison().config("ewc", 0)).matrix)
    assert found[0] == found[1]
    assert tested[0] != tested[1]


def test_the_score_is_over_the_first_tasks_or_all(tmp_path):
    for tasks, expected, words in (
        (2, 2, "the first 2 tasks"),
        (None, 5, "all tasks"),
        ("auto", 3, "the first 3 tasks"),
    ):
        shelf = Shelf()
        chosen = run(tuning.Search(1, tasks=tasks), comparison(), Work(str(tmp_path)), shelf)
        (job, _), *_ = shelf.records
        assert job.config.tasks == expected and not job.read_test
        assert f"over {words}" in chosen["strength"].story


def test_more_tasks_than_there_are_are_refused_and_a_short_stream_has_fewer_by_default():
    short = dataclasses.replace(comparison(), stream=streams.build("split-digits", seed=0, tasks=2))
    with pytest.raises(ConfigurationError, match="tasks is 9, but the stream 'split-digits' has 2 tasks"):
        tuning.check(short, tuning.Search(2, tasks=9))
    assert [config.tasks for config in tuning.check(short, tuning.Search(2))] == [2]
    with pytest.raises(ConfigurationError, match="tasks is 'few'; expected a whole number"):
        tuning.Search(2, tasks="few")


def test_without_validation_data_there_is_nothing_to_choose_by():
    compared = dataclasses.replace(comparison(), changes={**QUICK, "validation_fraction": 0.0})
    with pytest.raises(ConfigurationError, match="validation_fraction is 0"):
        tuning.check(compared, tuning.Search(2))


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"trials": 3, "tasks": 0}])
def test_a_search_of_nothing_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="expected at least 1"):
        tuning.Search(**wrong)


def test_a_database_is_tried_before_anything_is_made(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    studies.check(studies.file_url(out / "search.db"), made=out)
    with pytest.raises(StateError, match=f"there is no folder {other}"):
        studies.check(studies.file_url(other / "search.db"), made=out)
    there = tmp_path / "there.db"
    studies.Study(studies.file_url(there), "name", {}).close()
    before = there.read_bytes()
    studies.check(studies.file_url(there))
    assert there.read_bytes() == before
    there.write_bytes(b"not a database" * 400)
    with pytest.raises(StateError, match=r"storage: the database of searches .* delete it to go on"):
        studies.check(studies.file_url(there))
    assert [path.name for path in tmp_path.iterdir()] == ["there.db"]


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/at/all.db", "postgresql://me:secret@nowhere/db"])
def test_a_database_that_cannot_be_used_is_named_without_its_password(tmp_path, url):
    with pytest.raises(StateError, match="the database of searches") as caught:
        run(tuning.Search(2, storage=url), comparison(), Work(str(tmp_path)))
    assert "secret" not in str(caught.value)


def test_a_damaged_database_is_named(tmp_path):
    path = tmp_path / "search.db"
    path.write_bytes(b"not a database" * 400)
    with pytest.raises(
        StateError, match=r"search\.db cannot be used: .*; delete it to go on from the trials' own records"
    ):
        run(tuning.Search(2, storage=studies.file_url(path)), comparison(), Work(str(tmp_path)))
