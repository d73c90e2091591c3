"""The step per unit of a constant gradient, against optimizers that are fed one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import CLASSP, ConfigurationError, GoldenSGD
from holdfast.step_size import check_step_size_known, step_size

MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "golden": lambda p: GoldenSGD(p),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "rmsprop-momentum": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
    "classp": lambda p: CLASSP(p, lr=0.1, threshold=0.0, eps=1e-3, power=2.0),
    "classp-unscaled": lambda p: CLASSP(p, lr=0.1, threshold=0.0, scaling=False),
}


@pytest.mark.parametrize("name", MAKERS)
def test_displacement_under_a_constant_gradient(name):
    gradient = torch.tensor([0.5, -2.0, 1e-2], dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = MAKERS[name]([weight])
    for _ in range(1500):
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
    moved = before - weight.detach()
    (size,) = step_size(optimizer, [weight])
    torch.testing.assert_close(torch.as_tensor(size) * gradient, moved, rtol=1e-6, atol=0)


def test_an_unknown_optimizer_is_refused_and_the_known_ones_are_named():
    weight = nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigurationError, match=r"Adamax.*SGD"):
        check_step_size_known(torch.optim.Adamax([weight], lr=0.1))
