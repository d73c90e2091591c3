"""The plain loop, held against a loop written out by hand, and against itself stopped and resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from holdfast import registry
from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Split, Stream
from holdfast.bench.models import named as models
from holdfast.bench.records import seeding
from holdfast.bench.records.record import Record, RunConfig, without_times
from holdfast.bench.training import runner
from holdfast.bench.training.runner import Snapshot
from holdfast.bench.training.session import Session
from tests.bench.training.stops import SUITS

OPTIONS = {"limit_per_class": 12, "test_limit_per_class": 6}


def small_stream(scenario: Any = "task", seed: int = 0, **options: Any) -> Stream:
    return streams.build("split-digits", seed=seed, scenario=scenario, **OPTIONS, **options)


def small_config(stream: Stream, method: str, seed: int = 0, **changes: Any) -> RunConfig:
    settings = changes.pop("settings", None)
    fields = {"stream_options": OPTIONS, "model_options": changes.pop("model_options", {})}
    changes = {"model": "mlp-16", "epochs": 1, "batch_size": 8, **changes}
    return plan.plan(stream, method, seed=seed, settings=settings, changes=changes, **fields)


class Counting:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.planned = 0
        self.done = 0
        self.rows: dict[int, list[float]] = {}
        self.points: list[tuple[int, int, float, float | None]] = []

    def begin(self, config: RunConfig, steps: int) -> None:
        self.planned = steps

    def advance(self, steps: int) -> None:
        self.done += steps

    def measured(self, task: int, step: int, loss: float, penalty_share: float | None) -> None:
        self.points.append((task, step, loss, penalty_share))

    def tested(self, task: int, accuracies: list[float]) -> None:
        self.rows[task] = accuracies


class Stop(BaseException):
    """Stands in for the end of the process."""


class Double:
    """A keeper that takes a snapshot at one step and stops the run there."""

    def __init__(self, at: int | None, snapshot: Snapshot | None = None) -> None:
        self.at, self.snapshot = at, snapshot
        self.heads: list[dict[str, torch.Tensor]] = []

    def load(self) -> Snapshot | None:
        return copy.deepcopy(self.snapshot)

    def keep(self, take: Callable[[], Snapshot], *, must: bool) -> None:
        snapshot = copy.deepcopy(take())
        if must:
            weights = snapshot.learner["model"]
            self.heads.append({name: w for name, w in weights.items() if name.startswith("heads.")})
        if snapshot.ledger.steps == self.at:
            self.snapshot = snapshot
            raise Stop

    def finish(self, learner: Callable[[], dict[str, Any]]) -> None:
        pass


@pytest.mark.parametrize("method", ["ewc", "lwf", "classp"])
def test_one_seed_gives_one_record(method: str) -> None:
    stream = small_stream()
    config = small_config(stream, method, model_options={"dropout": 0.3})
    first = runner.run(config)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = runner.run(config)
    assert torch.equal(torch.get_rng_state(), state)  # and a run leaves the caller's random state alone
    assert without_times(first) == without_times(second)
    other = runner.run(config.model_copy(update={"seed": 1}))
    assert other.curves.loss != first.curves.loss


def test_finetune_is_the_loop_that_anyone_would_write() -> None:
    stream = small_stream()
    record = runner.run(small_config(stream, "finetune", epochs=2, lr=0.05), stream=stream)

    model = models.build("mlp-16", (1, 8, 8), (2,) * 5, seed=seeding.derive_seed(0, "model"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    matrix, losses = [], []
    for task in stream:
        for epoch in range(2):
            draw = seeding.generator(0, "order", task.index, 0, epoch)
            for rows in torch.randperm(len(task.train), generator=draw).split(8):
                inputs, targets = task.batch(task.train, rows)
                loss = functional.cross_entropy(model(inputs)[task.index], targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        matrix.append([])
        for other in stream:
            inputs, targets = other.batch(other.test, torch.arange(len(other.test)))
            right = model(inputs)[other.index].argmax(1) == targets
            matrix[-1].append(right.double().mean().item())
    assert record.matrix == matrix
    assert record.curves.loss == pytest.approx(losses, rel=1e-5)


def test_joint_learns_everything_in_one_row() -> None:
    stream = small_stream("class", training_outputs="current")
    record = runner.run(small_config(stream, "joint", epochs=15, lr=0.02), stream=stream)
    assert len(record.matrix) == 1
    # Chance is 0.1; with the loss of single tasks, which sees two outputs at a time, no run gets half of them right.
    assert sum(record.matrix[0]) / 5 > 0.8


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_every_method_runs_wherever_it_applies(entry: registry.Entry, scenario: Any) -> None:
    stream = small_stream(scenario)
    if plan.refusal(entry, stream):
        with pytest.raises(
            ValueError,
            match=f"^{entry.name} (must be told at test|is about classes that|is for few samples|learns each task)",
        ):
            small_config(stream, entry.name)
        return
    settings = {key: "0.1" for key in ("strength",) if key in entry.defaults}
    seen = Counting()
    if entry.name == "fecam":
        settings["tukey"] = "1"  # pixels are negative once they are normalised
    config = small_config(stream, entry.name, settings=settings, backbone="pixels", **SUITS.get(entry.name, {}))
    record = runner.run(config, stream=stream, observer=seen)
    assert record.status == "finished", record.failure
    assert len(record.matrix) == len(record.validation) == (1 if entry.name == "joint" else 5)
    assert record.task_names == ["0/1", "2/3", "4/5", "6/7", "8/9"]
    assert record.costs.steps == seen.done >= seen.planned
    assert (seen.planned > 0) == entry.trains
    assert list(seen.rows.values()) == record.matrix
    curves = record.curves
    assert seen.points == list(zip(curves.task, curves.step, curves.loss, curves.penalty_share, strict=True))
    assert (record.costs.state_bytes > 0) == (entry.state != "0")
    warned = any("seldom solves class-incremental" in warning for warning in record.warnings)
    assert warned == ("quadratic" in entry.promises and scenario == "class")


def test_a_diverging_run_ends_as_a_failed_record() -> None:
    stream = small_stream()
    record = runner.run(small_config(stream, "finetune", optimizer="sgd", lr=1e30), stream=stream)
    assert record.status == "failed"
    assert "not finite at step 2" in record.failure
    assert record.matrix == []


def spoilt(stream: Stream) -> Stream:
    """The same stream with other test labels."""
    tasks = tuple(
        replace(task, test=Split(task.test.storage, task.test.rows, 1 - task.test.targets)) for task in stream.tasks
    )
    return replace(stream, tasks=tasks)


def test_a_choice_of_hyperparameters_cannot_see_the_test_set() -> None:
    stream = small_stream()
    config = small_config(stream, "ewc", epochs=3)
    blind = [runner.run(config, stream=each, read_test=False) for each in (stream, spoilt(stream))]
    assert without_times(blind[0]) == without_times(blind[1])
    assert blind[0].matrix == blind[0].validation
    seeing = [runner.run(config, stream=each) for each in (stream, spoilt(stream))]
    assert seeing[0].matrix != seeing[1].matrix
    assert seeing[0].validation == seeing[1].validation == blind[0].validation


def test_a_head_is_learned_by_its_own_task_alone() -> None:
    stream = small_stream()
    keeper = Double(at=None)
    runner.run(small_config(stream, "ewc"), stream=stream, keeper=keeper)
    start = models.build("mlp-16", (1, 8, 8), (2,) * 5, seed=seeding.derive_seed(0, "model")).state_dict()
    assert len(keeper.heads) == 5
    before = {name: weight for name, weight in start.items() if name.startswith("heads.")}
    for task, after in enumerate(keeper.heads):
        changed = {name.split(".")[1] for name in after if not torch.equal(after[name], before[name])}
        assert changed == {str(task)}
        before = after


def resumed(config: RunConfig, at: int) -> Record:
    keeper = Double(at)
    with pytest.raises(Stop):
        runner.run(config, keeper=keeper)
    assert keeper.snapshot is not None
    return runner.run(config, keeper=Double(None, keeper.snapshot))


@pytest.mark.parametrize("between", ["fresh", "kept"])
@pytest.mark.parametrize("method", ["ewc", "si", "lwf", "packnet", "classp"])
def test_a_resumed_run_makes_the_same_record(method: str, between: str) -> None:
    stream = small_stream()
    fields = {"model_options": {"dropout": 0.3}, "optimizer_between_tasks": between, "epochs": 2}
    config = small_config(stream, method, **fields)
    whole = without_times(runner.run(config))
    per_epoch = Session(0, (stream.tasks[0],)).num_batches(8)
    # in the first epoch, in a later task's second epoch, and where a task ends
    for at in (1, 3 * per_epoch + 1, 4 * per_epoch):
        assert without_times(resumed(config, at)) == whole
