"""Nested dicts of tensors and plain values, as JSON and a flat dict of tensors; and back, bit for bit.

What JSON has is written as JSON has it. The rest is a dict with one key that begins with ``$``: a tensor
(``{"$tensor": name}``), a tuple (``{"$tuple": [...]}``), a float that is not finite (``{"$float": "nan"}``), and a
dict whose keys are not all words, such as an optimizer's state (``{"$dict": [[key, value], ...]}``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from holdfast.errors import StateError

__all__ = ["decode", "encode"]

_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(value: Any) -> tuple[str, dict[str, Tensor]]:
    """Take a nested value apart.

    Args:
        value: dicts, lists and tuples of tensors and plain values.

    Returns:
        ``(structure, tensors)``: JSON in ASCII, and the tensors by the path at which they stood.

    Raises:
        StateError: naming the path and the type of something that cannot be saved.

    Example:
        >>> encode({"state": {0: (1, float("inf"))}})
        ('{"state":{"$dict":[[0,{"$tuple":[1,{"$float":"inf"}]}]]}}', {})
    """
    tensors: dict[str, Tensor] = {}
    try:
        plain = _apart(value, "", tensors)
    except RecursionError:
        raise StateError("the state is nested too deeply, or holds itself") from None
    try:
        return json.dumps(plain, separators=(",", ":"), allow_nan=False), tensors
    except ValueError as error:  # a whole number with more digits than Python writes
        raise StateError(f"the state holds a number that cannot be written: {error}") from error


def _apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {"$tensor": _name(value, path, tensors)}
    if value is None or isinstance(value, bool | str):
        return value if not isinstance(value, str) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, list | tuple):
        parts = [_apart(part, f"{path}/{number}", tensors) for number, part in enumerate(value)]
        return {"$tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {str(key): _apart(part, f"{path}/{key}", tensors) for key, part in value.items()}
        pairs = []
        for key, part in value.items():
            if not isinstance(key, str | int | float | bool | tuple | None):
                raise StateError(f"the state's {path or 'top'} has the key {key!r}; expected a word or a number")
            pairs.append([_apart(key, path, tensors), _apart(part, f"{path}/{key}", tensors)])
        return {"$dict": pairs}
    raise StateError(
        f"the state's {path or 'top'} is a {type(value).__name__}; expected tensors and plain values "
        "(numbers, words, None, lists, tuples, dicts)"
    )


def _name(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or is_traceable_wrapper_subclass(tensor):
        raise StateError(
            f"the state's {path or 'top'} is a {type(tensor).__name__} of layout {tensor.layout} on "
            f"{tensor.device}; expected an ordinary tensor (gather a sharded one first)"
        )
    # The name need only be one that safetensors takes: the path itself stands in the structure.
    stem = name = path.removeprefix("/").encode("utf-8", "backslashreplace").decode() or "tensor"
    count = 1
    while name in tensors or name == "__metadata__":  # {"1": t, 1: t} and the like
        count += 1
        name = f"{stem}#{count}"
    tensors[name] = tensor.detach()
    return name


def decode(structure: str, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what :func:`encode` took apart.

    Args:
        structure: the JSON.
        tensors: the tensors by name.

    Raises:
        StateError: if ``structure`` is nothing that :func:`encode` returns.

    Example:
        >>> decode('{"state":{"$dict":[[0,{"$tuple":[1,{"$float":"inf"}]}]]}}', {})
        {'state': {0: (1, inf)}}
    """
    try:
        return _together(json.loads(structure), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # whatever stood there, it was not written here
        raise StateError(f"the structure of the state cannot be read ({type(error).__name__})") from error


def _together(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_together(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    tag = next((key for key in plain if key.startswith("$")), None)
    if tag is None:
        return {key: _together(part, tensors) for key, part in plain.items()}
    (content,) = plain.values()
    if tag == "$tensor":
        return tensors[content]
    if tag == "$float":
        return _SPECIAL[content]
    if not isinstance(content, list):
        raise TypeError(tag)
    if tag == "$tuple":
        return tuple(_together(part, tensors) for part in content)
    if tag == "$dict":
        return {_together(key, tensors): _together(part, tensors) for key, part in content}
    raise KeyError(tag)
