"""EWC and online EWC over several tasks against the sums that their papers write."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import EWC, ConfigurationError, OnlineEWC
from tests.penalties.paths import DOUBLE, batches, close, network, sgd, train


def exact_fisher(model: nn.Module, data) -> list[torch.Tensor]:
    """Sample by sample, class by class."""
    params = list(model.parameters())
    total = [torch.zeros_like(p) for p in params]
    samples = torch.cat([x for x, _ in data])
    for x in samples:
        log_p = model(x[None]).log_softmax(1)[0]
        for y in range(log_p.numel()):
            gradients = torch.autograd.grad(log_p[y], params, retain_graph=True)
            for t, g in zip(total, gradients, strict=True):
                t += log_p[y].exp().detach() * g**2 / len(samples)
    return total


def learned(make):
    """Three tasks; after each, the weights and the dense Fisher."""
    model = network()
    optimizer = sgd(model)
    method = make(model).attach(optimizer)
    terms = []
    for seed in range(3):
        train(model, optimizer, batches(seed, 3))
        terms.append(([p.detach().clone() for p in model.parameters()], exact_fisher(model, batches(seed, 2))))
        method.consolidate(batches(seed, 2))
    train(model, optimizer, batches(5, 2))
    return model, method, terms


@pytest.mark.parametrize("coupling", ["gradient", "loss", "proximal"])
def test_three_tasks_are_the_sum_of_three_penalties(coupling):
    model, method, terms = learned(lambda m: _trained_by(EWC(m, strength=3.0, fisher="exact", coupling=coupling)))
    params = list(model.parameters())
    expected = sum(
        1.5 * (f * (p - a) ** 2).sum()
        for anchors, fishers in terms
        for p, a, f in zip(params, anchors, fishers, strict=True)
    )
    close(method.value(), expected)
    for found, slope in zip(
        torch.autograd.grad(method.value(), params), torch.autograd.grad(expected, params), strict=True
    ):
        close(found, slope)
    assert sum(t.numel() for held in method.state.values() for t in held.values()) == 2 * sum(p.numel() for p in params)


def _trained_by(method):
    """The loop of these tests adds no penalty to its loss; what is tested here is the value."""
    method.check_step = lambda optimizer: None
    return method


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_online_holds_one_fisher_and_the_latest_anchor(decay):
    model, method, terms = learned(lambda m: OnlineEWC(m, strength=3.0, decay=decay, fisher="exact"))
    running = [torch.zeros_like(p) for p in model.parameters()]
    for _, fishers in terms:
        running = [decay * r + f for r, f in zip(running, fishers, strict=True)]
    for held, anchor, f in zip(method.state.values(), terms[-1][0], running, strict=True):
        close(held["anchor"], anchor)
        close(held["importance"], f)
    expected = sum(
        1.5 * (f * (p - a) ** 2).sum() for p, a, f in zip(model.parameters(), terms[-1][0], running, strict=True)
    )
    close(method.value(), expected)


def test_a_new_head_is_folded_from_its_own_first_task():
    class Grown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x):
            hidden = self.body[1](self.body[0](x))
            return self.body[2](hidden) if not hasattr(self, "new") else self.new(hidden)

    model = Grown()
    method = EWC(model, strength=1.0)
    method.consolidate(batches(0, 1))
    method.attach(sgd(model))
    model.new = nn.Linear(5, 3, dtype=DOUBLE)
    optimizer = sgd(model)
    method.attach(optimizer)
    assert "new.weight" not in method.state
    train(model, optimizer, batches(1, 2))
    method.consolidate(batches(1, 1))
    assert torch.equal(method.state["new.weight"]["anchor"], model.new.weight.detach())
    assert method.state["new.weight"]["importance"].max() > 0


def test_the_penalty_is_zero_before_the_first_task_and_at_its_anchor():
    model = network()
    method = EWC(model, strength=1e3)
    assert method.value() == 0
    method.consolidate(batches(0, 1))
    assert method.value() == 0
    model[0].weight.data += 1
    assert method.value() > 0


@pytest.mark.parametrize("wrong", [{"fisher": "diagonal"}, {"decay": 1.5}, {"decay": -1}, {"strength": float("inf")}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        OnlineEWC(network(), **{"strength": 1.0, **wrong})
