"""Jobs here, in other processes, and on Ray: each is done once, whoever dies."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import ConfigurationError, DependencyError, HoldfastError
from holdfast.bench.comparing import studies, tuning
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data import streams
from holdfast.bench.jobs import handing_out as executing
from holdfast.bench.jobs import processes as executors
from tests.bench.jobs.watching import Watching
from tests.bench.jobs.workers import Shelf, Task, Work

TASKS = [Task(number) for number in range(8)]


def done(executor: executing.Executor, todo=TASKS, shelf=None, watching=None) -> dict[int, int]:
    found = executing.carry_out(todo, executor, shelf or Shelf(), watching or Watching())
    return {key: record for key, _, record in found}


def test_jobs_are_done_here_one_after_the_other_and_asked_for_one_at_a_time(tmp_path):
    work, watching = Work(str(tmp_path)), Watching()
    asked: list[int] = []

    def todo() -> Iterator[Task]:
        for job in TASKS[:4]:
            asked.append(len(work.lines("finished")))
            yield job

    with executing.Local(work) as executor:
        assert done(executor, todo(), watching=watching) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert asked == [0, 1, 2, 3]  # each was asked for when the one before it was finished
    assert watching.ended == [(0, False), (1, False), (2, False), (3, False)]


def test_what_is_kept_already_is_not_done_again(tmp_path):
    work, watching, shelf = Work(str(tmp_path)), Watching(), Shelf()
    with executing.Local(work) as executor:
        done(executor, TASKS[1:4], shelf)
        assert done(executor, TASKS[:5], shelf, watching) == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert work.lines("finished") == [1, 2, 3, 0, 4]
    assert watching.ended == [(0, False), (1, True), (2, True), (3, True), (4, False)]
    assert len(shelf.records) == 5


def test_what_is_finished_is_kept_though_a_later_job_is_wrong(tmp_path):
    shelf = Shelf()
    with executing.Local(Work(str(tmp_path), wrong=2)) as executor, pytest.raises(ConfigurationError, match="job 2"):
        done(executor, TASKS, shelf)
    assert [job.number for job, _ in shelf.records] == [0, 1]


def test_a_process_that_dies_loses_no_finished_job(tmp_path):
    work, shelf = Work(str(tmp_path), fatal=4), Shelf()
    with executors.Processes(work, 2) as executor:
        assert done(executor, TASKS, shelf) == {number: number for number in range(8)}
    assert sorted(job.number for job, _ in shelf.records) == list(range(8))
    assert work.lines("begun").count(4) == 2 and work.lines("finished").count(4) == 1
    before = work.lines("begun").index(4)
    assert all(work.lines("finished").count(number) == 1 for number in work.lines("begun")[: before - 1])


def test_a_job_that_always_kills_its_process_is_given_up(tmp_path):
    with pytest.raises(HoldfastError, match="job 1: its worker process died 4 times"):
        with executors.Processes(Work(str(tmp_path), fatal=1, times=99), 1) as executor:
            done(executor)


def test_an_error_in_another_process_is_the_callers(tmp_path):
    with pytest.raises(ConfigurationError, match="job 3 is wrong"):
        with executors.Processes(Work(str(tmp_path), wrong=3), 1) as executor:
            done(executor)


def test_when_it_is_to_stop_the_other_processes_stop_too(tmp_path):
    work = Work(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        with executors.Processes(work, 1, stop=lambda: len(work.lines("finished")) >= 2) as executor:
            done(executor)
    assert len(work.lines("begun")) < len(TASKS)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'holdfast[ray]'")
@pytest.mark.filterwarnings("ignore")  # Ray leaves files and sockets to the interpreter, and warns of its own future
def test_a_search_on_ray_ends_with_every_trial_once_though_a_worker_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))  # where its workers find ours
    stream = streams.build("split-digits", seed=0, limit_per_class=5)
    comparison = Comparison(stream, ("ewc",), (0,), fields={"stream_options": {"limit_per_class": 5}})
    work, shelf, watching = Work(str(tmp_path), fatal=11), Shelf(), Watching()
    search = tuning.Search(24, storage=studies.file_url(tmp_path / "search.db"))
    with executors.build("ray", work, workers=2) as executor:
        chosen = tuning.search(comparison, "ewc", search, executor=executor, store=shelf, monitor=watching)
    assert sorted(job.config.extra["trial"] for job, _ in shelf.records) == list(range(24))
    assert sorted(watching.ended) == [(number, False) for number in range(24)]
    assert work.lines("begun").count(11) == 2 and sorted(work.lines("finished")) == list(range(24))
    trials = tuning.finished(comparison, "ewc", search)
    assert sorted(trials) == list(range(24))
    assert chosen["strength"].value == max(trials.values(), key=lambda trial: trial[1])[0]["strength"]


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("slurm", {}, "local, processes, ray"),
        ("local", {"workers": 3}, "workers=3 needs"),
        ("processes", {"ray_address": "host:1"}, "needs executor='ray'"),
    ],
)
def test_an_executor_that_cannot_be_is_refused(tmp_path, name, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        executors.build(name, Work(str(tmp_path)), **options)


def test_ray_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"holdfast\[ray\]"):
        executors.build("ray", Work(str(tmp_path)))
