"""Comparisons as lists of independent jobs, the choice of a grid, and the folder that keeps what is finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast import registry
from holdfast.bench.comparing import compare, refusing, typed
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Stream
from holdfast.bench.jobs import work
from holdfast.bench.jobs.folder import Folder, Memory
from holdfast.bench.jobs.job import Job, Silent
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Record, without_times
from holdfast.errors import ConfigurationError, StateError
from tests.bench.comparing.here import run_here

OPTIONS = {"limit_per_class": 12, "test_limit_per_class": 6}


@pytest.fixture(scope="module")
def stream() -> Stream:
    return streams.build("split-digits", seed=0, **OPTIONS)


def small(stream: Stream, methods: tuple[str, ...] = ("finetune", "ewc"), **fields: Any) -> Comparison:
    changes = {"model": "mlp-8", "epochs": 1, "batch_size": 16, **fields.pop("changes", {})}
    return Comparison(stream, methods, changes=changes, fields={"stream_options": OPTIONS}, **fields)


class Watch(Silent):
    """A monitor that writes down which jobs began, and which records were kept from before."""

    def __init__(self) -> None:
        self.runs = 0
        self.began: list[str] = []
        self.kept: list[str] = []

    def planned(self, runs: int) -> None:
        self.runs += runs

    def starts(self, job: Job) -> None:
        self.began.append(job.name)

    def ends(self, job: Job, record: Record, *, kept: bool) -> None:
        if kept:
            self.kept.append(job.name)


def test_every_method_runs_on_every_seed_under_one_protocol(stream: Stream) -> None:
    comparison = small(stream, ("finetune", "ewc", "classp"), seeds=(0, 1))
    todo = compare.jobs(comparison)
    assert [(job.config.method, job.config.seed) for job in todo] == [
        (method, seed) for method in ("finetune", "ewc", "classp") for seed in (0, 1)
    ]
    shared = {(job.config.model, job.config.epochs, job.config.batch_size, job.config.stream) for job in todo}
    assert shared == {("mlp-8", 1, 16, "split-digits")}
    assert all(job.read_test and job.command.startswith("holdfast run split-digits --method") for job in todo)


def test_a_job_gives_the_same_record_wherever_it_is_done(stream: Stream) -> None:
    comparison = small(stream)
    alone = work.run_job(compare.jobs(comparison)[1])
    among = run_here(comparison, Memory(), Watch())[1]
    assert without_times(alone) == without_times(among)


def test_a_method_brings_its_controls() -> None:
    assert compare.with_controls(["ewc", "ewc", "finetune"]) == (("ewc", "finetune"), ())
    assert compare.with_controls(["anastrophic", "l2sp"]) == (("anastrophic", "l2sp"), ("adagrad",))
    for name in ("classp", "anastrophic"):
        controls = registry.lookup(name).controls
        assert set(controls) == {e.name for e in registry.entries() if e.control and e.kind != "baseline"}


def test_the_grid_chooses_by_validation_accuracy_and_the_first_of_equals(stream: Stream) -> None:
    comparison = small(stream, ("ewc",), grids={"ewc": {"strength": ["1", "10", "100"]}})
    trials = compare.candidates(comparison)["ewc"]
    assert [job.read_test for job in trials] == [False] * 3
    base = work.run_job(trials[0])

    def scored(value: float, status: Any = "finished") -> Record:
        # The matrix points elsewhere: a choice that looked at it would be another one.
        row = [value] * 5
        return base.model_copy(update={"validation": [row], "matrix": [[1 - v for v in row]], "status": status})

    chosen = compare.choose(trials, [scored(0.5), scored(0.75), scored(0.75)], ["strength"])["strength"]
    assert (chosen.value, chosen.source) == (10.0, "grid")
    assert chosen.choice is not None and chosen.choice.seed == 0
    assert [(each.values, each.score) for each in chosen.choice.candidates] == [
        ({"strength": 1.0}, 0.5),
        ({"strength": 10.0}, 0.75),
        ({"strength": 100.0}, 0.75),
    ]
    assert chosen.story == (
        "best of 3 by validation accuracy, seed 0: strength=1.0 50.00%, strength=10.0 75.00%, strength=100.0 75.00%"
    )
    failed = compare.choose(trials, [scored(0.9, "failed"), scored(0.1), scored(0.2)], ["strength"])["strength"]
    assert failed.value == 100.0
    assert "strength=1.0 failed" in failed.story


def test_a_grid_of_several_keys_is_their_product(stream: Stream) -> None:
    grid = {"strength": ["1", "10"], "temperature": ["1", "2"]}
    watch = Watch()
    comparison = small(stream, ("lwf",), seeds=(0, 1), grids={"lwf": grid})
    found = run_here(comparison, Memory(), watch)
    assert watch.runs == 6
    assert [name for name in watch.began if "trying" in name] == [
        f"lwf, seed 0, trying strength={strength}, temperature={temperature}"
        for strength in ("1.0", "10.0")
        for temperature in ("1.0", "2.0")
    ]
    assert [(r.config.seed, r.status) for r in found] == [(0, "finished"), (1, "finished")]
    for key in grid:
        assert found[0].config.hyperparameters[key].choice == found[1].config.hyperparameters[key].choice is not None
    assert found[0].config.hyperparameters["variant"].source == "default"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"grids": {"ewc": {"strength": ["1", "x"]}}}, "ewc.strength is 'x'"),
        ({"grids": {"ewc": {"strength": ["1", "1.0"]}}}, "has a value twice"),
        ({"grids": {"ewc": {"strength": ["1"]}}, "settings": {"ewc": {"strength": "2"}}}, "by settings and by grids"),
        ({"grids": {"ewc": {"strength": ["1", "-1"]}}}, "strength is -1.0"),
        ({"grids": {"ewc": {"strength": ["1"]}}, "changes": {"validation_fraction": 0.0}}, "validation_fraction is 0"),
        ({"settings": {"ewc": {"strength": "-1"}}}, "strength is -1.0"),
    ],
)
def test_a_wrong_comparison_is_refused_before_it_begins(stream: Stream, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        compare.check(small(stream, **fields))


@pytest.mark.parametrize(
    ("texts", "methods", "words"),
    [
        (["strength"], ["ewc"], "expected KEY=VALUE"),
        (["=1"], ["ewc"], "expected KEY=VALUE"),
        (["strength=1"], ["ewc", "si"], "expected METHOD.KEY=VALUE"),
        (["lwf.strength=1"], ["ewc", "si"], "names the method 'lwf'; this compares ewc, si"),
        (["ewc.strength=1", "ewc.strength=2"], ["ewc"], "gives ewc.strength twice"),
    ],
)
def test_a_wrong_setting_is_refused(texts: list[str], methods: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        typed.per_method("--set", texts, methods)


def test_settings_go_to_their_methods() -> None:
    found = typed.per_method("--set", ["ewc.strength=1", "ewc.fisher=a=b", "si.damping = 2"], ["ewc", "si"])
    assert found == {"ewc": {"strength": "1", "fisher": "a=b"}, "si": {"damping": "2"}}
    assert typed.per_method("--set", ["strength=1"], ["ewc"]) == {"ewc": {"strength": "1"}}


def test_what_is_finished_is_kept_and_not_run_again(stream: Stream, tmp_path: Path) -> None:
    grids = {"ewc": {"strength": ["1", "10"]}}
    comparison = small(stream, grids=grids)
    folder = Folder(tmp_path / "deep" / "out")
    refusing.prepare(folder, comparison)
    first = run_here(comparison, folder, Watch())
    assert sorted(path.name for path in (folder.path / "records").iterdir()) == [
        "ewc-seed0.json",
        "finetune-seed0.json",
    ]
    assert len(list((folder.path / "choices").iterdir())) == 2
    assert folder.records() == sorted(first, key=lambda record: record.config.method)

    more = replace(comparison, seeds=(0, 1))
    refusing.prepare(folder, more)
    watch = Watch()
    second = run_here(more, folder, watch)
    assert watch.began == ["finetune, seed 1", "ewc, seed 1"]
    tried = [f"ewc, seed 0, trying strength={strength}" for strength in (1.0, 10.0)]
    assert watch.kept == [*tried, "finetune, seed 0", "ewc, seed 0"]
    assert [second[0], second[2]] == first


def test_a_failed_run_does_not_stop_the_others_and_is_run_again(stream: Stream, tmp_path: Path) -> None:
    comparison = small(stream, ("finetune", "classp"), changes={"optimizer": "sgd", "lr": 1e30})
    folder = Folder(tmp_path)
    refusing.prepare(folder, comparison)
    assert [record.status for record in run_here(comparison, folder, Watch())] == ["failed", "finished"]
    watch = Watch()
    run_here(comparison, folder, watch)
    assert watch.began == ["finetune, seed 0"]


def test_records_of_another_comparison_are_not_mixed_in(stream: Stream, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    comparison = small(stream, ("finetune",))
    refusing.prepare(folder, comparison)
    run_here(comparison, folder, Watch())
    others = {
        "epochs": small(stream, ("finetune",), changes={"epochs": 2}),
        "model": small(stream, ("ewc",), changes={"model": "mlp-9"}),
        "scenario": small(streams.build("split-digits", seed=0, scenario="class", **OPTIONS), ("ewc",)),
    }
    for differing, other in others.items():
        with pytest.raises(ConfigurationError, match=rf"finetune-seed0\.json differs in .*{differing}"):
            refusing.prepare(folder, other)
    refusing.prepare(folder, small(stream, ("ewc", "si"), seeds=(0, 1, 2)))


def test_another_grid_is_another_comparison(stream: Stream, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    comparison = small(stream, ("ewc",), grids={"ewc": {"strength": ["1", "10"]}})
    refusing.prepare(folder, comparison)
    run_here(comparison, folder, Watch())
    refusing.prepare(folder, comparison)
    for grids in ({"ewc": {"strength": ["1", "100"]}}, {"ewc": {"strength": ["1"]}}, {}):
        with pytest.raises(ConfigurationError, match=r"ewc-seed0\.json differs in hyperparameters"):
            refusing.prepare(folder, replace(comparison, grids=grids))


def test_a_folder_that_cannot_be_written_is_refused_before_training(stream: Stream, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        refusing.prepare(Folder(tmp_path / "file" / "out"), small(stream))


def test_a_file_that_is_not_a_record_is_named(stream: Stream, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "note.json").write_text("{}")
    with pytest.raises(StateError, match=r"note\.json is not a holdfast record"):
        refusing.prepare(Folder(tmp_path), small(stream))


def test_the_name_of_a_file_is_that_of_its_record(stream: Stream, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (job,) = compare.jobs(small(stream, ("finetune",), seeds=(3,)))
    record = work.run_job(job)
    folder.keep(job, record)
    assert (tmp_path / "records" / records.filename(record.config)).is_file()
    assert folder.find(job) == record
