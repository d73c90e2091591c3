"""The Hessian's norm in the bench: against the dense Hessian, without a trace in the run, in record and report."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.autograd.functional import hessian
from torch.func import functional_call

from holdfast import ConfigurationError
from holdfast.bench.records.record import Record, without_times
from holdfast.bench.records.steepness import Steepness
from holdfast.bench.report.page import render
from holdfast.bench.training import runner
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.bench.training.steepness import Slope
from tests.bench.training.test_runner import small_config, small_stream


def dense(learner: Learner, batch, objective) -> tuple[torch.Tensor, torch.Tensor, dict[str, slice]]:
    """The gradient and the whole matrix, by autograd, in float64."""
    model = copy.deepcopy(learner.model).eval().double()
    params = {name: p.detach().double() for name, p in model.named_parameters() if p.requires_grad}
    places, start = {}, 0
    for name, p in params.items():
        places[name] = slice(start, start + p.numel())
        start += p.numel()

    def loss(flat: torch.Tensor) -> torch.Tensor:
        weights = {name: flat[place].view_as(params[name]) for name, place in places.items()}
        outputs = objective.select(functional_call(model, weights, (batch[0].double(),)))
        return objective.losses(outputs, batch).mean()

    flat = torch.cat([p.flatten() for p in params.values()])
    start_at = flat.requires_grad_()
    return torch.autograd.grad(loss(start_at), start_at)[0], hessian(loss, flat.detach()), places


@pytest.mark.parametrize("asked", ["hessian", "hessian-frobenius", "hessian-spectral"])
def test_what_is_noted_is_of_the_dense_hessian(asked: str) -> None:
    stream = small_stream("domain")
    config = small_config(stream, "finetune", model="mlp-4")
    learner = Learner(config, stream)
    session = Session(0, (stream.tasks[0],))
    noted: dict = {}
    Slope(learner, asked).learned(session, noted)
    found = Steepness.model_validate(noted["hessian"]["0"])
    task = stream.tasks[0]
    batch = next(iter(learner.importance_batches(task)))
    assert found.samples == len(batch[1])
    g, H, places = dense(learner, batch, task.training_objective)

    def norm(where: slice) -> float:
        block, part = H[where, where], g[where]
        if asked == "hessian":
            return float(part @ block @ part / part.square().sum())
        return float(block.norm() if asked == "hessian-frobenius" else torch.linalg.eigvalsh(block).abs().max())

    loose = {"rel": 0.5} if asked == "hessian-frobenius" else {"rel": 1e-3, "abs": 1e-6}  # of 16 probes
    everything = slice(0, len(g))
    assert found.whole == pytest.approx(norm(everything), **loose)
    assert found.tensors == pytest.approx({name: norm(place) for name, place in places.items()}, **loose)
    assert found.gradient == pytest.approx(float(g.norm()), rel=1e-4)
    along = float(g @ H @ g / g.square().sum())
    assert found.step is None if along <= 0 else found.step == pytest.approx(1 / along, rel=1e-3)


def told(record: Record) -> dict[str, object]:
    fields = without_times(record)
    fields["config"].pop("diagnose")
    return {key: value for key, value in fields.items() if key not in ("diagnostics", "command")}


@pytest.mark.parametrize("method", ["ewc", "inrank", "joint"])
def test_it_changes_nothing_about_the_run(method: str) -> None:
    stream = small_stream()
    config = small_config(stream, method, model_options={"dropout": 0.3})
    plain, watched = (
        runner.run(each, stream=stream) for each in (config, config.model_copy(update={"diagnose": "hessian"}))
    )
    assert told(plain) == told(watched)
    assert "hessian" not in plain.diagnostics
    noted = watched.diagnostics["hessian"]
    assert set(noted) == ({"4"} if method == "joint" else set("01234"))
    assert all(math.isfinite(each["whole"]) for each in noted.values())
    assert "--diagnose" not in plain.command


def test_a_head_has_none_and_a_search_measures_none() -> None:
    stream = small_stream("class")
    head = runner.run(small_config(stream, "ncm", backbone="pixels", diagnose="hessian"), stream=stream)
    assert "hessian" not in head.diagnostics
    config = small_config(stream, "finetune", diagnose="hessian")
    assert "hessian" not in runner.run(config, stream=stream, read_test=False).diagnostics
    with pytest.raises(ConfigurationError, match="diagnose is 'steep': input should be 'hessian'"):
        small_config(stream, "finetune", diagnose="steep")


def test_the_report_shows_it_whole_and_tensor_by_tensor() -> None:
    stream = small_stream("domain")
    records = [
        runner.run(small_config(stream, "finetune", seed=seed, diagnose="hessian"), stream=stream) for seed in (0, 1)
    ]
    page = render(records)
    assert "How steep the loss is" in page and "trunk.1.weight" in page and "gᵀHg" in page
    mean = sum(record.diagnostics["hessian"]["0"]["whole"] for record in records) / 2
    assert f"<td>{mean:.3g}".replace("-", "\u2212") in page
    plain = [record.model_copy(update={"diagnostics": {}}) for record in records]
    assert "How steep" not in render(plain)
