"""Freezing holds exactly, whatever the optimizer does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.names import canonical_parameters
from holdfast.projections.freeze import Freeze
from holdfast.projections.packnet import PackNet
from holdfast.projections.pruning import AnpycPruning

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.3),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(6, 3)])
        self.other = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[-1](self.body(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    g = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        x, y = torch.randn(4, 5, generator=g).to(dtype), torch.randint(3, (4,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_stay_to_the_last_bit_and_the_rest_learns(kind: str, dtype: torch.dtype) -> None:
    model = net().to(dtype)
    optimizer = OPTIMIZERS[kind](model.parameters())
    keep = Freeze(model, select="body").attach(optimizer)
    train(model, optimizer, 3)
    keep.consolidate()
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, 3)
    after = model.state_dict()
    for name, old in before.items():
        # `other` never has a gradient, so that no optimizer touches it.
        assert torch.equal(old, after[name]) == (not name.startswith("heads")), name


def test_running_statistics_of_a_frozen_part_are_held_and_those_of_a_free_one_are_not() -> None:
    for select, held in (("body", True), ("body.0", False), ("body.1.weight", False)):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        keep = Freeze(model, select=select).attach(optimizer)
        train(model, optimizer, 2)
        keep.consolidate()
        before = copy.deepcopy(model.body[1].state_dict())
        train(model, optimizer, 2, seed=3)
        same = [torch.equal(before[k], model.body[1].state_dict()[k]) for k in ("running_mean", "num_batches_tracked")]
        assert same == [held, held]


def test_the_optimizer_sees_no_gradient_even_where_it_is_not_finite() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = Freeze(model, select="heads")
    keep.consolidate()
    keep.attach(optimizer)
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    anchor = model.heads[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.heads[0].weight, anchor)
    assert not model.heads[0].weight.grad.any()
    assert model.body[0].weight.isnan().all()


def test_no_op_before_it_begins() -> None:
    for after, consolidations in ((1, 0), (3, 2)):
        models = []
        for protect in (False, True):
            model = net()
            optimizer = OPTIMIZERS["adam"](model.parameters())
            if protect:
                keep = Freeze(model, select="*", after=after).attach(optimizer)
            for task in range(consolidations + 1):
                train(model, optimizer, 2, seed=task)
                if protect and task < consolidations:
                    keep.consolidate()
            models.append(model.state_dict())
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
        keep.consolidate()
        assert keep.state.keys() == canonical_parameters(model).keys()


def test_a_new_head_learns_its_task_and_is_frozen_after_it() -> None:
    model = net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    keep = Freeze(model, select="*").attach(optimizer)
    train(model, optimizer, 2)
    keep.consolidate()
    model.heads.append(nn.Linear(6, 3))
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    keep.attach(optimizer)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, 2)
    learned = copy.deepcopy(model.state_dict())
    assert not torch.equal(learned["heads.1.weight"], before["heads.1.weight"])
    keep.consolidate()
    train(model, optimizer, 2)
    after = model.state_dict()
    assert torch.equal(after["heads.1.weight"], learned["heads.1.weight"])
    assert torch.equal(after["body.0.weight"], before["body.0.weight"])
    assert torch.equal(after["heads.0.weight"], before["heads.0.weight"])


def test_save_and_load_in_mid_task_continues_bit_identically() -> None:
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = Freeze(model, select="body").attach(optimizer)
    train(model, optimizer, 2)
    keep.consolidate()
    train(model, optimizer, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), keep.state_dict()))
    train(model, optimizer, 2, seed=8)
    other = Net()
    other.load_state_dict(saved[0])
    again = OPTIMIZERS["adam"](other.parameters())
    again.load_state_dict(saved[1])
    resumed = Freeze(other, select="body")
    resumed.load_state_dict(saved[2])
    resumed.attach(again)
    train(other, again, 2, seed=8)
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in model.state_dict().items())


def test_detach_lets_go() -> None:
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = Freeze(model, select="body")
    keep.consolidate()
    keep.attach(optimizer)
    keep.detach()
    before = model.body[0].weight.detach().clone()
    train(model, optimizer, 1)
    assert not torch.equal(model.body[0].weight, before)


def test_refusals_name_what_is_wrong() -> None:
    with pytest.raises(ConfigurationError, match="select is None"):
        Freeze(net(), select=None)
    with pytest.raises(ConfigurationError, match="after is 0"):
        Freeze(net(), select="*", after=0)
    with pytest.raises(ConfigurationError, match="'tail'"):
        Freeze(net(), select="tail")


@pytest.mark.parametrize(
    "other", [lambda m, s: PackNet(m, select=s), lambda m, s: AnpycPruning(m, strength=1.0, select=s)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_that_two_methods_would_hold_is_refused(other, turned):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pair = [Freeze(model, select="0"), other(model, None)]
    first, second = reversed(pair) if turned else pair
    first.attach(optimizer)
    with pytest.raises(ConfigurationError, match=r"both hold parameter '0\.bias' \(2 in all\)"):
        second.attach(optimizer)
    first.detach()
    Freeze(model, select="0").attach(optimizer)
    Freeze(model, select="0.weight").attach(optimizer)  # both hold what they find: the same
    other(model, "1").attach(optimizer)
