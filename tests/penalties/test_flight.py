"""Weights that fly away from their anchors end training within a few steps, whatever the user clips."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast import EWC, L2SP, NumericsError
from holdfast.penalties.flight import check_near, farthest
from holdfast.step_size import borne_stiffness
from tests.contract.cases import QUADRATIC, build

SGD = torch.optim.SGD


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1),
        lambda p: SGD(p, lr=0.1, momentum=0.9),
        lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        lambda p: SGD(p, lr=0.1, momentum=0.7, nesterov=True),
        lambda p: torch.optim.ASGD(p, lr=0.1, lambd=0.0, alpha=0.0),
    ],
    ids=["plain", "momentum", "dampening", "nesterov", "asgd"],
)
def test_the_stiffness_that_is_borne_is_where_a_quadratic_begins_to_diverge(make):
    for factor, grows in ((0.98, False), (1.02, True)):
        x = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = make([x])
        stiffness = factor * borne_stiffness(optimizer, optimizer.param_groups[0])
        largest = []
        for _ in range(2000):
            x.grad = stiffness * x.detach()
            optimizer.step()
            largest.append(abs(x.item()))
        assert (max(largest[-50:]) > 10 * max(largest[:50])) is grows


def test_optimizers_that_divide_by_the_gradients_size_bear_everything():
    x = nn.Parameter(torch.ones(1))
    for optimizer in (torch.optim.AdamW([x]), torch.optim.Adafactor([x]), SGD([x], lr=0.0)):
        assert borne_stiffness(optimizer, optimizer.param_groups[0]) == math.inf
    assert borne_stiffness(torch.optim.RAdam([x]), {}) is None  # its first steps are those of SGD


class Plain(torch.optim.Optimizer):
    """Steps of which nobody knows that they are SGD's."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def _clipped(name, steps, optimizer_of, **options):
    """The largest weight of training on the second task, clipped to a norm of 1."""
    model = _net()
    x = torch.randn(64, 6)
    keep = build(name, model, **options)
    optimizer = optimizer_of(model.parameters())
    keep.attach(optimizer)
    labels = [(x[:, i] > 0).long() for i in range(2)]
    for index, y in enumerate(labels):
        for _ in range(steps):
            outputs = model(x)
            optimizer.zero_grad()
            (F.cross_entropy(outputs, y) + keep.penalty((x, y), outputs)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if index == 0:
            while keep.next_round([(x, y)], last=True):
                pass
            keep.consolidate([(x, y)])
    return max(p.abs().max().item() for p in model.parameters())


@pytest.mark.parametrize("name", QUADRATIC)
def test_no_weight_flies_off_without_a_word(name):
    words = r"flown away: after [137] steps .* added after any clipping, .* coupling='proximal'"
    with pytest.raises(NumericsError, match=words):
        _clipped(name, 9, lambda p: SGD(p, lr=0.1), strength=1e9)


@pytest.mark.parametrize("coupling", ["gradient", "proximal"])
def test_what_is_borne_passes_in_silence(coupling):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strength = 1.0 if coupling == "gradient" else 1e5
        assert _clipped("ewc", 9, lambda p: SGD(p, lr=0.1, momentum=0.9), strength=strength, coupling=coupling) < 2
        assert _clipped("ewc", 9, torch.optim.AdamW, strength=1e5) < 2


def test_optimizers_of_which_nobody_knows_what_they_bear_are_told_by_the_pull():
    words = r"flown away: after [137] steps .* penalty's gradient, .* the steps of Plain do not bear it: lower"
    with pytest.raises(NumericsError, match=words):
        _clipped("ewc", 9, Plain, strength=1e5)
    assert _clipped("ewc", 9, Plain, strength=1.0) < 2


def test_the_strength_that_it_names_is_borne():
    with pytest.raises(NumericsError) as caught:
        _clipped("ewc", 9, lambda p: SGD(p, lr=0.1), strength=1e5)
    named = float(str(caught.value).rsplit(" ", 1)[1])
    assert _clipped("ewc", 40, lambda p: SGD(p, lr=0.1), strength=named) < 2


def test_what_is_not_finite_is_far():
    weight, anchor = torch.randn(3, 70_000), torch.randn(3, 70_000)
    away, size = farthest(weight, anchor)
    assert away == (weight - anchor).abs().max() and size == anchor.abs().max()
    weight[1, 60_000] = math.nan
    assert farthest(weight, anchor)[0].isnan()
    with pytest.raises(NumericsError, match=r"after 3 steps one is not finite\. Try"):
        check_near("EWC", [(weight, anchor)], [anchor], 3, lambda: "Try")


def _driven(optimizer_of, strength, push, steps, groups=False):
    """A model whose loss pushes each weight with a constant gradient, and the method beside it."""
    model = _net()
    keep = EWC(model, strength=strength)
    keep.consolidate([(torch.randn(32, 6), torch.randint(0, 2, (32,)))])
    optimizer = optimizer_of([{"params": [p]} for p in model.parameters()] if groups else model.parameters())
    keep.attach(optimizer)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.full_like(p, -push)
        optimizer.step()
    return max(p.abs().max().item() for p in model.parameters()), keep


def test_weights_that_the_loss_wants_far_away_are_its_own_business():
    for optimizer_of in (lambda p: SGD(p, lr=1.0), lambda p: Plain(p, lr=1.0), lambda p: torch.optim.Adam(p, lr=1e3)):
        assert _driven(optimizer_of, 1e-6, push=1e3, steps=70)[0] > 1e4


def test_weights_that_a_stable_pull_brings_back_are_not_its_doing():
    model = nn.Linear(4, 2)
    keep = L2SP(model, strength=0.5)
    keep.consolidate()
    keep.attach(optimizer := SGD(model.parameters(), lr=0.1))
    for step in range(20):
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e6 if step == 0 else 0.0)  # once
        optimizer.step()
    assert 1e4 < max(p.abs().max().item() for p in model.parameters()) < 1e5


