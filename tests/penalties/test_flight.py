"""Weights that fly away from their anchors end training within a few steps, whatever the user clips."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast import EWC, NumericsError
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
        stiffness = factor * borne_stiffness(optimizer)
        largest = []
        for _ in range(2000):
            x.grad = stiffness * x.detach()
            optimizer.step()
            largest.append(abs(x.item()))
        assert (max(largest[-50:]) > 10 * max(largest[:50])) is grows


def test_optimizers_that_divide_by_the_gradients_size_bear_everything():
    x = nn.Parameter(torch.ones(1))
    assert borne_stiffness(torch.optim.AdamW([x])) == math.inf
    assert borne_stiffness(SGD([x], lr=0.0)) == math.inf


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


def test_a_slow_divergence_is_noticed_too():
    model = _net()
    keep = EWC(model, strength=1.0)
    keep.consolidate([(torch.randn(32, 6), torch.randint(0, 2, (32,)))])
    optimizer = SGD(model.parameters(), lr=1.0)
    keep.attach(optimizer)
    with pytest.raises(NumericsError, match="after 767 steps one is "):
        while True:
            for p in model.parameters():
                p.grad = torch.full_like(p, -2.0)  # the loss has no bottom
            optimizer.step()
