"""MAS over several tasks against one backward per sample."""

from __future__ import annotations

import pytest
import torch

from holdfast import MAS, Classification, ConfigurationError
from tests.penalties.paths import batches, close, network, sgd, train


def sensitivity(model, data, form, columns=slice(None)):
    """Sample by sample; the absolute value before the mean."""
    params = list(model.parameters())
    total = [torch.zeros_like(p) for p in params]
    samples = torch.cat([x for x, _ in data])
    for x in samples:
        f = model(x[None])[0, columns]
        norm = (f**2).sum() if form == "squared_norm" else (f**2).sum() ** 0.5
        for t, g in zip(total, torch.autograd.grad(norm, params), strict=True):
            t += g.abs() / len(samples)
    return total


@pytest.mark.parametrize("form", ["squared_norm", "norm"])
def test_importances_add_up_and_the_anchor_is_the_latest(form):
    model = network()
    optimizer = sgd(model)
    method = MAS(model, strength=0.7, form=form).attach(optimizer)
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for seed in range(3):
        train(model, optimizer, batches(seed, 3))
        expected = [e + s for e, s in zip(expected, sensitivity(model, batches(seed, 2), form), strict=True)]
        method.consolidate(batches(seed, 2))
    anchor = [p.detach().clone() for p in model.parameters()]
    for held, omega, a in zip(method.state.values(), expected, anchor, strict=True):
        close(held["importance"], omega)
        close(held["anchor"], a)
    train(model, optimizer, batches(5, 2))
    value = sum(
        0.7 * (o * (p - a) ** 2).sum() for p, o, a in zip(model.parameters(), expected, anchor, strict=True)
    )  # no one half
    close(method.value(), value)


def test_the_objective_says_which_outputs_count():
    model = network()
    method = MAS(model, strength=1.0, objective=Classification(classes=(0, 2)))
    data = [(x, torch.zeros_like(y)) for x, y in batches(0, 2)]
    method.consolidate(data)
    expected = sensitivity(model, data, "squared_norm", [0, 2])
    for held, omega in zip(method.state.values(), expected, strict=True):
        close(held["importance"], omega)
    assert not method.state["2.bias"]["importance"][1]


def test_labels_are_not_used():
    found = []
    for label in (0, 1):
        model = network()
        method = MAS(model, strength=1.0)
        method.consolidate([(x, torch.full_like(y, label)) for x, y in batches(0, 2)])
        found.append([held["importance"] for held in method.state.values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_unknown_form_is_named():
    with pytest.raises(ConfigurationError, match="form is 'l1'"):
        MAS(network(), strength=1.0, form="l1")
