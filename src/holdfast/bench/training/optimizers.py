"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from holdfast import registry
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError

__all__ = ["build", "names"]

_OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    **{entry.name: entry.build for entry in registry.entries() if entry.kind == "optimizer" and entry.build},
}


def names() -> tuple[str, ...]:
    """The names that :func:`build` knows."""
    return tuple(_OPTIMIZERS)


def build(
    name: str, parameters: Iterable[nn.Parameter], lr: float, options: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """An optimizer by name.

    Args:
        name: one of :func:`names`.
        parameters: what it trains.
        lr: its learning rate.
        options: further keyword arguments of its constructor.

    Raises:
        ConfigurationError: for an unknown name or option, or a value that the optimizer refuses.
    """
    if name not in _OPTIMIZERS:
        raise unknown_name("optimizer", name, _OPTIMIZERS)
    kind = _OPTIMIZERS[name]
    options = dict(options or {})
    valid = [key for key in inspect.signature(kind).parameters if key not in ("params", "lr")]
    for key in options:
        if key not in valid:
            raise ConfigurationError(f"optimizer {name!r} has no option {key!r}; it has {', '.join(valid)}")
    try:
        return kind(parameters, lr=lr, **options)
    except (ValueError, TypeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in {"lr": lr, **options}.items())
        raise ConfigurationError(f"optimizer {name!r} refuses {given}: {error}") from error
