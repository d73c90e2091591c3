"""A run that is stopped anywhere, any number of times, ends with the record of one that was not."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from holdfast import registry
from holdfast.bench.records.choice import Candidate, Choice
from holdfast.bench.records.record import Hyperparameter, RunConfig, without_times
from holdfast.bench.training import runner
from holdfast.bench.training.checkpoint import Checkpoints, OtherRunError
from holdfast.bench.training.snapshot import Cursor, Ledger, Snapshot
from holdfast.errors import StateError
from holdfast.files import save_state
from tests.bench.training.stops import Stopped, Stopping, run_with_stops, small_config, small_stream
from tests.disks import files_in, fill, make_read_only, small_disk

CASES: dict[str, dict[str, Any]] = {
    **{
        entry.name: {"method": entry.name, "scenario": "class" if entry.needs_one_head else "task"}
        for entry in registry.entries()
        if entry.trains and not entry.needs_adapters
    },
    "ewc, proximal": {"method": "ewc", "settings": {"coupling": "proximal"}},
    "ewc, in the loss": {"method": "ewc", "settings": {"coupling": "loss"}},
    "ewc, fresh momentum": {
        "method": "ewc", "between": "fresh", "optimizer": "sgd", "lr": 0.01, "settings": {"strength": "10"},
        "optimizer_options": {"momentum": 0.9},
    },
    "ewc, few samples": {"method": "ewc", "importance_samples": 40, "settings": {"fisher": "sampled"}},
    "mas, its strength measured": {"method": "mas", "settings": {"strength": "auto"}},
    "lwf, fresh, decaying": {"method": "lwf", "between": "fresh", "lr_decay": 0.5, "lr_decay_every": 2},
    "classp, phases": {"method": "classp", "optimizer_phases": [{"threshold": 0.0, "scaling": True}]},
    "si, one output layer": {"method": "si", "scenario": "class"},
    "finetune, unequal epochs": {"method": "finetune", "epochs_per_task": [1, 5, 2], "shuffle": False},
}  # fmt: skip


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here survives a power cut, and nothing needs to."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_run_that_is_stopped_anywhere_ends_the_same(case: dict[str, Any], tmp_path: Path) -> None:
    fields = dict(case)
    scenario = fields.pop("scenario", "task")
    stream = small_stream(scenario=scenario)
    config = small_config(stream, fields.pop("method"), **fields)
    whole = runner.run(config, stream=stream)
    assert whole.status == "finished", whole.failure
    record, resumed = run_with_stops(config, stream, tmp_path / "run", random.Random(1))
    assert resumed, "the run was never stopped"
    assert without_times(record) == without_times(whole)
    assert record.costs.seconds_total > 0


@pytest.mark.usefixtures("no_sync")
def test_stopped_runs_of_a_diverging_method_fail_at_the_same_step(tmp_path: Path) -> None:
    stream = small_stream()
    config = small_config(stream, "ewc", settings={"strength": "1e30"}, optimizer="sgd", lr=0.5)
    whole = runner.run(config, stream=stream)
    assert whole.status == "failed"
    assert len(whole.matrix) == 1
    found = re.search(r"flown away: after 3 steps .*, after step (\d+): strength x learning rate", whole.failure)
    assert found
    bad = int(found[1])
    for steps in (bad - 2, bad - 1):  # before the weights have flown away, and while they do
        folder = tmp_path / str(steps)
        keeper = Stopping(folder, config, spacing=1, steps=steps + 1)  # and one checkpoint at the first task's end
        with pytest.raises(Stopped):
            runner.run(config, stream=stream, keeper=keeper)
        record, resumed = run_with_stops(config, stream, folder, random.Random(2))
        assert resumed[0] == steps
        assert without_times(record) == without_times(whole)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def a_config(**fields: Any) -> RunConfig:
    return small_config(small_stream(), "ewc", **fields)


def a_snapshot(steps: int = 0, size: int = 4) -> Snapshot:
    learner = {"model": {"weight": torch.full((size,), float(steps))}, "optimizer": {"state": {0: {}}}, "method": None}
    return Snapshot(
        Cursor(0, 0, 0, steps),
        Ledger(steps=steps, step_seconds=[0.5] * steps),
        learner,
        {},
        {},
        {"cpu": torch.zeros(1)},
    )


def written(folder: Path, *steps: int) -> Path:
    """A folder with a checkpoint for each of these steps."""
    keeper = Checkpoints(folder, a_config(), share=float("inf"))
    for count in steps:
        keeper.keep(lambda count=count: a_snapshot(count), must=True)  # type: ignore[misc]  # a default argument
    return folder


def steps_kept(folder: Path, warn: Callable[[str], None] = pytest.fail) -> int | None:
    snapshot = Checkpoints(folder, a_config(), warn=warn).load()
    return None if snapshot is None else snapshot.ledger.steps


def test_a_snapshot_comes_back_as_it_was(tmp_path: Path) -> None:
    written(tmp_path, 3)
    found = Checkpoints(tmp_path, a_config()).load()
    assert found is not None
    expected = a_snapshot(3)
    assert (found.cursor, found.ledger) == (expected.cursor, expected.ledger)
    assert torch.equal(found.learner["model"]["weight"], torch.full((4,), 3.0))
    assert found.learner["optimizer"] == {"state": {0: {}}}


def test_only_the_latest_and_the_one_before_it_stay(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3, 4)
    assert files_in(tmp_path) == ["checkpoint-000003.safetensors", "checkpoint-000004.safetensors"]
    (tmp_path / "mine.txt").write_text("of the user")
    keeper = Checkpoints(tmp_path, a_config())
    assert keeper.load() is not None
    keeper.keep(lambda: a_snapshot(5), must=True)
    assert files_in(tmp_path) == ["checkpoint-000004.safetensors", "checkpoint-000005.safetensors", "mine.txt"]
    keeper.clear()
    assert files_in(tmp_path) == ["mine.txt"]


@pytest.mark.parametrize("harm", ["damaged", "truncated", "empty", "foreign", "another state"])
def test_a_bad_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, harm: str) -> None:
    written(tmp_path, 1, 2)
    latest = tmp_path / "checkpoint-000002.safetensors"
    content = bytearray(latest.read_bytes())
    if harm == "damaged":
        content[-1] ^= 1
    elif harm == "truncated":
        del content[-3:]
    elif harm == "empty":
        content.clear()
    elif harm == "foreign":
        content[:] = b"This is a letter to my bank, and no checkpoint at all."
    latest.write_bytes(content)
    if harm == "another state":
        save_state({"weight": torch.ones(3)}, latest)
    said: list[str] = []
    assert steps_kept(tmp_path, said.append) == 1
    (sentence,) = said
    assert str(latest) in sentence
    assert "The checkpoint before it is used" in sentence

    # The next one written replaces the bad one, not the good one.
    keeper = Checkpoints(tmp_path, a_config(), warn=said.append)
    keeper.load()
    keeper.keep(lambda: a_snapshot(7), must=True)
    assert files_in(tmp_path) == ["checkpoint-000001.safetensors", "checkpoint-000003.safetensors"]
    assert steps_kept(tmp_path) == 7


def test_without_any_good_checkpoint_the_run_begins_anew(tmp_path: Path) -> None:
    assert steps_kept(tmp_path / "nothing") is None
    written(tmp_path / "run", 1, 2)
    for path in (tmp_path / "run").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert Checkpoints(tmp_path / "run", a_config()).load() is None
    assert len(caught) == 2


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 1, 2)
    other = a_config(seed=1, lr=0.5)
    with pytest.raises(
        OtherRunError, match=r"000002.safetensors is a checkpoint of another run: lr was 0.01 and is 0.5"
    ):
        Checkpoints(tmp_path, other).load()
    with pytest.raises(OtherRunError, match=r"; seed was 0 and is 1 now\. .* or delete .* to begin this run anew"):
        Checkpoints(tmp_path, other).load()
    assert steps_kept(tmp_path) == 2


def chosen(strength: float, source: Literal["grid", "given"] = "grid", *scores: float) -> RunConfig:
    tried = tuple(Candidate(values={"strength": strength + k}, score=score) for k, score in enumerate(scores))
    choice = Choice(kind="grid", seed=0, candidates=tried) if tried else None
    value = Hyperparameter(value=strength, source=source, choice=choice)
    return a_config(settings={"strength": value})


def test_a_checkpoint_of_the_same_value_chosen_again_is_gone_on_from(tmp_path: Path) -> None:
    before, now = chosen(3.0, "grid", 0.9, 0.8), chosen(3.0, "grid", 0.9, 0.8, 0.7)
    Checkpoints(tmp_path, before, share=float("inf")).keep(lambda: a_snapshot(1), must=True)
    found = Checkpoints(tmp_path, now, warn=pytest.fail).load()
    assert found is not None and found.ledger.steps == 1


def test_a_checkpoint_of_a_value_that_is_no_longer_chosen_is_set_aside_and_said(tmp_path: Path) -> None:
    Checkpoints(tmp_path, chosen(3.0), share=float("inf")).keep(lambda: a_snapshot(1), must=True)
    said: list[str] = []
    Checkpoints(tmp_path, chosen(9.0)).check()
    assert Checkpoints(tmp_path, chosen(9.0), warn=said.append).load() is None
    assert len(said) == 1 and "what was chosen before: hyperparameters.strength.value was 3.0 and is 9.0" in said[0]
    with pytest.raises(OtherRunError, match=r"strength.value was 3.0 and is 9.0"):
        Checkpoints(tmp_path, chosen(9.0, source="given")).load()


def test_a_chosen_learning_rate_may_have_been_another_but_its_decay_may_not(tmp_path: Path) -> None:
    def config(lr: float, **fields: Any) -> RunConfig:
        value = Hyperparameter(value=lr, source="grid")
        return small_config(small_stream(), "adagrad", settings={"lr": value}, **fields)

    Checkpoints(tmp_path, config(0.1), share=float("inf")).keep(lambda: a_snapshot(1), must=True)
    said: list[str] = []
    assert Checkpoints(tmp_path, config(0.3), warn=said.append).load() is None
    assert len(said) == 1 and "has what was chosen before: lr was 0.1 and is 0.3 now" in said[0]
    with pytest.raises(OtherRunError, match="lr_decay was 1"):
        Checkpoints(tmp_path, config(0.3, lr_decay=0.5)).load()


@pytest.mark.parametrize("code", ["holdfast", "torch"])
def test_a_checkpoint_of_other_code_is_refused(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.bench.training import checkpoint

    now = checkpoint.identity(a_config())
    with monkeypatch.context() as changed:
        changed.setattr(checkpoint, "identity", lambda config: {**now, code: "0.0.1"})
        written(tmp_path, 1)
    with pytest.raises(OtherRunError, match=rf"{code} was '0.0.1' and is '.*' now"):
        steps_kept(tmp_path)
    path = tmp_path / "checkpoint-000001.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"schema":"1"', b'"schema":"7"'))
    with pytest.raises(StateError, match="has schema version 7, but this holdfast reads up to 1"):
        steps_kept(tmp_path)


def test_checkpoints_keep_to_their_time(tmp_path: Path) -> None:
    clock = Clock()
    keeper = Checkpoints(tmp_path, a_config(), every=60, share=0.03, clock=clock)
    taken: list[float] = []

    def take() -> Snapshot:
        taken.append(clock.now)
        clock.now += 3.0  # what a checkpoint costs
        return a_snapshot(1)

    for second in range(1000):
        clock.now = max(clock.now, float(second))
        keeper.keep(take, must=False)
    # The first after 60 s; then a checkpoint of 3 s each time that 3 % of the whole time allow for one more.
    assert taken == [60.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0]
    assert 3.0 * len(taken) <= 0.03 * 1000


def test_cheap_checkpoints_come_every_minute_and_at_every_task(tmp_path: Path) -> None:
    clock = Clock()
    keeper = Checkpoints(tmp_path, a_config(), clock=clock)
    taken: list[float] = []

    def take() -> Snapshot:
        taken.append(clock.now)
        return a_snapshot(1)

    for second in range(150):
        clock.now = float(second)
        keeper.keep(take, must=second in (30, 100))
    assert taken == [30.0, 90.0, 100.0]


def test_a_run_that_is_asked_to_stop_leaves_its_latest_step(tmp_path: Path) -> None:
    keeper = Checkpoints(tmp_path, a_config(), stop=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        keeper.keep(lambda: a_snapshot(9), must=False)
    assert steps_kept(tmp_path) == 9


def test_a_full_disk_is_one_sentence_and_the_last_checkpoints_stay(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        keeper = Checkpoints(disk / "run", a_config(), share=float("inf"))
        keeper.keep(lambda: a_snapshot(1), must=True)
        keeper.keep(lambda: a_snapshot(2), must=True)
        fill(disk)
        with pytest.raises(
            StateError, match=r"^Cannot write the state .*000003.safetensors: No space left on device\.$"
        ):
            keeper.keep(lambda: a_snapshot(3, size=100_000), must=True)
        assert files_in(disk / "run") == ["checkpoint-000001.safetensors", "checkpoint-000002.safetensors"]
        assert steps_kept(disk / "run") == 2


def test_a_read_only_folder_ends_a_run_in_one_sentence(tmp_path: Path) -> None:
    stream = small_stream()
    config = small_config(stream, "finetune", epochs=1)
    with small_disk(tmp_path / "disk") as disk:
        written(disk / "other", 1)
        make_read_only(disk)
        with pytest.raises(StateError, match=r"^Cannot write the state .*: Read-only file system\.$"):
            runner.run(config, stream=stream, keeper=Checkpoints(disk / "run", config))
        assert steps_kept(disk / "other") == 1
