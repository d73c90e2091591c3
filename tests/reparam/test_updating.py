"""InRank between tasks: its step against trained factors, what grows, and what is free."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from holdfast import InRank, reparam
from holdfast.errors import ConfigurationError
from holdfast.names import canonical_parameters
from holdfast.reparam.updating import factor_step
from holdfast.testing.cases import network, sgd, task, train

DOUBLE = torch.float64


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)


def test_under_gradient_descent_it_is_training_the_factors() -> None:
    model = network(dtype=DOUBLE)
    keep = InRank(model, rank=1, buffer=2, warmup=100)
    keep.consolidate(generator=torch.Generator().manual_seed(1))
    twin = reparam.inrank(copy.deepcopy(model), rank=1, buffer=2)
    with torch.no_grad():
        for name in keep.ranks:
            canonical_parameters(twin)[f"{name}.original2"].copy_(keep.buffers[f"down.{name}"])
    optimizer, other = plain_sgd(model), plain_sgd(twin)
    keep.attach(optimizer)
    for seed in (1, 2, 3):
        train(model, optimizer, task(seed, DOUBLE), keep)
        train(twin, other, task(seed, DOUBLE))
    factors = canonical_parameters(twin)
    for name in ("first", "middle", "head"):
        torch.testing.assert_close(
            getattr(model, name).weight, getattr(twin, name).weight, rtol=1e-9, atol=1e-12, check_device=False
        )
        torch.testing.assert_close(getattr(model, name).bias, getattr(twin, name).bias, rtol=1e-9, atol=1e-12)
        up = factors[f"{name}.weight.original1"].detach()
        torch.testing.assert_close(keep.buffers[f"up.{name}.weight"], up, rtol=1e-9, atol=1e-12)
    moved = model.middle.weight.detach() - keep.state["middle.weight"]["anchor"]
    assert int(torch.linalg.matrix_rank(moved, rtol=1e-9)) == 3


def test_a_step_of_the_factors_is_autograds() -> None:
    up, down = torch.randn(5, 2, dtype=DOUBLE, requires_grad=True), torch.randn(2, 4, dtype=DOUBLE, requires_grad=True)
    weight = (up @ down).detach().requires_grad_()
    x = torch.randn(3, 4, dtype=DOUBLE)
    for w in (weight, up @ down):
        (x @ w.T).tanh().square().sum().backward()
    moved = -0.1 * weight.grad
    new_up, new_down = factor_step(up.detach(), down.detach(), moved)
    torch.testing.assert_close(new_up, (up - 0.1 * up.grad).detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(new_down, (down - 0.1 * down.grad).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_task_is_an_update_of_low_rank_and_the_next_begins_where_it_ended(kind) -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4))
    keep = InRank(model, rank=2, buffer=1)
    optimizer = kind(model.parameters(), lr=0.05, weight_decay=0.1)
    keep.attach(optimizer)
    train(model, optimizer, task(0), keep)
    assert keep.ranks == {}
    for seed in (1, 2):
        keep.consolidate()
        start = model[0].weight.detach().clone()
        assert torch.equal(keep.state["0.weight"]["anchor"], start)
        train(model, optimizer, task(seed, batches=8), keep)
        moved = (model[0].weight.detach() - start).double()
        assert int(torch.linalg.matrix_rank(moved, atol=1e-6)) == 3
        assert keep.ranks == {"0.weight": 2, "2.weight": 2}


def test_ranks_grow_when_they_may_and_by_what_was_learned() -> None:
    model = nn.Linear(16, 16, bias=False, dtype=DOUBLE)
    keep = InRank(model, rank=1, buffer=3, max_rank=10, warmup=40, gap=10, threshold=0.99)
    keep.consolidate()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    keep.attach(optimizer)
    rule = model.weight.detach() + torch.diag(torch.tensor([1.0] * 4 + [0.0] * 12, dtype=DOUBLE))
    seen = []
    for _ in range(400):
        x = torch.randn(32, 16, dtype=DOUBLE)
        optimizer.zero_grad()
        (model(x) - x @ rule.T).square().sum(1).mean().backward()
        optimizer.step()
        seen.append(keep.ranks["weight"])
    changed = [i + 1 for i, (a, b) in enumerate(itertools.pairwise(seen), start=1) if a != b]
    assert set(seen[:49]) == {1} and changed and all(step % 10 == 0 and step > 40 for step in changed)
    assert seen == sorted(seen) and seen[-1] == 4
    torch.testing.assert_close(model.weight.detach(), rule, atol=1e-3, rtol=0)
    fixed = InRank(model, rank=2, buffer=0, warmup=0, gap=1)
    fixed.consolidate()
    fixed.attach(optimizer)
    train(nn.Sequential(model), optimizer, [(torch.randn(8, 16, dtype=DOUBLE), torch.arange(8))], fixed)
    assert fixed.ranks == {"weight": 2}


def test_what_is_no_such_weight_or_not_selected_trains_as_ever() -> None:
    found = []
    for protected in (False, True):
        model = network(dtype=DOUBLE)
        optimizer = sgd(model)
        if protected:
            keep = InRank(model, select=["head", "norm"])
            keep.consolidate()
            keep.attach(optimizer)
            assert list(keep.state) == ["head.weight"]
        (batch,) = task(1, DOUBLE, batches=1)
        train(model, optimizer, [batch])
        found.append(model)
    plain, held = found
    assert torch.equal(plain.first.weight, held.first.weight) and torch.equal(plain.norm.weight, held.norm.weight)
    assert torch.equal(plain.head.bias, held.head.bias) and not torch.equal(plain.head.weight, held.head.weight)


def test_a_convolutions_filters_are_rows_and_a_tied_weight_is_one() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    keep = InRank(model, rank=1, buffer=0)
    keep.consolidate()
    start = model[0].weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keep.attach(optimizer)
    train(model, optimizer, [(torch.randn(5, 2, 4, 4), torch.tensor([0, 1, 2, 3, 0])) for _ in range(3)], keep)
    moved = (model[0].weight.detach() - start).flatten(1).double()
    assert int(torch.linalg.matrix_rank(moved, atol=1e-6)) == 1
    net = network()
    assert "middle.weight" in InRank(net)._matrices() and len(InRank(net)._matrices()) == 3


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: InRank(network(), rank=0), "rank is 0"),
        (lambda: InRank(network(), threshold=1.5), r"threshold is 1\.5; expected a share, from 0 to 1"),
        (lambda: InRank(network(), warmup=0.5), r"warmup is 0\.5; expected a whole number of steps"),
        (lambda: InRank(network(), gap=0), "gap is 0"),
        (lambda: InRank(network(), select="norm"), r"no weight of a linear layer or a convolution is selected"),
    ],
)
def test_what_is_refused(act, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        act()
