"""A first task that is learned beforehand: the same weights as in the run itself, once for all methods of a seed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench import compare
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.job import Job
from holdfast.bench.records.record import Record, RunConfig, without_times
from holdfast.bench.training import pretraining, runner
from holdfast.bench.training.checkpoint import Checkpoints
from holdfast.errors import ConfigurationError
from tests.bench.training.stops import run_with_stops, small_config, small_stream

pytest.importorskip("sklearn", reason="the bench's packages are not installed")


def started(stream: Any, method: str, **fields: Any) -> RunConfig:
    """A run of `small_config` whose first task is learned beforehand: as split-digits usually is, by Adam at 0.01."""
    backbone = fields.pop("backbone", None)
    config = small_config(stream, method, between="fresh", optimizer="adam", lr=0.01, **fields)
    first = {"epochs": config.epochs, "optimizer": "adam", "lr": 0.01}
    return RunConfig.model_validate({**config.model_dump(), "backbone": backbone, "pretraining": first})


def test_plain_training_goes_on_as_if_it_had_never_been_cut() -> None:
    """Without dropout, whose draws go on in one run and begin anew in two."""
    stream = small_stream()
    whole = runner.run(small_config(stream, "finetune", between="fresh", model_options={}), stream=stream)
    found = runner.run(started(stream, "finetune", model_options={}), stream=stream)
    assert found.matrix == whole.matrix
    assert found.initial == whole.matrix[0]  # what it begins with is what the first task left


@pytest.mark.parametrize("method", ["ewc", "packnet", "joint", "slda"])
def test_a_run_that_is_stopped_anywhere_ends_the_same(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    stream = small_stream()
    config = started(stream, method, **({"backbone": "first-task"} if method == "slda" else {}))
    whole = runner.run(config, stream=stream)
    assert whole.status == "finished", whole.failure
    record, _ = run_with_stops(config, stream, tmp_path / "run", random.Random(1))
    assert without_times(record) == without_times(whole)
    if method not in (
        "joint",
        "packnet",
        "slda",
    ):  # which learn all, prune, or stand on features: others change nothing
        assert whole.matrix[0] == whole.initial
    if method == "joint":
        assert min(whole.matrix[0]) > min(whole.initial)  # all tasks are learned, not the first alone


def test_it_is_learned_once_per_seed_and_shared(tmp_path: Path) -> None:
    def records(*methods: str) -> list[Record]:
        found = compare(
            "split-digits", list(methods), seeds=2, model="mlp-12", epochs=1, pretrain_epochs=2, lr=0.003,
            out=tmp_path, progress=False,
        )  # fmt: skip
        return list(found.records)

    first = records("finetune", "ewc")
    files = {path: path.read_bytes() for path in (tmp_path / "starts").glob("*.safetensors")}
    assert len(files) == 2
    second = records("finetune", "ewc", "lwf")
    assert {path: path.read_bytes() for path in (tmp_path / "starts").glob("*.safetensors")} == files
    by_seed: dict[int, set[tuple[float, ...]]] = {}
    for record in [*first, *second]:
        by_seed.setdefault(record.config.seed, set()).add(tuple(record.initial))
    assert [len(rows) for rows in by_seed.values()] == [1, 1]
    config = first[0].config
    assert config.pretraining is not None
    assert (config.pretraining.epochs, config.pretraining.optimizer, config.pretraining.lr) == (2, "adam", 0.01)
    assert config.lr == 0.003  # which the first task did not see
    assert "--pretrain-epochs 2" in first[0].command


def test_another_process_waits_and_then_takes_what_the_first_learned(tmp_path: Path) -> None:
    stream = small_stream()
    config = started(stream, "ewc")
    folder = Folder(tmp_path)
    plain = pretraining.before(config)
    inner = folder.keeper(Job(config, "", "ewc", True))
    learned: list[RunConfig] = []

    def learn(keeper: Any) -> None:
        learned.append(plain)
        runner.run(plain, stream=stream, keeper=keeper)

    one = inner.beforehand(plain, learn)
    two = Folder(tmp_path).keeper(Job(config, "", "ewc", True)).beforehand(plain, learn)
    assert len(learned) == 1
    assert one.keys() == two.keys()
    lock = next((tmp_path / "starts").glob("*.lock"))
    from filelock import FileLock

    asked = iter([False, True])
    waiting = Checkpoints(tmp_path / "x", config, starts=tmp_path / "starts", stop=lambda: next(asked))
    with FileLock(lock), pytest.raises(KeyboardInterrupt):  # whoever waits can still be told to stop
        waiting.beforehand(plain, learn)


@pytest.mark.parametrize(
    ("method", "words"),
    [("si", "si measures importance while a task is learned"), ("rwalk", "rwalk measures importance while")],
)
def test_what_measures_while_training_is_refused(method: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        compare("split-digits", [method], seeds=1, pretrain_epochs=1, progress=False)


def test_a_first_task_that_flies_away_is_said() -> None:
    stream = small_stream()
    config = started(stream, "ewc")
    first = {"epochs": 3, "optimizer": "sgd", "lr": 1e30}
    config = RunConfig.model_validate({**config.model_dump(), "pretraining": first})
    record = runner.run(config, stream=stream)
    assert record.status == "failed"
    assert record.failure.startswith("the first task could not be learned beforehand: ")
