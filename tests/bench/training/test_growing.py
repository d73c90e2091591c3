"""A head that grows with the classes: the old rows stay, the optimizer's state follows, a stopped run goes on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.bench import compare
from holdfast.bench.comparing import plan, rehearsal
from holdfast.bench.data import streams
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import RunConfig, without_times
from holdfast.bench.training import growing, runner
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.errors import ConfigurationError
from tests.bench.training.stops import run_with_stops

METHODS = ("finetune", "ewc", "online-ewc", "si", "mas", "rwalk", "l2sp", "anpyc", "lwf", "freeze", "classp", "adagrad")


@pytest.fixture(scope="module")
def stream() -> Stream:
    return streams.build("split-digits", seed=0, scenario="class", tasks=3, limit_per_class=24)


def config(stream: Stream, method: str, **changes: Any) -> RunConfig:
    asked = {"model": "mlp-8", "epochs": 2, "batch_size": 8, "outputs": "growing", **changes}
    return plan.plan(stream, method, changes=asked, stream_options={"tasks": 3, "limit_per_class": 24})


def test_old_rows_stay_and_new_ones_are_drawn_by_the_seed() -> None:
    heads = [nn.Linear(5, 2) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    old = [tensor.clone() for tensor in heads[0].state_dict().values()]
    for head in heads:
        growing.grow(head, 4, torch.Generator().manual_seed(1))
        assert head(torch.ones(3, 5)).shape == (3, 4) and head.out_features == 4
        assert all(torch.equal(new[:2], before) for new, before in zip(head.state_dict().values(), old, strict=True))
        assert all(parameter.requires_grad for parameter in head.parameters())
        assert float(head.weight.detach().abs().max()) <= 5**-0.5
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_an_optimizers_state_follows_its_parameters() -> None:
    head = nn.Linear(3, 2)
    before = torch.optim.Adam(head.parameters(), lr=0.1)
    head(torch.ones(1, 3)).sum().backward()
    before.step()
    moments = {name: before.state[getattr(head, name)]["exp_avg"].clone() for name in ("weight", "bias")}
    growing.grow(head, 4, torch.Generator())
    after = torch.optim.Adam(head.parameters(), lr=0.1)
    growing.carry_over(before, after)
    for name, moment in moments.items():
        held = after.state[getattr(head, name)]
        assert torch.equal(held["exp_avg"][:2], moment) and not held["exp_avg"][2:].any() and int(held["step"]) == 1
    head(torch.ones(1, 3)).sum().backward()
    after.step()  # and it steps on


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("between", ["kept", "fresh"])
def test_every_method_learns_on_a_head_that_grows(stream: Stream, method: str, between: str) -> None:
    if between == "fresh" and method in ("classp", "adagrad"):
        pytest.skip("remembers in its optimizer")
    asked = config(stream, method, optimizer_between_tasks=between)
    learner = Learner(asked, stream)
    widths = []
    for task in stream.tasks:
        learner.begin(Session(task.index, (task,)))
        widths.append(learner.model(torch.zeros(1, *stream.input_shape)).shape[1])
    assert widths == [2, 4, 6]
    record = runner.run(asked, stream=stream)
    assert (record.status, record.failure) == ("finished", "")
    assert record.initial[1:] == [0.0, 0.0] and record.matrix[0][1:] == [0.0, 0.0]  # it cannot answer them yet
    if method == "finetune":
        assert all(row[index] > 0.6 for index, row in enumerate(record.matrix))


@pytest.mark.parametrize("method", ["ewc", "lwf", "classp", "si"])
@pytest.mark.parametrize("between", ["kept", "fresh"])
def test_a_run_that_is_stopped_anywhere_makes_the_same_record(
    stream: Stream, method: str, between: str, tmp_path: Path
) -> None:
    if (between, method) == ("fresh", "classp"):
        pytest.skip("remembers in its optimizer")
    asked = config(stream, method, optimizer_between_tasks=between)
    whole = runner.run(asked, stream=stream)
    stopped, resumed = run_with_stops(asked, stream, tmp_path, random.Random(0))
    assert resumed and without_times(stopped) == without_times(whole)


def test_joint_training_has_all_outputs_at_once(stream: Stream) -> None:
    record = runner.run(config(stream, "joint"), stream=stream)
    assert record.status == "finished" and len(record.matrix) == 1


def test_what_cannot_grow_is_refused(stream: Stream) -> None:
    with pytest.raises(ConfigurationError, match="outputs='growing' needs scenario='class'"):
        plan.plan(streams.build("split-digits", seed=0), "ewc", changes={"outputs": "growing"})
    with pytest.raises(ConfigurationError, match="outputs is 'some'"):
        plan.plan(stream, "ewc", changes={"outputs": "some"})
    rehearsal.check(config(stream, "ewc"), stream)
    own = config(stream, "ewc", model="tests.bench.training.test_growing:plain")
    with pytest.raises(ConfigurationError, match="needs a model of the bench's own"):
        rehearsal.check(own, stream)


def plain(*, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), outputs))


def test_it_stands_in_the_record_and_the_table(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"scenario": "class", "seeds": 1, "epochs": 1, "model": "mlp-8", "out": tmp_path}
    table = compare("split-digits", ["finetune"], outputs="growing", **asked)
    (record,) = table.records
    assert record.config.outputs == "growing" and "--outputs growing" in record.command
    with pytest.raises(ConfigurationError, match="differs in outputs"):
        compare("split-digits", ["ewc"], **asked)
