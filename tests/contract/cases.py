"""What the contract tests share: every registry entry built small, for the cases of ``holdfast.testing``."""

from __future__ import annotations

from typing import Any

from torch import nn

from holdfast import Method, registry
from holdfast.testing.cases import (
    Batch,
    Net,
    adam,
    consolidate,
    network,
    same,
    same_state,
    sgd,
    step,
    task,
    train,
    weights,
)

__all__ = [
    "METHODS",
    "NEED_DATA",
    "QUADRATIC",
    "Batch",
    "Net",
    "adam",
    "build",
    "consolidate",
    "network",
    "same",
    "same_state",
    "sgd",
    "step",
    "task",
    "train",
    "weights",
]

# What needs a new adapter for each task is held to its promises where there are adapters: penalties/test_olora.py.
METHODS = [entry.name for entry in registry.entries() if entry.kind == "method" and not entry.needs_adapters]
QUADRATIC = [entry.name for entry in registry.entries() if "quadratic" in entry.promises]
NEED_DATA = [entry.name for entry in registry.entries() if entry.kind == "method" and entry.needs_data]


def build(name: str, model: nn.Module, **overrides: Any) -> Method:
    """The registry's method, weak enough that a few steps at any learning rate here stay finite."""
    entry = registry.lookup(name)
    values = dict(entry.defaults)
    if "strength" in values:
        values["strength"] = 0.3
    if name == "freeze":
        values["select"] = "middle"
    if name == "olor":
        values["level_min"] = 0.01  # by default the last layer, where these tests look, is free
    if name == "hft":
        values["seed"] = 569  # the head, where these tests look, is of the half that is held
    if name == "efficient-packnet":
        values |= {"alpha": 1.0, "gamma": 0.95}  # the plain model, which these tests hold its training against
    if name == "inrank":
        values |= {"warmup": 0, "gap": 2, "rank": 1, "buffer": 2, "threshold": 0.99, "max_rank": 6}  # ranks grow here
    assert entry.build is not None
    method = entry.build(model, **{**values, **overrides})
    assert isinstance(method, Method)
    return method
