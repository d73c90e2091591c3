"""Grids that go on where they end, until the best candidate is inside."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.bench.comparing import compare, grids
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data import streams
from holdfast.bench.jobs.folder import Folder, Memory
from holdfast.bench.jobs.handing_out import Local, Stop
from holdfast.bench.jobs.job import Job, Silent
from holdfast.bench.jobs.progress import Lines
from holdfast.bench.records import record as records
from holdfast.bench.records.choice import Candidate, Choice
from holdfast.bench.records.record import Record
from tests.bench.records.make import make_record

pytest.importorskip("sklearn", reason="the bench's packages are not installed")

Accuracy = Callable[[float], float]


def a_comparison(values: list[str], method: str = "ewc", key: str = "strength") -> Comparison:
    return Comparison(streams.build("split-digits", seed=0), (method,), grids={method: {key: values}})


def choose(accuracy: Accuracy, *values: str, limit: int = grids.LIMIT, key: str = "strength", method: str = "ewc"):
    """The chosen value and everything that was tried, where accuracy is a function of the value."""
    tried: list[float] = []

    def work(job: Job, stop: Stop) -> Record:
        value = job.config.hyperparameters[key].value
        tried.append(value)
        found = accuracy(value)
        made = make_record(status="finished" if found >= 0 else "failed")
        return made.model_copy(update={"config": job.config, "validation": [[found] * 5]})

    comparison = a_comparison(list(values), method, key)
    (settled,) = grids.settle(
        {7: comparison}, Local(work), Memory(), Lines(Console(file=io.StringIO())), limit=limit
    ).values()
    return settled[key], tried


def around(best: float) -> Accuracy:
    return lambda value: 1 / (1 + abs(math.log(value / best)))


def test_a_best_candidate_inside_the_grid_is_believed() -> None:
    chosen, tried = choose(around(10), "10", "1", "100")
    assert chosen.value == 10 and tried == [10, 1, 100]


@pytest.mark.parametrize(("best", "more"), [(1e3, [1e3, 1e4]), (1e-2, [0.1, 0.01, 0.001])])
def test_a_best_candidate_at_an_end_is_followed_until_it_is_inside(best: float, more: list[float]) -> None:
    chosen, tried = choose(around(best), "10", "1", "100")
    assert chosen.value == best and tried == [10, 1, 100, *more]
    assert [each.values["strength"] for each in chosen.choice.candidates] == tried


def test_following_ends_somewhere() -> None:
    chosen, tried = choose(lambda value: value / (1 + value), "1", "10")
    assert tried == [1, 10, 100, 1000, 1e4] and chosen.value == 1e4
    chosen, tried = choose(lambda value: value / (1 + value), "1", "10", limit=0)
    assert tried == [1, 10] and chosen.value == 10


def test_an_end_as_good_as_the_best_is_followed_too() -> None:
    chosen, tried = choose(lambda value: 0.3 if value < 5 else 0.9 if value < 50 else 0.1, "0.1", "0.01", "1")
    assert tried == [0.1, 0.01, 1, 10, 100] and chosen.value == 10
    chosen, tried = choose(lambda value: 0.9 if value < 0.5 else 0.3, "0.1", "0.01", "1")
    assert tried == [0.1, 0.01, 1, 1e-3, 1e-4, 1e-5] and chosen.value == 0.1


def test_where_nothing_finished_nothing_is_followed() -> None:
    _, tried = choose(lambda value: -1.0, "1", "10")
    assert tried == [1, 10]


def test_a_candidate_that_diverges_ends_it() -> None:
    chosen, tried = choose(lambda value: -1.0 if value > 10 else value / 20, "1", "10")
    assert tried == [1, 10, 100] and chosen.value == 10


def test_what_the_method_refuses_is_not_tried() -> None:
    chosen, tried = choose(lambda value: value, "0.5", "0.9", method="online-ewc", key="decay")
    assert tried == [0.5, 0.9] and chosen.value == 0.9  # the next would be 2; a decay is at most 1


@pytest.mark.parametrize("values", [[1.0], [0.0, 1.0], [True, False], ["a", "b"], [1, 2]])
def test_a_grid_that_is_no_scale_has_nothing_beyond(values: list[object]) -> None:
    assert grids.beyond(values, values[-1]) is None
    assert grids.reach(values) == values


def test_neighbours_too_close_to_step_beyond_to_one_digit_end_it() -> None:
    assert grids.beyond([2.0, 2.1], 2.1) is None
    assert grids.beyond([0.01, 0.003], 0.01) == 0.03


def test_several_grids_take_their_rounds_together() -> None:
    rounds: list[list[str]] = []

    class Rounds(Silent):
        def planned(self, runs: int) -> None:
            rounds.append([])

    def work(job: Job, stop: Stop) -> Record:
        value = job.config.hyperparameters["strength"].value
        rounds[-1].append(f"{job.config.method} {value:g}")
        score = around(100 if job.config.method == "mas" else 1)(value)
        return make_record().model_copy(update={"config": job.config, "validation": [[score] * 5]})

    asked = {0: a_comparison(["1", "10"]), 1: a_comparison(["1", "10"], "mas")}
    settled = grids.settle(asked, Local(work), Memory(), Rounds())
    assert rounds == [["ewc 1", "ewc 10", "mas 1", "mas 10"], ["ewc 0.1", "mas 100"], ["mas 1000"], []]
    assert [settled[key]["strength"].value for key in (0, 1)] == [1, 100]


def test_a_run_whose_value_was_chosen_again_is_kept_and_says_so(tmp_path: Path) -> None:
    comparison = a_comparison(["1", "10"])
    (job, other) = compare.candidates(comparison)["ewc"]

    def final(at: Job, *scores: float) -> Job:
        candidates = tuple(Candidate(values={"strength": 10.0**k}, score=score) for k, score in enumerate(scores))
        choice = Choice(kind="grid", seed=0, candidates=candidates)
        chosen = {"strength": at.config.hyperparameters["strength"].model_copy(update={"choice": choice})}
        (found,) = compare.jobs(dataclasses.replace(comparison, grids={}), {"ewc": chosen})
        return found

    folder = Folder(tmp_path)
    (tmp_path / "checkpoints" / "ewc-seed0").mkdir(parents=True)  # as a process leaves it that dies at its very end
    first = final(job, 0.9, 0.8)
    made = make_record().model_copy(update={"config": first.config})
    folder.keep(first, made)
    assert folder.find(final(other, 0.9, 0.8)) is None
    kept = folder.find(final(job, 0.9, 0.8, 0.7))
    assert not (tmp_path / "checkpoints").exists()
    assert kept is not None and kept.config.hyperparameters["strength"].choice.count == 3
    assert records.load_all(tmp_path) == [kept]
    assert kept.model_copy(update={"config": first.config}) == made
