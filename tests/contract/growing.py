"""What the contract tests of growth and of rows share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.registry import lookup
from tests.contract.cases import METHODS, QUADRATIC, Net, build, consolidate, sgd, task, train

DOUBLE = torch.float64
COUPLED = [
    (name, coupling)
    for name in METHODS
    for coupling in (("gradient", "loss", "proximal") if name in QUADRATIC else (None,))
    if not ("path-integral" in lookup(name).promises and coupling == "loss")
]
EVERY = pytest.mark.parametrize(("name", "coupling"), COUPLED, ids=lambda value: str(value))
# What protects something that was learned, rather than say how large any weight may be.
PROTECTING = pytest.mark.parametrize(
    ("name", "coupling"),
    [each for each in COUPLED if "bounds" not in lookup(each[0]).promises],
    ids=lambda value: str(value),
)


def made(name, model, coupling=None, **overrides):
    values = {} if coupling is None else {"coupling": coupling}
    return build(name, model, **{**values, **({"select": "*"} if name == "freeze" else {}), **overrides})


def small(outputs=2, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(outputs=outputs).double()


def data(seed, outputs):
    return [(x, y % outputs) for x, y in task(seed, DOUBLE)]


def grow(model, outputs, seed=8):
    """A head with more rows in its place, as a user would make it."""
    old = model.head
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.head = nn.Linear(8, outputs).double()
    with torch.no_grad():
        model.head.weight[: old.out_features] = old.weight
        model.head.bias[: old.out_features] = old.bias


def learned(name, coupling, outputs=2, **overrides):
    model = small(outputs)
    optimizer = sgd(model)
    method = made(name, model, coupling, **overrides).attach(optimizer)
    train(model, optimizer, data(1, outputs), method)
    consolidate(model, optimizer, data(1, outputs), method)
    return model, method


def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05)
