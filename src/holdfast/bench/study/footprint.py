"""How much memory a method will take, before it is run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.bench.models.heads import Heads
from holdfast.errors import ConfigurationError
from holdfast.heads import Head
from holdfast.importance.capture import layers_of
from holdfast.importance.engine import MAX_BYTES
from holdfast.importance.linear import WHOLE
from holdfast.importance.rules import ConvRule
from holdfast.method import Method
from holdfast.names import canonical_parameters
from holdfast.objectives import CausalLM, as_objective
from holdfast.penalties.gradient import AT_ONCE
from holdfast.penalties.resources import GROUP_BYTES
from holdfast.pieces import LARGE, PIECE, neighbours
from holdfast.registry import Entry

__all__ = ["Footprint", "footprint", "has_importances", "part_bytes"]

_COUNTS = re.compile(r"(?P<kept>[\d.]+)(?:, and (?P<training>[\d.]+) in training|, and [\w ]+)?")


@dataclass(frozen=True)
class Footprint:
    """Bytes beyond the model, its gradients and its optimizer, in each process, where the model is.

    Args:
        state_bytes: what is remembered from task to task, and saved.
        training_bytes: what is held during training only.
        consolidating_bytes: what remembering a task needs at once, at most; nothing of `training_bytes` is held then.
        stepping_bytes: what a training step needs for a moment, beside `training_bytes`.
        host_bytes: what is remembered, too, but in the host's memory: the model is on a device.
    """

    state_bytes: int
    training_bytes: int
    consolidating_bytes: int
    stepping_bytes: int = 0
    host_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """The most at any time."""
        return self.state_bytes + max(self.training_bytes + self.stepping_bytes, self.consolidating_bytes)


def has_importances(entry: Entry) -> bool:
    """Whether a method holds importances beside its anchors."""
    return "quadratic" in entry.promises and float(_counts(entry)["kept"]) >= 2


def part_bytes(tensors: Iterable[Tensor], processes: int = 1, itemsize: int | None = None) -> int:
    """Bytes of the largest part of some tensors that a process holds under FSDP2, which cuts the first dimension.

    Args:
        tensors: each ``[*p]``; on ``meta`` will do.
        processes: how many there are; 1 holds all.
        itemsize: of an entry; ``None`` for each tensor's own.
    """
    return sum(_entries(t, processes) * (t.dtype.itemsize if itemsize is None else itemsize) for t in tensors)


def _entries(tensor: Tensor, processes: int) -> int:
    if processes == 1 or tensor.dim() == 0 or not tensor.numel():
        return tensor.numel()
    return math.ceil(tensor.shape[0] / processes) * (tensor.numel() // tensor.shape[0])


def _counts(entry: Entry) -> re.Match[str]:
    counts = _COUNTS.fullmatch(entry.state)
    assert counts is not None, entry.state
    return counts


def footprint(
    entry: Entry,
    model: nn.Module,
    importance_dtype: torch.dtype | None = None,
    *,
    processes: int = 1,
    offloaded: bool = False,
) -> Footprint:
    """What a method with its default settings will take for a model, by the tensors that its entry says it keeps.

    Args:
        entry: the method, optimizer or baseline.
        model: the model, whole; tensors on the ``meta`` device will do.
        importance_dtype: of a quadratic penalty's importances; ``None``: float32.
        processes: over how many FSDP2 cuts the model (in the first dimension of each tensor).
        offloaded: whether a penalty keeps anchors and importances in the host's memory (``state_device="cpu"``).

    Returns:
        Bytes; of several processes those of the first, which has the largest part.

    Raises:
        ConfigurationError: if a method has no importances for that precision, cannot work on a sharded model, or keeps
            nothing elsewhere than the model.
    """
    if entry.kind == "head":
        if processes > 1:
            raise ConfigurationError(f"{entry.name} stands on features, which a sharded model gives to nobody alone")
        return _of_head(entry, model)
    if entry.needs_adapters:
        raise ConfigurationError(f"{entry.name} keeps rows of adapters, and this model is without any")
    counts = _counts(entry)
    kept, training = float(counts["kept"]), float(counts["training"] or 0)
    weighted, quadratic = has_importances(entry), "quadratic" in entry.promises
    copied: Mapping[str, Tensor] = canonical_parameters(model)
    renewed = buffers = 0  # an optimizer that is the memory has learned all it knows by the end of a task
    one = part_bytes(copied.values(), processes)
    if entry.kind == "method":
        method = _built(entry, model, {"state_device": "cpu"} if offloaded and quadratic else {})
        if processes > 1 and not method.on_shards:
            raise ConfigurationError(f"{entry.name} works on whole parameters alone, and not on a sharded model")
        copied = method.copied()
        renewed, buffers = method.renewed, method.most_buffer_bytes()
        one = sum(part_bytes([t], processes, method.kept_as(t.dtype).itemsize) for t in copied.values())
    if offloaded and processes > 1:
        raise ConfigurationError("a sharded model's state is where its parameters are; expected one of the two")
    if offloaded and not quadratic:
        raise ConfigurationError(f"{entry.name} keeps nothing elsewhere than the model; expected no offloading")
    state = round(kept * one) + buffers
    weights = 0
    if weighted:
        weights = one if importance_dtype is None else part_bytes(copied.values(), processes, importance_dtype.itemsize)
        state += weights - one
    elif importance_dtype is not None:
        raise ConfigurationError(f"{entry.name} has no importances; expected no importance dtype")
    # What is new, beside all the old: that comes back if the new is not finite.
    consolidating = one * renewed + 2 * buffers + (_working(model, copied) if entry.needs_data else 0)
    stepping = _distances(copied, processes) if quadratic else 0
    if not offloaded:
        return Footprint(state, round(training * one), consolidating, stepping)
    away = one + weights  # anchors and importances: all else changes at every step
    share = away / one
    rooms = _lent([round(share * _float_bytes(t)) for t in copied.values()])
    return Footprint(state - away, round(training * one), consolidating + away, stepping + rooms, away)


def _built(entry: Entry, model: nn.Module, resources: Mapping[str, Any]) -> Method:
    assert entry.build is not None
    method = entry.build(model, **entry.defaults, **resources)
    assert isinstance(method, Method)
    return method


def _lent(sizes: Sequence[int]) -> int:
    """What has room on the device of a state that is elsewhere: two groups of neighbours, in turn."""
    groups = neighbours(sizes, GROUP_BYTES)
    return min(2, len(groups)) * max((sum(sizes[group]) for group in groups), default=0)


def _working(model: nn.Module, copied: Mapping[str, Tensor]) -> int:
    """Of an estimate of importances, at most: the gradients of some samples, and a layer's own beside autograd's."""
    one_layer = 2 * max(map(_float_bytes, copied.values()), default=0)
    if any(t.device.type != "cpu" for t in copied.values()):
        return 2 * MAX_BYTES + one_layer
    layers = layers_of(model, {name: p for name, p in copied.items() if isinstance(p, nn.Parameter)})
    ruled = {name for layer in layers for name in layer.names.values()}
    if copied.keys() <= ruled and not any(issubclass(layer.rule, ConvRule) for layer in layers):
        return 2 * WHOLE + one_layer  # there each sample's gradients are formed in what stays in the cache
    return 2 * MAX_BYTES + one_layer


def _distances(copied: Mapping[str, Tensor], processes: int) -> int:
    """Of the distances from the anchors: on the CPU those of large tensors are made in pieces, others in groups."""
    listed = [t for t in copied.values() if t.device.type != "cpu" or t.numel() < LARGE]
    most = sum(_float_bytes(t, processes) for t in listed)
    if all(t.device.type == "cpu" for t in listed):
        return min(most, PIECE * torch.float32.itemsize)
    return min(most, max(AT_ONCE * torch.float32.itemsize, *(_float_bytes(t, processes) for t in listed)))


def _float_bytes(tensor: Tensor, processes: int = 1) -> int:
    return part_bytes([tensor], processes, torch.promote_types(tensor.dtype, torch.float32).itemsize)


def _of_head(entry: Entry, model: nn.Module) -> Footprint:
    """Of a head over the features that a model of ours gives to its last layer, or over the outputs of another."""
    if isinstance(as_objective(None, model), CausalLM):
        raise ConfigurationError(f"{entry.name} tells classes apart, and the model goes on with texts")
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
