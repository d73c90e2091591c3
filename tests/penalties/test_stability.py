"""Weights that fly away end training, whatever the user clips, and the error says a strength that is borne."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast import EWC, L2SP, NumericsError
from holdfast.penalties.stability import is_far, magnitude
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
        for _ in range(1000):
            x.grad = stiffness * x.detach()
            optimizer.step()
            largest.append(abs(x.item()))
        assert (max(largest[-50:]) > 10 * max(largest[:50])) is grows


def test_optimizers_that_divide_by_the_gradients_size_bear_everything():
    x = nn.Parameter(torch.ones(1))
    assert borne_stiffness(torch.optim.AdamW([x])) == math.inf
    assert borne_stiffness(SGD([x], lr=0.0)) == math.inf


def test_a_magnitude_is_that_of_the_largest_entry():
    assert magnitude(torch.tensor([[1.0, -3.0], [2.0, 0.0]])) == 3
    assert magnitude(torch.empty(0)) == 0
    assert magnitude(torch.tensor([1.0, math.nan])).isnan()
    anchor = torch.tensor([1.0, -3.0])
    for weight, far in ((400.0, False), (-401.0, True), (math.nan, True), (math.inf, True)):
        assert is_far(torch.tensor([0.0, weight]), anchor) == far


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def _clipped(name, steps, optimizer_of, **options):
    """The largest weight of training on the second task, clipped to a norm of 1, and the method."""
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
    return max(p.abs().max().item() for p in model.parameters()), keep, [(x, labels[1])]


@pytest.mark.parametrize("name", QUADRATIC)
def test_no_weight_flies_off_without_a_word(name):
    with pytest.raises(NumericsError, match=r"after \d steps? parameter .* coupling='proximal'"):
        _clipped(name, 9, lambda p: SGD(p, lr=0.1), strength=1e9)


@pytest.mark.parametrize("coupling", ["gradient", "loss", "proximal"])
def test_what_is_borne_passes_in_silence(coupling):
    strength = 1.0 if coupling == "gradient" else 1e5
    assert _clipped("ewc", 9, lambda p: SGD(p, lr=0.1, momentum=0.9), strength=strength, coupling=coupling)[0] < 2
    assert _clipped("ewc", 9, torch.optim.AdamW, strength=1e5)[0] < 2


def test_the_strength_that_it_names_is_borne():
    with pytest.raises(NumericsError) as caught:
        _clipped("ewc", 9, lambda p: SGD(p, lr=0.1), strength=1e5)
    named = float(re.search(r"at most (\S+)$", str(caught.value))[1])
    assert _clipped("ewc", 40, lambda p: SGD(p, lr=0.1), strength=named)[0] < 2


def test_what_flew_off_after_the_last_look_is_not_remembered():
    largest, keep, batches = _clipped("ewc", 3, lambda p: SGD(p, lr=0.1), strength=1e8)
    assert largest > 1e3
    with pytest.raises(NumericsError, match="after 3 steps"):
        keep.consolidate(batches)
    assert keep.num_tasks == 1


def test_a_published_strength_may_be_run_as_it_is():
    model = _net()
    keep = L2SP(model, strength=1e9)
    keep.checks_weights = False
    keep.consolidate()
    optimizer = SGD(model.parameters(), lr=1.0)
    keep.attach(optimizer)
    for _ in range(9):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert not all(p.abs().max() < 1e3 for p in model.parameters())


def _pushed(rate, optimizer_of=SGD):
    model = _net()
    keep = EWC(model, strength=1.0)
    keep.consolidate([(torch.randn(32, 6), torch.randint(0, 2, (32,)))])
    optimizer = optimizer_of(model.parameters(), lr=1.0)
    keep.attach(optimizer)
    for _ in range(20):
        for p in model.parameters():
            p.grad = torch.full_like(p, -rate)
        optimizer.step()
    return model


def test_weights_that_the_loss_wants_far_away_are_its_own_business():
    assert max(p.max().item() for p in _pushed(1e3).parameters()) > 1e3


def test_weights_that_are_not_finite_are_said_whatever_the_cause():
    with pytest.raises(NumericsError, match=r"after 1 step parameter '0.weight' is not finite: lower the learning"):
        _pushed(math.inf)


def test_a_look_makes_no_copy_of_a_weight():
    from tests.live_bytes import LiveBytes

    model = nn.Linear(300, 300)
    keep = L2SP(model, strength=1e-3)
    keep.consolidate()
    optimizer = SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    with LiveBytes() as live:
        keep._check_near(optimizer, 1)
    assert live.peak < 1000