def test_a_slow_divergence_is_noticed_too():
    _, keep = _driven(lambda p: SGD(p, lr=1.0), 1.0, push=0.0, steps=1)
    strength = 1.01 * 2 / keep._stiffest()  # of which a step of 1 bears 2
    with pytest.raises(NumericsError, match=r"after \d+ steps one is .* at most strength"):
        _driven(lambda p: SGD(p, lr=1.0), strength, push=1e-2, steps=3000)


def test_each_group_bears_what_its_own_rate_does():
    """The largest importance is where the rate is small: the pull there is stable, and the loss drives the others."""
    _, keep = _driven(lambda p: SGD(p, lr=1.0), 1.0, push=0.0, steps=1)
    stiffest = {name: keep._stiffest([name]) for name in keep.state}
    most = max(stiffest, key=stiffest.get)
    rates = [1e-4 if name == most else 1.0 for name in keep.state]
    others = max(value for name, value in stiffest.items() if name != most)
    strength = 1.5 / others
    assert strength * stiffest[most] > 2 and strength * stiffest[most] * 1e-4 < 2

    def by_group(params):
        return SGD([group | {"lr": rate} for group, rate in zip(params, rates, strict=True)], lr=1.0)

    assert _driven(by_group, strength, push=1e7, steps=20, groups=True)[0] > 1e4


def test_what_is_not_finite_ends_training_whatever_the_cause():
    with pytest.raises(
        NumericsError, match=r"after 1 steps one is not finite\. Nothing shows that it is the penalty's"
    ):
        _driven(lambda p: SGD(p, lr=1.0), 1.0, push=math.inf, steps=9)


def test_a_loss_scale_is_no_gradient():
    """Under a scaler with a fused optimizer gradients are scaled: the pull is held against what they are."""
    model = nn.Linear(4, 2)
    keep = L2SP(model, strength=1.0)
    keep.consolidate()
    keep.attach(optimizer := Plain(model.parameters(), lr=0.1))
    with torch.no_grad():
        model.weight += 1e5
    optimizer.grad_scale = torch.tensor(1e8)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e3 * 1e8)
    with pytest.raises(NumericsError, match="the loss's"):
        optimizer.step()
