"""The study of importances: moments against closed forms, pruning that holds, a record and a section."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from holdfast import Classification, ConfigurationError, StateError, registry
from holdfast.bench import report
from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.records import spreads as importance_record
from holdfast.bench.report.importance import extra_sections
from holdfast.bench.study import distribution
from holdfast.bench.study.importance import kinds, study


def test_moments_of_known_distributions():
    # Bernoulli(p): skewness (1-2p)/sqrt(pq), excess kurtosis (1-6pq)/(pq); here p = 1/4 exactly
    values = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(10).view(5, 8)
    p, q = 0.25, 0.75
    assert distribution.zeros(values) == 0.75
    assert distribution.skewness(values) == pytest.approx((1 - 2 * p) / math.sqrt(p * q), rel=1e-12)
    assert distribution.kurtosis(values) == pytest.approx((1 - 6 * p * q) / (p * q), rel=1e-12)


def test_a_constant_has_no_shape():
    assert distribution.skewness(torch.ones(4)) is None
    assert distribution.kurtosis(torch.ones(4)) is None


def test_density_integrates_to_the_share_that_is_not_zero():
    values = torch.tensor([0.0, 1e-3, 1e-2, 2e-2, 1.0])
    found = distribution.density(values, -4.0, 1.0, bins=10)
    assert sum(found) * 0.5 == pytest.approx(0.8)
    assert found[2] * 0.5 == pytest.approx(0.2)  # 1e-3 is in [-3, -2.5)


@pytest.fixture(scope="module")
def result():
    stream = streams.build("split-digits", seed=0, scenario="task")
    changes = {"model": "mlp-16-8", "optimizer": "sgd", "lr": 0.1, "epochs": 3, "batch_size": 32}
    return study(plan.plan(stream, "finetune", seed=0, changes=changes), stream, prune_to=85.0)


def test_the_stated_share_is_pruned_and_stays_zero(result):
    assert result.pruned_share >= 0.85
    assert result.pruned_share < 0.86
    after = [s for s in result.spreads if s.method == "anpyc" and s.pruned and s.layer == "all"]
    before = [s for s in result.spreads if s.method == "anpyc" and not s.pruned and s.layer == "all"]
    # a weight of exactly 0 has Taylor importance exactly 0, so zeros count the pruned weights (biases are not pruned)
    weights, biases = 64 * 16 + 16 * 8, 16 + 8
    assert after[0].zeros >= 0.85 * weights / (weights + biases)
    assert before[0].zeros < after[0].zeros


def test_every_method_and_layer_is_there(result):
    layers = {s.layer for s in result.spreads}
    assert "all" in layers
    assert len(layers) == 3
    assert len(result.spreads) == 3 * 3 * 2


def test_a_method_of_each_kind_is_measured_by_default():
    assert kinds() == ("ewc", "mas", "anpyc")


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries() if entry.importance is not None])
def test_what_the_registry_says_estimates_a_methods_importances_does(name):
    entry = registry.lookup(name)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    batches = [(torch.randn(8, 6, dtype=torch.float64), torch.randint(3, (8,)))]
    method = entry.build(model, **entry.defaults)
    method.next_round(batches, last=True)  # those that prune are done with it
    method.consolidate(batches)
    expected = entry.estimator(model, batches, objective=Classification(), names=list(method.params))
    for parameter, importance in expected.items():
        assert torch.allclose(method.state[parameter]["importance"], importance), parameter


def test_record_and_section(result, tmp_path):
    importance_record.save(result, tmp_path)
    assert importance_record.load(tmp_path) == result
    page = report.write([], tmp_path / "report.html", extra=extra_sections(tmp_path)).read_text()
    assert page.count("<svg") >= 9
    assert f"{result.pruned_share:.1%}" in page


def test_a_file_that_is_no_study_is_named(tmp_path):
    (tmp_path / "importance.json").write_text("{}")
    with pytest.raises(StateError, match=r"importance\.json"):
        importance_record.load(tmp_path)


@pytest.mark.parametrize(("arguments", "names"), [({"methods": ("si",)}, "si"), ({"prune_to": 100.0}, "100")])
def test_wrong_arguments(arguments, names):
    stream = streams.build("split-digits", seed=0)
    with pytest.raises(ConfigurationError, match=names):
        study(plan.plan(stream, "finetune", changes={"epochs": 1}), stream, **arguments)
