r"""How far an optimizer moves a weight per unit of a constant gradient: what a proximal step needs to know."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RMSprop,
    Rprop,
    SparseAdam,
)

from holdfast.errors import ConfigurationError
from holdfast.optim import CLASSP, GoldenSGD, effective_step_size

__all__ = ["borne_stiffness", "check_step_size_known", "proportional_step", "step_size"]

Rule: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], "Tensor | float"]


def _number(value: Any) -> Any:
    """A tensor stays one (no host sync); anything else becomes a float."""
    return value if isinstance(value, Tensor) else float(value)


def _sgd(group: dict[str, Any], state: dict[str, Any]) -> Tensor | float:
    momentum = group["momentum"]
    if momentum == 0:
        return _number(group["lr"])  # type: ignore[no-any-return]  # lr is a float or a tensor
    return _number(group["lr"]) * ((1 - group["dampening"]) / (1 - momentum))  # type: ignore[no-any-return]  # as above


def _adam(group: dict[str, Any], state: dict[str, Any]) -> Tensor | float:
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    correction = 1 - group["betas"][1] ** _number(state["step"]).double()  # a float32 power is off by 1e-6
    return _number(group["lr"]) / ((second / correction).sqrt() + group["eps"])  # type: ignore[no-any-return]  # as above


def _adagrad(group: dict[str, Any], state: dict[str, Any]) -> Tensor | float:
    lr = _number(group["lr"]) / (1 + (_number(state["step"]) - 1) * group["lr_decay"])
    return lr / (state["sum"].sqrt() + group["eps"])  # type: ignore[no-any-return]  # as above


def _rmsprop(group: dict[str, Any], state: dict[str, Any]) -> Tensor | float:
    second = state["square_avg"]
    if group["centered"]:
        second = second - state["grad_avg"].square()
    return _number(group["lr"]) / ((second.sqrt() + group["eps"]) * (1 - group["momentum"]))  # type: ignore[no-any-return]  # as above


def _classp(group: dict[str, Any], state: dict[str, Any]) -> Tensor | float:
    return effective_step_size(
        state["sum"], lr=group["lr"], eps=group["eps"], power=group["power"], scaling=group["scaling"]
    )


# By exact type: a subclass may step differently.
_RULES: dict[type[Optimizer], Rule] = {
    SGD: _sgd,
    GoldenSGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    Adagrad: _adagrad,
    RMSprop: _rmsprop,
    CLASSP: _classp,
}

# Their steps are as large as the learning rate, however large the gradient. Not RAdam, whose first steps are SGD's.
_DIVIDING: tuple[type[Optimizer], ...] = (
    *(Adam, AdamW, NAdam, Adamax, SparseAdam, Adagrad, Adadelta, Adafactor, RMSprop, Rprop, CLASSP),
    *((torch.optim.Muon,) if hasattr(torch.optim, "Muon") else ()),  # of torch 2.9
)


def check_step_size_known(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose step per unit of gradient is unknown.

    Raises:
        ConfigurationError: naming the optimizer and those that are known.
    """
    if type(optimizer) not in _RULES:
        known = ", ".join(sorted(kind.__name__ for kind in _RULES))
        raise ConfigurationError(
            f"coupling='proximal' needs to know how far {type(optimizer).__name__} steps; it knows {known}: "
            "use one of them, or coupling='gradient'"
        )


def step_size(optimizer: Optimizer, parameters: list[nn.Parameter]) -> list[Tensor | float]:
    r"""The displacement per unit of a constant gradient, elementwise, after a step.

    .. math:: D = \frac{\eta}{1-\mu} \text{ (SGD)}, \quad \frac{\eta}{\sqrt{\hat v} + \epsilon} \text{ (Adam)}

    Source: this project; the fixed point of each optimizer's own recursion. Weight decay is left out.

    Args:
        optimizer: one of SGD, GoldenSGD, Adam, AdamW, Adagrad, RMSprop, CLASSP.
        parameters: some of its parameters, all of which have been stepped.

    Returns:
        One float, ``[]`` or ``[*p]`` per parameter, in parameter / gradient units.
    """
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rule = _RULES[type(optimizer)]
    with torch.no_grad():
        return [rule(group_of[id(p)], optimizer.state[p]) for p in parameters]


def proportional_step(optimizer: Optimizer) -> float:
    r"""The largest displacement per unit of a constant gradient, where the step is proportional to the gradient.

    .. math:: D = \frac{\eta (1 - d)}{1-\mu} \text{ (SGD with dampening } d \text{)}, \quad \eta \text{ (ASGD)}

    Source: this project; the fixed point of each optimizer's own recursion.

    Args:
        optimizer: any; a subclass of SGD counts as one.

    Returns:
        In parameter / gradient units, >= 0; 0 for optimizers that divide by the gradient's size, and unknown ones.
    """
    if isinstance(optimizer, SGD):
        return max((float(_sgd(group, {})) for group in optimizer.param_groups), default=0.0)
    if isinstance(optimizer, ASGD):  # it begins with η and lowers it
        return max((float(group["lr"]) for group in optimizer.param_groups), default=0.0)
    return 0.0


def borne_stiffness(optimizer: Optimizer, group: dict[str, Any]) -> float | None:
    r"""The largest second derivative at which steps that are proportional to the gradient do not swing ever farther.

    .. math:: \frac{2 (1 + \mu)}{\eta (1 - d)} \text{ (SGD)}, \quad
        \frac{2 (1 + \mu)}{\eta (1 + 2 \mu)} \text{ (Nesterov)}, \quad \frac{2}{\eta} \text{ (ASGD)}

    Source: textbook; the roots of each recursion on a quadratic, at modulus 1. Weight decay is left out.

    Args:
        optimizer: any; a subclass counts as its class.
        group: one of its ``param_groups``.

    Returns:
        In loss / parameter², > 0; infinite for those that divide by the gradient's size, ``None`` for unknown ones.
    """
    if isinstance(optimizer, _DIVIDING):
        return math.inf
    if not isinstance(optimizer, SGD | ASGD):
        return None
    momentum, dampening, nesterov = (float(group.get(k, 0)) for k in ("momentum", "dampening", "nesterov"))
    rate = float(group["lr"]) * (1 - dampening) * (1 + 2 * momentum * nesterov)
    return 2 * (1 + momentum) / rate if rate > 0 else math.inf
