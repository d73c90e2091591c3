"""How much memory a method will take, before it is run."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from holdfast.errors import ConfigurationError
from holdfast.importance.engine import MAX_BYTES
from holdfast.method import Method
from holdfast.names import canonical_parameters
from holdfast.registry import Entry

__all__ = ["Footprint", "footprint", "has_importances"]

_COUNTS = re.compile(r"(?P<kept>[\d.]+)(?:, and (?P<training>[\d.]+) in training)?")


@dataclass(frozen=True)
class Footprint:
    """Bytes beyond the model, its gradients and its optimizer.

    Args:
        state_bytes: what is remembered from task to task, and saved.
        training_bytes: what is held during training only.
        consolidating_bytes: what remembering a task needs at once, at most.
    """

    state_bytes: int
    training_bytes: int
    consolidating_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most at any time."""
        return self.state_bytes + max(self.training_bytes, self.consolidating_bytes)


def has_importances(entry: Entry) -> bool:
    """Whether a method holds importances beside its anchors."""
    return "quadratic" in entry.promises and float(_counts(entry)["kept"]) >= 2


def _counts(entry: Entry) -> re.Match[str]:
    counts = _COUNTS.fullmatch(entry.state)
    assert counts is not None, entry.state
    return counts


def footprint(entry: Entry, model: nn.Module, importance_dtype: torch.dtype | None = None) -> Footprint:
    """What a method with its default settings will take for a model, by the tensors that its entry says it keeps.

    Args:
        entry: the method, optimizer or baseline.
        model: the model; tensors on the ``meta`` device will do.
        importance_dtype: of a quadratic penalty's importances; ``None``: float32.

    Returns:
        Bytes.

    Raises:
        ConfigurationError: if importances of that precision are asked of a method that has none.
    """
    counts = _counts(entry)
    kept, training = float(counts["kept"]), float(counts["training"] or 0)
    parameters = canonical_parameters(model)
    if entry.kind == "method":
        assert entry.build is not None
        method = entry.build(model, **entry.defaults)
        assert isinstance(method, Method)
        parameters = {name: parameters[name] for name in method.params}
    # Anchors and importances keep the weights' precision, or float32 where that is a half precision.
    one = sum(p.numel() * torch.promote_types(p.dtype, torch.float32).itemsize for p in parameters.values())
    state = round(kept * one)
    weighted = has_importances(entry)
    if importance_dtype is not None:
        if not weighted:
            raise ConfigurationError(f"{entry.name} has no importances; expected no importance dtype")
        state += sum(p.numel() for p in parameters.values()) * importance_dtype.itemsize - one
    # The new importances, and the new anchors beside the old. The estimate of importances works in bounded pieces: each
    # holds some samples' gradients and what is made of them.
    consolidating = (one * 2 if weighted else one) + (2 * MAX_BYTES if entry.needs_data else 0) if kept else 0
    return Footprint(state, round(training * one), consolidating)
