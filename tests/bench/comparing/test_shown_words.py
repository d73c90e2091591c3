"""No program reads what is written for people: with every word of it changed, records are read as before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from holdfast.bench.comparing import refusing
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data.tasks import Stream
from holdfast.bench.evidence import experiments, page
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.job import Job, Silent
from holdfast.bench.records import choice as choices
from holdfast.bench.records.record import Hyperparameter, Record
from holdfast.bench.records.tried import tried
from holdfast.bench.training.checkpoint import identity
from holdfast.errors import ConfigurationError
from holdfast.strength import AutoStrength
from tests.bench.comparing.here import run_here
from tests.bench.evidence.make import HSU, SIX, fill, make
from tests.bench.training.stops import small_stream

pytest.importorskip("sklearn", reason="the bench's packages are not installed")


class Watching(Silent):
    def __init__(self) -> None:
        self.kept: list[bool] = []

    def ends(self, job: Job, record: Record, *, kept: bool) -> None:
        self.kept.append(kept)


@pytest.fixture
def stream() -> Stream:
    return small_stream()


def other_words(patch: pytest.MonkeyPatch) -> None:
    """Whatever is shown of how a value was chosen is in other words from now on."""
    patch.setattr(choices, "sentence", lambda choice: f"le meilleur de {choice.count}")
    patch.setattr(AutoStrength, "describe", lambda self, fraction: f"trois fois, {fraction}")


def comparison(stream: Stream, **fields: object) -> Comparison:
    changes = {"model": "mlp-8", "epochs": 2}
    extra = {"stream_options": {"tasks": 3}}
    return dataclasses.replace(Comparison(stream, ("ewc",), (0,), changes=changes, fields=extra), **fields)


def test_a_folder_accepts_its_own_records(tmp_path: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        (tmp_path / "grid", comparison(stream, grids={"ewc": {"strength": ["1", "10"]}}), 3),
        (tmp_path / "auto", comparison(stream, settings={"ewc": {"strength": "auto"}}), 1),
    ]
    before = [run_here(asked, Folder(path), Watching()) for path, asked, _ in wanted]
    other_words(monkeypatch)
    for (path, asked, runs), first in zip(wanted, before, strict=True):
        folder, watch = Folder(path), Watching()
        refusing.prepare(folder, asked)
        assert [record.matrix for record in run_here(asked, folder, watch)] == [record.matrix for record in first]
        assert watch.kept == [True] * runs


def test_a_folder_of_another_grid_is_still_refused(
    tmp_path: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(comparison(stream, grids={"ewc": {"strength": ["1", "10"]}}), Folder(tmp_path), Watching())
    other_words(monkeypatch)
    for texts in (["1", "10", "100"], ["1", "100"]):
        with pytest.raises(ConfigurationError, match="differs in hyperparameters"):
            refusing.prepare(Folder(tmp_path), comparison(stream, grids={"ewc": {"strength": texts}}))


def test_results_are_checked_and_told_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(
        tmp_path, [make("ewc", seed, [0.99 + seed / 1000] * 2, name=HSU, scores=SIX) for seed in range(3)], HSU
    )
    before = page.render(folder)
    other_words(monkeypatch)
    told = before["results/hsu-split-mnist.md"]
    assert page.render(folder) == before and "goes from 97.10 (10) to 99.51 (100000) over the 6" in told
    (experiment,) = experiments.collect(folder)
    grid = tried(experiment.records[0])
    assert grid is not None and grid.scores == {10: 97.1, 100: 97.5, 1e3: 98.41, 1e4: 99.1, 1e5: 99.51, 1e6: -1}


def test_another_citation_in_a_recipe_makes_no_record_another(tmp_path: Path) -> None:
    made = [make("l2sp", seed, [0.7, 0.8]) for seed in range(2)]
    told = {
        key: value.model_copy(update={"detail": f"somebody said, {value.detail}"})
        for key, value in made[0].config.hyperparameters.items()
    }
    assert any(value.source == "recipe" for value in told.values())
    config = made[0].config.model_copy(update={"hyperparameters": told})
    experiments.collect(fill(tmp_path, [made[0].model_copy(update={"config": config}), made[1]]))


def test_a_checkpoint_is_of_the_same_run(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = comparison(stream, settings={"ewc": {"strength": "auto"}})
    before = identity(asked.config("ewc", 0))
    other_words(monkeypatch)
    assert identity(asked.config("ewc", 0)) == before
    assert identity(asked.config("ewc", 0, {"strength": Hyperparameter(value=3.0, source="grid")})) != before


def test_the_words_do_change(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = make("ewc", 0, [0.9, 0.9], name=HSU, scores=SIX).config.hyperparameters["strength"]
    assert chosen.story.startswith("best of 6 by validation accuracy, seed 0: strength=100000.0 99.51%, ")
    assert chosen.story.endswith("strength=1000000.0 failed")
    other_words(monkeypatch)
    assert chosen.story == "le meilleur de 6"
