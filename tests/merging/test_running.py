"""CoMA and CoFiMA merge after every task, and what is new waits for the next."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import CoFiMA, CoMA, ConfigurationError, NumericsError
from holdfast.importance import fisher
from holdfast.merging import fisher_average, ties, wise_ft
from tests.contract.cases import consolidate, network, same, task, train, weights


def learned(make, seeds=(1, 2, 3)):
    """The model, and by hand: the weights before each consolidate, and the Fisher there."""
    model = network(dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    keep = make(model).attach(optimizer)
    seen = []
    for seed in seeds:
        batches = task(seed, torch.float64)
        train(model, optimizer, batches, keep)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        seen.append((weights(model), fisher(model, batches, kind="exact", names=names)))
        consolidate(model, optimizer, batches, keep)
    return model, keep, seen


def test_coma_is_a_running_mean():
    model, keep, seen = learned(lambda m: CoMA(m, weight=0.3))
    wanted = seen[0][0]
    for now, _ in seen[1:]:
        wanted = wise_ft(wanted, now, 0.3)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), wanted[name], rtol=1e-12, atol=1e-12)
    assert keep.num_tasks == 3


@pytest.mark.parametrize(("density", "weight"), [(0.1, 1.0), (0.5, 0.3), (1.0, 0.7)])
def test_a_trimmed_move_is_that_of_ties(density, weight):
    """Which stands on its own, against the reference: here for one training after the other."""
    model, _, seen = learned(lambda m: CoMA(m, weight=weight, density=density))
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    wanted = {name: seen[0][0][name] for name in trained}
    for now, _ in seen[1:]:
        wanted = ties(wanted, [{name: now[name] for name in wanted}], density=density, weight=weight)
    for name, p in trained.items():
        torch.testing.assert_close(p, wanted[name], rtol=1e-12, atol=1e-12)
    moved = sum(int((p != seen[0][0][name]).sum()) for name, p in trained.items())
    assert moved <= 2 * round(density * sum(p.numel() for p in trained.values()))


@pytest.mark.parametrize("density", [0, 1.5, True, "half"])
def test_a_density_is_a_share(density):
    with pytest.raises(ConfigurationError, match=r"density is .*; expected a share, more than 0 and at most 1"):
        CoFiMA(network(), density=density)


def test_cofima_weighs_by_both_fishers():
    model, _, seen = learned(lambda m: CoFiMA(m, weight=0.3, fisher="exact"))
    wanted, importance = seen[0]
    wanted = {name: wanted[name] for name in importance}
    for now, found in seen[1:]:
        wanted = fisher_average(wanted, {n: now[n] for n in found}, importance, found, weight=0.3)
        importance = {name: 0.7 * importance[name] + 0.3 * found[name] for name in found}
    for name, tensor in wanted.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_of_the_dial(weight):
    model, _, seen = learned(lambda m: CoMA(m, weight=weight), seeds=(1, 2))
    wanted = seen[-1 if weight else 0][0]
    assert same(weights(model), wanted)


def test_a_new_head_is_merged_from_its_second_task_on():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    keep = CoMA(model, weight=0.5).attach(optimizer)
    train(model, optimizer, task(1), keep)
    keep.consolidate()
    model.extra = nn.Linear(8, 4)
    optimizer.add_param_group({"params": list(model.extra.parameters())})
    before = model.extra.weight.detach().clone()
    train(model, optimizer, task(2), keep)
    keep.consolidate()
    assert torch.equal(model.extra.weight, before) and torch.equal(keep.state["extra.weight"]["anchor"], before)
    with torch.no_grad():
        model.extra.weight += 1
    train(model, optimizer, task(3), keep)
    keep.consolidate()
    torch.testing.assert_close(model.extra.weight.detach(), before + 0.5)


def test_weights_that_are_not_finite_are_not_merged():
    model, keep, _ = learned(CoMA, seeds=(1, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    keep.attach(optimizer)
    train(model, optimizer, task(3, torch.float64), keep)
    with torch.no_grad():
        model.head.bias[0] = float("inf")
    before = weights(model)
    with pytest.raises(NumericsError, match=r"head\.bias"):
        keep.consolidate()
    assert same(weights(model), before)
