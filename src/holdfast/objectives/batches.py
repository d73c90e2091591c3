"""What lies in a batch: its inputs, its targets, its samples one by one.

A batch is a pair ``(inputs, targets)`` or a dict (``{"labels": …, **inputs}``, as Transformers has them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import DataError
from holdfast.objectives.base import Batch

__all__ = [
    "call",
    "field",
    "found_targets",
    "is_pair",
    "joined",
    "leading_size",
    "one",
    "per_sample_list",
    "some",
    "targets_of",
    "to_device",
]


def is_pair(batch: Batch) -> bool:
    """Whether a batch is ``(inputs, targets)``."""
    return isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2


def found_targets(batch: Batch) -> Tensor | None:
    """The targets of a batch, if it has any."""
    found = batch.get("labels") if isinstance(batch, Mapping) else batch[1] if is_pair(batch) else None
    return found if isinstance(found, Tensor) else None


def targets_of(batch: Batch) -> Tensor:
    """The targets of a batch.

    Raises:
        DataError: if it has none.
    """
    found = found_targets(batch)
    if found is None:
        raise DataError(
            f"a batch of type {type(batch).__name__} has no targets; expected a pair (inputs, targets) "
            "or a dict with a tensor under 'labels'"
        )
    return found


def field(batch: Batch, name: str) -> Tensor | None:
    """A named input of a batch, such as ``attention_mask``, if it has one."""
    inputs = batch if isinstance(batch, Mapping) else batch[0] if is_pair(batch) else None
    found = inputs.get(name) if isinstance(inputs, Mapping) else None
    return found if isinstance(found, Tensor) else None


def call(model: nn.Module, batch: Batch, without: frozenset[str] = frozenset({"labels"})) -> Any:
    """What the model returns for a batch: ``model(inputs)``, or ``model(**inputs)`` for a dict.

    Args:
        model: the model.
        batch: the batch.
        without: the keys of a dict that the model is not given.

    Raises:
        DataError: if the batch is neither a pair nor a dict.
    """
    if isinstance(batch, Mapping):
        return model(**{k: v for k, v in batch.items() if k not in without})
    if is_pair(batch):
        inputs = batch[0]
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    raise DataError(f"a batch of type {type(batch).__name__} cannot be given to the model; expected a pair or a dict")


def leading_size(batch: Batch) -> int:
    """How many samples a batch holds: the length of its first tensor, or of its first list where it has no tensor.

    What lies less deep comes first: of images in one tensor and a list of boxes per image, the tensor.

    Raises:
        DataError: if there is neither.
    """
    level: list[Any] = [batch]
    while level:
        found = next((v for v in level if isinstance(v, Tensor) and v.dim() > 0), None)
        if found is not None:
            return int(found.shape[0])
        lists = [v for v in level if isinstance(v, list) and v is not batch]
        if lists:
            return len(lists[0])
        level = [item for value in level for item in _items(value)]
    raise DataError(f"a batch of type {type(batch).__name__} holds no tensor to count samples by")


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, tuple | list) else ()


def per_sample_list(value: Any, size: int) -> bool:
    """Whether a value within a batch is a list with one entry per sample, such as the boxes of each image.

    A tuple is several inputs, never several samples.
    """
    return isinstance(value, list) and len(value) == size


def one(batch: Batch, index: int, size: int) -> Batch:
    """One sample of a batch, as a batch of its own; the arguments are those of :func:`some`."""
    return some(batch, slice(index, index + 1), size)


def some(batch: Batch, rows: slice | Tensor, size: int) -> Batch:
    """Some samples of a batch, as a batch of their own.

    Args:
        batch: a pair or a dict, of tensors ``[size, ...]``, lists of that length, and what all samples share.
        rows: which samples: a slice, or their positions ``[R]`` on the CPU.
        size: how many samples the batch holds.
    """

    def pick(value: Any, top: bool = False) -> Any:
        if isinstance(value, Tensor):
            if value.dim() == 0 or value.shape[0] != size:
                return value
            return value[rows] if isinstance(rows, slice) else value.index_select(0, rows.to(value.device))
        if not top and per_sample_list(value, size):
            return value[rows] if isinstance(rows, slice) else [value[row] for row in rows.tolist()]
        if isinstance(value, Mapping):
            return {key: pick(item) for key, item in value.items()}
        return type(value)(pick(item) for item in value) if type(value) in (tuple, list) else value

    return pick(batch, top=True)


def joined(parts: Sequence[Batch], sizes: Sequence[int]) -> Batch | None:
    """Batches one after the other, as one; ``None`` where they do not fit, such as texts padded to several lengths.

    Args:
        parts: of one kind.
        sizes: how many samples each holds.
    """
    first = parts[0]
    if all(isinstance(part, Tensor) for part in parts):
        if all(part.dim() > 0 and len(part) == size for part, size in zip(parts, sizes, strict=True)):
            alike = len({(part.shape[1:], part.dtype, part.device) for part in parts}) == 1
            return torch.cat(list(parts)) if alike else None
        return first if all(part.shape == first.shape and torch.equal(part, first) for part in parts) else None
    if any(type(part) is not type(first) for part in parts):
        return None
    if isinstance(first, Mapping):
        if any(part.keys() != first.keys() for part in parts):
            return None
        values = {key: joined([part[key] for part in parts], sizes) for key in first}
        fits = all(value is not None or first[key] is None for key, value in values.items())
        return values if fits else None
    if isinstance(first, list) and all(per_sample_list(part, size) for part, size in zip(parts, sizes, strict=True)):
        return [item for part in parts for item in part]
    if isinstance(first, tuple | list):
        if any(len(part) != len(first) for part in parts):
            return None
        found = [joined(column, sizes) for column in zip(*parts, strict=True)]
        fits = all(value is not None or item is None for value, item in zip(found, first, strict=True))
        return type(first)(found) if fits and type(first) in (tuple, list) else None
    return first if all(part == first for part in parts) else None


def to_device(value: Any, device: torch.device | str) -> Any:
    """A batch, or what lies in one, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    return type(value)(to_device(item, device) for item in value) if type(value) in (tuple, list) else value
