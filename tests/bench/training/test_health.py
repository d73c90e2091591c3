"""Numbers that are not finite stop a run, are named with their step, and leave what was measured and the other runs."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import holdfast
from holdfast.bench.comparing import refusing
from holdfast.bench.comparing.compare import Comparison
from holdfast.bench.jobs.folder import Folder
from holdfast.bench.jobs.progress import Lines
from holdfast.bench.records import record as records
from holdfast.bench.training import runner
from holdfast.bench.training.health import Health
from holdfast.bench.training.learner import Learner
from holdfast.errors import NumericsError
from tests.bench.comparing.here import run_here
from tests.bench.training.stops import small_config, small_stream

BAD = pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])


def a_health() -> tuple[Health, Any]:
    learner: Any = SimpleNamespace(model=nn.Linear(3, 2), penalty_value=None, config=SimpleNamespace(device="cpu"))
    return Health(learner, lambda what, step: f"{what} at {step}"), learner


def after_steps(health: Health, learner: Any, steps: int, **bad: tuple[int, float]) -> None:
    """Note that many steps; ``bad`` says at which the loss or the penalty is what."""
    for step in range(1, steps + 1):
        value = {name: number if step == at else 0.5 for name, (at, number) in bad.items()}
        if "penalty" in bad:
            learner.penalty_value = torch.tensor(value["penalty"])
        health.note(torch.tensor(value.get("loss", 0.5)), step)
    health.look(steps)


@BAD
@pytest.mark.parametrize("step", [1, 7, 25, 26, 60])
@pytest.mark.parametrize("what", ["loss", "penalty"])
def test_the_first_bad_step_is_named(what: str, step: int, bad: float) -> None:
    health, learner = a_health()
    with pytest.raises(NumericsError, match=rf"^{what} at {step}$"):
        after_steps(health, learner, 60, **{what: (step, bad)})


def test_good_numbers_pass_however_large() -> None:
    health, learner = a_health()
    learner.model.weight.grad = torch.full((2, 3), 3e38)
    with torch.no_grad():
        learner.model.weight.fill_(-3e38)  # the sum of their squares is not finite, but each of them is
    after_steps(health, learner, 60, loss=(3, 3e38))


@BAD
def test_bad_gradients_and_weights_are_told_apart(bad: float) -> None:
    health, learner = a_health()
    weight = learner.model.weight
    weight.grad = torch.zeros(2, 3)
    with torch.no_grad():
        weight[1, 2] = bad
    with pytest.raises(NumericsError, match=r"^update of the weights at 4$"):
        after_steps(health, learner, 4)
    weight.grad[0, 0] = bad
    with pytest.raises(NumericsError, match=r"^gradient at 25$"):
        after_steps(health, learner, 60)


def first_bad_step(stream: Any, config: Any) -> int:
    """The first step with a loss that is not finite, found by waiting for every one of them."""
    learner = Learner(config, stream)
    steps = 0
    with torch.random.fork_rng(devices=[]):
        for session in runner.sessions(stream, joint=False):
            learner.begin(session)
            for epoch in range(config.epochs):
                learner.set_learning_rate(epoch)
                order = session.order(config, 0, epoch)
                learner.model.train()
                for start in range(0, len(order), config.batch_size):
                    steps += 1
                    if not learner.step(session.parts(order[start : start + config.batch_size])).isfinite():
                        return steps
            learner.consolidate(session)
    raise AssertionError("nothing went bad")


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "too fast": ("finetune", {"lr": 1e30}, r"lower the learning rate \(1e\+30\)"),
    "too strong": (
        "ewc",
        {"settings": {"strength": "1e30"}},
        r"strength x learning rate \(1e\+30 x 0.5\) is probably too large: try coupling='proximal'",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_diverging_run_keeps_what_it_measured(case: tuple[str, dict[str, Any], str]) -> None:
    method, fields, cause = case
    stream = small_stream()
    config = small_config(stream, method, **{"optimizer": "sgd", "lr": 0.5, "model_options": {}, **fields})
    record = runner.run(config, stream=stream)
    assert record.status == "failed"
    if method == "ewc":
        found = r"EWC protects weights that have flown away: after 3 steps one is .*, after step (\d+)"
    else:
        found = f"the loss of {method} is not finite at step ({first_bad_step(stream, config)})"
    seen = re.fullmatch(f"{found}: {cause}", record.failure)
    assert seen is not None, record.failure
    assert len(record.matrix) == (1 if method == "ewc" else 0)
    assert record.initial and record.costs.steps >= int(seen[1])


def test_a_network_in_which_no_weight_matters_ends_its_own_run_only() -> None:
    stream = small_stream()
    config = small_config(stream, "ewc", optimizer="sgd", lr=1e7, settings={"strength": "1e-30"}, model_options={})
    record = runner.run(config, stream=stream)  # its outputs are so sure that no weight changes them
    assert record.status == "failed" and record.initial
    assert record.failure.startswith("EWC found importance 0 for every weight")


def test_the_remedy_that_is_named_works() -> None:
    stream = small_stream()
    settings = {"strength": "1e30", "coupling": "proximal"}
    record = runner.run(small_config(stream, "ewc", optimizer="sgd", lr=0.5, settings=settings), stream=stream)
    assert record.status == "finished"


def test_a_comparison_goes_on_with_the_others(tmp_path: Path) -> None:
    comparison = Comparison(
        small_stream(),
        ("ewc", "finetune"),
        settings={"ewc": {"strength": "1e30"}},
        changes={"model": "mlp-12", "epochs": 2, "optimizer": "sgd", "lr": 0.5},
        fields={"stream_options": {"tasks": 3}},
    )
    folder = Folder(tmp_path / "out")
    refusing.prepare(folder, comparison)
    said = io.StringIO()
    run_here(comparison, folder, Lines(Console(file=said, width=400)))
    failed, finished = records.load_all(tmp_path / "out")
    assert (failed.status, finished.status) == ("failed", "finished")
    assert len(failed.matrix) == 1 and len(finished.matrix) == 3
    assert "ewc, seed 0: failed: EWC protects weights that have flown away" in said.getvalue()


def test_an_importance_that_is_not_finite_is_not_remembered() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = holdfast.EWC(model, strength=1.0, fisher="empirical")
    data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    keep.consolidate(data)
    keep.attach(optimizer)
    before = keep.state_dict()
    before = {**before, "state": {name: dict(held) for name, held in before["state"].items()}}
    model(data[0][0]).sum().backward()
    optimizer.step()
    huge = [(inputs * 1e30, targets) for inputs, targets in data]  # the loss is finite, its squared gradient is not
    with pytest.raises(NumericsError, match=r"importance of .*weight.* is not finite"):
        keep.consolidate(huge)
    assert keep.num_tasks == 1
    for name, held in keep.state.items():
        for kind, tensor in held.items():
            assert torch.equal(tensor, before["state"][name][kind])
    keep.consolidate(data)
    assert keep.num_tasks == 2


@BAD
def test_weights_that_are_not_finite_are_no_anchor(bad: float) -> None:
    model = nn.Linear(3, 2)
    keep = holdfast.L2SP(model, strength=1.0)
    with torch.no_grad():
        model.bias[1] = bad
    with pytest.raises(NumericsError, match="L2SP: the anchor of parameter 'bias' is not finite, so nothing was rem"):
        keep.consolidate()
    assert (keep.num_tasks, keep.state, keep.buffers) == (0, {}, {})


def test_what_a_method_finds_is_said_with_its_step_and_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise NumericsError("EWC: the importance of parameter 'w' is not finite")

    monkeypatch.setattr(holdfast.EWC, "_remember", broken)
    stream = small_stream()
    record = runner.run(small_config(stream, "ewc"), stream=stream)
    assert record.status == "failed"
    steps = record.costs.steps
    said = rf"EWC: the importance of parameter 'w' is not finite, after step {steps}: lower the learning rate \(0\.01\)"
    assert re.fullmatch(said, record.failure)
    assert record.matrix == [] and steps > 0
