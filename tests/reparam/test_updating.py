"""InRank between tasks: its step against trained factors, what grows, and what is free."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from holdfast import GoldenSGD, InRank, reparam
from holdfast.errors import ConfigurationError
from holdfast.names import canonical_parameters
from holdfast.reparam.updating import factor_gradients
from holdfast.testing.cases import adam, network, sgd, task, train

DOUBLE = torch.float64


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "golden": GoldenSGD,
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_is_training_the_factors_under_any_optimizer(kind: str) -> None:
    model = network(dtype=DOUBLE)
    keep = InRank(model, rank=1, buffer=2, warmup=100)
    keep.consolidate(generator=torch.Generator().manual_seed(1))
    twin = reparam.inrank(copy.deepcopy(model), rank=1, buffer=2)
    factors = canonical_parameters(twin)
    with torch.no_grad():
        for name in keep.ranks:
            factors[f"{name}.original2"].copy_(keep.buffers[f"down.{name}"])
    optimizer, other = (OPTIMIZERS[kind]([p for p in m.parameters() if p.requires_grad]) for m in (model, twin))
    keep.attach(optimizer)
    for seed in (1, 2, 3):
        for each in (optimizer, other):
            each.param_groups[0]["lr"] *= 0.7  # as a schedule does
        train(model, optimizer, task(seed, DOUBLE), keep)
        train(twin, other, task(seed, DOUBLE))
    for name in ("first", "middle", "head"):
        for part in ("weight", "bias"):
            left, right = getattr(getattr(model, name), part), getattr(getattr(twin, name), part)
            torch.testing.assert_close(left.detach(), right.detach(), rtol=1e-9, atol=1e-12)
        up = factors[f"{name}.weight.original1"].detach()
        torch.testing.assert_close(keep.buffers[f"up.{name}.weight"], up, rtol=1e-9, atol=1e-12)
    moved = model.middle.weight.detach() - keep.state["middle.weight"]["anchor"]
    assert int(torch.linalg.matrix_rank(moved, rtol=1e-9)) == 3


def test_the_gradients_of_the_factors_are_autograds() -> None:
    up, down = torch.randn(5, 2, dtype=DOUBLE, requires_grad=True), torch.randn(2, 4, dtype=DOUBLE, requires_grad=True)
    weight = (up @ down).detach().requires_grad_()
    x = torch.randn(3, 4, dtype=DOUBLE)
    for w in (weight, up @ down):
        (x @ w.T).tanh().square().sum().backward()
    of_up, of_down = factor_gradients(up.detach(), down.detach(), weight.grad)
    torch.testing.assert_close(of_up, up.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(of_down, down.grad, rtol=1e-9, atol=1e-12)


def test_an_optimizer_of_another_kind_begins_with_moments_of_its_own() -> None:
    model = network(dtype=DOUBLE)
    keep = InRank(model)
    keep.consolidate()
    for make in (sgd, adam, sgd):
        optimizer = make(model)
        keep.attach(optimizer)
        train(model, optimizer, task(1, DOUBLE), keep)
        kinds = {key.split(".")[1] for key in keep.buffers if key.startswith("twin.")}
        assert kinds == ({"momentum_buffer"} if make is sgd else {"step", "exp_avg", "exp_avg_sq"})
    parts = [[model.first.weight, model.first.bias], [p for n, p in model.named_parameters() if "first" not in n]]
    both = [torch.optim.Adam(parts[0], lr=0.01), torch.optim.SGD(parts[1], lr=0.01, momentum=0.9)]
    keep.attach(*both)
    for x, y in task(2, DOUBLE):
        for each in both:
            each.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for each in both:
            each.step()
    assert "twin.exp_avg.up.first.weight" in keep.buffers and "twin.momentum_buffer.up.head.weight" in keep.buffers
    assert keep.buffers["twin.step.up.first.weight"] == 4


class Counting(torch.optim.Optimizer):
    """Keeps a plain number, and asks for an argument that its defaults do not have."""

    def __init__(self, params, scale: float, *, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr} if scale < 0 else {"lr": lr, "scale": scale})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["count"] = self.state[p].get("count", 0) + 1
                    p.sub_(p.grad, alpha=group["lr"] / self.state[p]["count"])


def test_an_optimizers_plain_numbers_are_remembered_and_one_that_cannot_be_made_is_refused() -> None:
    models = [network(dtype=DOUBLE) for _ in range(2)]
    keeps = [InRank(model) for model in models]
    optimizers = [Counting(model.parameters(), 1.0) for model in models]
    keeps[0].consolidate()
    keeps[0].attach(optimizers[0])
    train(models[0], optimizers[0], task(1, DOUBLE), keeps[0])
    assert keeps[0].buffers["twin.number of count.up.first.weight"] == 4
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    keeps[1].load_state_dict(keeps[0].state_dict())
    keeps[1].attach(optimizers[1])
    for model, optimizer, keep in zip(models, optimizers, keeps, strict=True):
        train(model, optimizer, task(2, DOUBLE), keep)
    assert torch.equal(models[0].first.weight, models[1].first.weight)
    assert keeps[1].buffers["twin.number of count.up.first.weight"] == 8
    odd = Counting(models[0].parameters(), -1.0)
    keeps[0].attach(odd)
    with pytest.raises(
        ConfigurationError, match="another Counting beside the one that is attached, and none can be made"
    ):
        train(models[0], odd, task(2, DOUBLE), keeps[0])


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
