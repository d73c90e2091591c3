"""How much memory a method will take, before it is run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from holdfast.bench.models.heads import Heads
from holdfast.errors import ConfigurationError
from holdfast.heads import Head
from holdfast.importance.engine import MAX_BYTES
from holdfast.method import Method
from holdfast.names import canonical_parameters
from holdfast.pieces import LARGE, PIECE
from holdfast.registry import Entry

__all__ = ["Footprint", "footprint", "has_importances"]

_COUNTS = re.compile(r"(?P<kept>[\d.]+)(?:, and (?P<training>[\d.]+) in training|, and [\w ]+)?")


@dataclass(frozen=True)
class Footprint:
    """Bytes beyond the model, its gradients and its optimizer.

    Args:
        state_bytes: what is remembered from task to task, and saved.
        training_bytes: what is held during training only.
        consolidating_bytes: what remembering a task needs at once, at most; nothing of `training_bytes` is held then.
        stepping_bytes: what a training step needs for a moment, beside `training_bytes`.
    """

    state_bytes: int
    training_bytes: int
    consolidating_bytes: int
    stepping_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """The most at any time."""
        return self.state_bytes + max(self.training_bytes + self.stepping_bytes, self.consolidating_bytes)


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
    if entry.kind == "head":
        return _of_head(entry, model)
    counts = _counts(entry)
    kept, training = float(counts["kept"]), float(counts["training"] or 0)
    parameters = canonical_parameters(model)
    renewed = buffers = 0  # an optimizer that is the memory has learned all it knows by the end of a task
    if entry.kind == "method":
        assert entry.build is not None
        method = entry.build(model, **entry.defaults)
        assert isinstance(method, Method)
        parameters = {name: parameters[name] for name in method.params}
        renewed, buffers = method.renewed, method.most_buffer_bytes()
    one = _float_bytes(parameters.values())
    state = round(kept * one) + buffers
    weighted = has_importances(entry)
    if importance_dtype is not None:
        if not weighted:
            raise ConfigurationError(f"{entry.name} has no importances; expected no importance dtype")
        state += sum(p.numel() for p in parameters.values()) * importance_dtype.itemsize - one
    # What is new, beside all the old: that comes back if the new is not finite. The estimate of importances works in
    # bounded pieces: each holds some samples' gradients and what is made of them.
    consolidating = one * renewed + 2 * buffers + (2 * MAX_BYTES if entry.needs_data else 0)
    # The distances from the anchors, which large tensors on the CPU have made a piece at a time.
    listed = [p for p in parameters.values() if p.device.type != "cpu" or p.numel() < LARGE]
    stepping = _float_bytes(listed) if "quadratic" in entry.promises else 0
    if all(p.device.type == "cpu" for p in listed):
        stepping = min(stepping, PIECE * torch.float32.itemsize)
    return Footprint(state, round(training * one), consolidating, stepping)


def _of_head(entry: Entry, model: nn.Module) -> Footprint:
    """Of a head over the features that a model of ours gives to its last layer, or over the outputs of another."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if isinstance(model, Heads):
        last = last[-len(model.heads) :]
    if not last:
        raise ConfigurationError(f"{entry.name} stands on features, and the model has no linear layer that takes any")
    size, classes = last[-1].in_features, sum(layer.out_features for layer in last if isinstance(model, Heads))
    classes = classes or last[-1].out_features
    assert entry.build is not None
    head = entry.build(**entry.defaults)
    assert isinstance(head, Head)
    state = head.state_size(size, classes)
    return Footprint(state, 0, head.memory(size, classes) - state)


def _float_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """In the weights' precision, or float32 where that is a half precision: as anchors and importances are kept."""
    return sum(p.numel() * torch.promote_types(p.dtype, torch.float32).itemsize for p in parameters)
