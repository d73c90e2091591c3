"""H-OT: its equations against numbers computed elsewhere, and what the head makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast import ConfigurationError, DataError, StateError
from holdfast.heads import TransportCalibrated
from holdfast.heads.calibrated import _root
from holdfast.heads.logistic import logistic_regression
from holdfast.heads.powers import tukey_power
from holdfast.heads.transport import calibrated, certainties, cosine_costs, sinkhorn, transported_costs
from tests.heads.cases import close, samples, tell
from tests.live_bytes import LiveBytes

MODES = {"released": {"tolerance": 0.1, "iterations": 200, "floor": 1e-8}, "converged": {}}


@pytest.fixture(scope="module")
def known() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "data" / "adc.npz") as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


def uniform(size: int) -> Tensor:
    return torch.full((size,), 1 / size, dtype=torch.float64)


@pytest.mark.parametrize("mode", MODES)
def test_transport_and_calibration_are_the_references(known, mode):
    base, support = list(known["feats"]), known["support"]
    close(certainties(known["prob_true"]), known["weights"])
    close(tukey_power(known["raw_support"], float(known["beta"]), "H", shift=1e-6), support)
    lower = cosine_costs(known["feats"], support)
    close(lower, known["cost_low"])
    close(sinkhorn(lower, known["weights"], uniform(6), **MODES[mode]), known[f"{mode}_pi_low"])
    costs = transported_costs(base, list(known["weights"]), support, **MODES[mode])
    close(costs, known[f"{mode}_cost_high"])
    plan = sinkhorn(costs, uniform(4), uniform(6), **MODES[mode])
    close(plan, known[f"{mode}_plan"])
    mean, covariance = calibrated(support, 6 * plan, known["base_mean"], known["base_cov"])
    close(mean, known[f"{mode}_mean"])
    close(covariance, known[f"{mode}_cov"])
    close(
        sinkhorn(cosine_costs(known["base_mean"], support), uniform(4), uniform(6), **MODES[mode]),
        known[f"{mode}_plan_single_level"],
    )
    assert (covariance - known["cov_identity_variant"]).abs().max() > 0.2  # α is on every entry, not on the diagonal


def test_classes_of_different_sizes_are_not_padded(known):
    base, weights = list(known["feats"]), list(known["weights"])
    base[1], weights[1] = base[1][:3], certainties(known["prob_true"][1, :3])
    found = transported_costs(base, weights, known["support"])
    close(found[[0, 2, 3]], known["converged_cost_high"][[0, 2, 3]])
    for alone in (0, 1):
        close(found[alone], transported_costs([base[alone]], [weights[alone]], known["support"])[0])


def head_of(known: dict[str, Tensor], **settings) -> TransportCalibrated:
    head = TransportCalibrated(tukey=0.5, base_samples=8, draws=20, keep=8, **settings)
    for label in torch.randperm(4).tolist():
        head.consolidate([(known["feats"][label], torch.full((8,), label))])
    head.consolidate([(known["raw_support"], torch.arange(4, 7).repeat_interleave(2))])
    return head


def shares_of(head: TransportCalibrated, monkeypatch) -> tuple[Tensor, Tensor]:
    """The support as the head has it, and the shares of base classes in it."""
    seen = {}
    real = head._transport

    def watched(part, support, *more):
        seen["found"] = support, real(part, support, *more)
        return seen["found"][1]

    monkeypatch.setattr(head, "_transport", watched)
    head(part := next(iter(head._moments.values())).rows.double())
    assert len(part)
    return seen["found"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("levels", [1, 2])
def test_the_head_transports_what_the_equations_say(known, mode, levels, monkeypatch):
    head = head_of(known, levels=levels, released=mode == "released")
    support, shares = shares_of(head, monkeypatch)
    order = [(support - row).abs().sum(1).argmin() for row in known["support"]]
    if levels == 1:
        wanted = known[f"{mode}_plan_single_level"]
    else:
        rows, owners = known["feats"].flatten(0, 1), torch.arange(4).repeat_interleave(8)
        weight, offset = logistic_regression(rows, owners, 4)
        sure = torch.softmax(rows @ weight + offset, 1)[torch.arange(32), owners].view(4, 8)
        costs = transported_costs(list(known["feats"]), list(certainties(sure)), known["support"], **MODES[mode])
        wanted = sinkhorn(costs, uniform(4), uniform(6), **MODES[mode])
    close(shares[:, order], 6 * wanted)
    assert head.novel == (4, 5, 6)


def test_what_is_drawn_has_the_calibrated_moments(known, monkeypatch):
    head = TransportCalibrated(tukey=0.5, base_samples=8, draws=40_000, keep=8, levels=1)
    head.consolidate([(known["feats"].flatten(0, 1), torch.arange(4).repeat_interleave(8))])
    head.consolidate([(known["raw_support"][:1], torch.tensor([9]))])
    seen = {}
    real = head._drawn
    monkeypatch.setattr(head, "_drawn", lambda *args: seen.setdefault("drawn", real(*args)))
    head(known["raw_support"])
    drawn = seen["drawn"]
    shares = torch.full((4, 1), 0.25, dtype=torch.float64)  # one support sample takes all that the base classes send
    mean, covariance = calibrated(known["support"][:1], shares, known["base_mean"], known["base_cov"])
    assert drawn.shape == (40_000, 5)
    torch.testing.assert_close(drawn.mean(0), mean[0], rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), covariance[0], rtol=0, atol=0.05)
    root = _root(covariance[0])
    close(root @ root, covariance[0])
    close(root, root.T)


def test_a_seed_changes_what_is_drawn_and_a_class_that_comes_later_does_not(known):
    first, second, other = head_of(known), head_of(known), head_of(known, seed=1)
    query = known["raw_support"]
    close(first(query), second(query))
    assert (first(query) - other(query)).abs().max() > 1e-3


def test_a_class_with_enough_samples_is_a_base_class_whenever_they_come(known):
    head = head_of(known)
    head.consolidate([(known["feats"][0] + 0.1, torch.full((8,), 5))])
    assert head.novel == (4, 6) and head.counts[5] == 10
    assert len(head._moments["all"].rows) == 4 * 8 + 8 + 2 * 2


def test_without_a_base_class_it_is_the_regression_alone(known):
    head = TransportCalibrated(tukey=0.5, base_samples=25)
    x, y = known["raw_support"], torch.arange(3).repeat_interleave(2)
    head.consolidate([(x, y)])
    weight, offset = logistic_regression(known["support"], y, 3)
    close(head(x), known["support"] @ weight + offset)


def test_the_regression_is_scikit_learns_and_the_minimum():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = samples(number=120, classes=4, width=7)
    amount = torch.rand(120, dtype=torch.float64) + 0.5
    weight, offset = logistic_regression(x, y, 4, strength=2.0, weights=amount)
    theirs = linear.LogisticRegression(C=0.5, max_iter=10_000, tol=1e-10).fit(x, y, sample_weight=amount)
    np.testing.assert_allclose(weight.T, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(offset, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)
    weight.requires_grad_(), offset.requires_grad_()
    losses = torch.nn.functional.cross_entropy(x @ weight + offset, y, reduction="none")
    ((amount * losses).sum() + weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-9 and offset.grad.abs().max() < 1e-9


def test_no_more_memory_than_was_announced_with_novel_classes():
    x, y = samples(number=300, classes=4, width=150)
    head = TransportCalibrated(base_samples=30, keep=30, draws=300)
    few = (y < 2) | (torch.arange(300) < 40)
    with LiveBytes() as seen:
        tell(head, x[few], y[few])
        head(x[:10])
    assert head.novel and len(head.novel) < 4
    assert 0.3 * head.memory(150, 4) < seen.peak <= head.memory(150, 4)


def test_what_is_wrong_is_named(known):
    for settings, text in (
        ({"tukey": -1}, "tukey is -1"),
        ({"share": 1.5}, "share is 1.5"),
        ({"spread": -0.1}, "spread is -0.1"),
        ({"levels": 3}, "levels is 3; expected 1 or 2"),
        ({"draws": 0}, "draws"),
        ({"base_samples": 1}, "a class needs 2 samples"),
        ({"keep": 10}, "keep is 10; expected base_samples=25 or more"),
        ({"epsilon": 0}, "epsilon is 0"),
        ({"seed": 0.5}, "seed is 0.5"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            TransportCalibrated(**settings)
    head = head_of(known)
    with pytest.raises(DataError, match="after a ReLU"):
        head.consolidate([(known["feats"][0] - 5, torch.zeros(8, dtype=torch.int64))])
    state = head.get_extra_state()
    held = state["moments"]["all"]
    for broken in ({**held, "rows": held["rows"][:3]}, {**held, "rows": held["rows"].float()}):
        with pytest.raises(StateError, match="rows"):
            head_of(known).set_extra_state({**state, "moments": {"all": broken}})
