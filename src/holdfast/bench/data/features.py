"""Saved features: arrays ``x`` and ``y`` in a file of safetensors or NumPy. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from holdfast.bench.data.parts import PARTS, Key, Part, Samples, called, in_order
from holdfast.errors import DataError, DependencyError

__all__ = ["ENDINGS", "read"]

ENDINGS = (".safetensors", ".npz")
_SAMPLES, _LABELS, _TASKS = ("x", "features", "embeddings"), ("y", "labels", "label"), ("task", "tasks")


def read(file: Path) -> Samples:
    """Features, their labels, and their tasks where there are such.

    Args:
        file: with arrays ``x`` ``[N, ...]`` and ``y`` ``[N]``, integers or names; ``train_x``, ``test_y`` and so on
            where there are parts; ``task`` ``[N]`` (``train_task``) where there are tasks; ``classes``: a name for each
            label from 0 (in safetensors a JSON list in the metadata). Bytes are taken for pixels and divided by 255.

    Raises:
        DataError: if it cannot be read, or an array is missing or not what it should be.
    """
    arrays, classes = _npz(file) if file.suffix.lower() == ".npz" else _safetensors(file)
    groups: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        part, what = _meant(name)
        if what:
            groups.setdefault(part, {})[what] = array
    if not groups or any(not {"x", "y"} <= set(group) for group in groups.values()):
        raise DataError(
            f"{file} holds {', '.join(arrays) or 'nothing'}; expected x and y, or train_x, train_y, test_x and test_y"
        )
    found: dict[Key, Part] = {}
    for part, group in groups.items():
        found |= _parts(f"{file} ({part})" if part != "all" else str(file), part, group, classes)
    shapes = {tuple(part.samples[0].shape) for part in found.values()}
    if len(shapes) > 1:
        raise DataError(f"{file} has features of shapes {', '.join(map(str, sorted(shapes)))}; expected one")
    labels = [label for part in found.values() for label in part.labels]
    order = in_order(labels) if classes is None else [name for name in classes if name in set(labels)]
    return Samples("features", found, order, classes is not None)


def _meant(name: str) -> tuple[str, str]:
    """The part and the meaning of an array's name; no meaning where it says nothing.

    Example:
        >>> _meant("train_x"), _meant("y_test"), _meant("labels"), _meant("mean")
        (('train', 'x'), ('test', 'y'), ('all', 'y'), ('all', ''))
    """
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    part = next((PARTS[word] for word in words if word in PARTS), "all")
    rest = [word for word in words if word not in PARTS]
    for what, usual in (("x", _SAMPLES), ("y", _LABELS), ("task", _TASKS)):
        if len(rest) == 1 and rest[0] in usual:
            return part, what
    return part, ""


def _parts(where: str, part: str, group: Mapping[str, Any], classes: list[str] | None) -> dict[Key, Part]:
    samples = _samples(where, group["x"])
    labels = _names(where, "y", group["y"], len(samples))
    if classes is not None:
        wrong = next((label for label in labels if not label.isdecimal() or int(label) >= len(classes)), None)
        if wrong is not None and set(labels) - set(classes):
            raise DataError(
                f"{where} has the label {wrong}, but {len(classes)} classes; expected 0 to {len(classes) - 1}"
            )
        labels = labels if wrong is not None else [classes[int(label)] for label in labels]
    tasks = _names(where, "task", group["task"], len(samples)) if "task" in group else []
    rows: dict[str, list[int]] = {}
    for row in range(len(samples)):
        rows.setdefault(tasks[row] if tasks else "", []).append(row)
    return {
        (task, part): Part(samples[mine].unbind(), [labels[k] for k in mine], [called(k + 1) for k in mine])
        for task, mine in rows.items()
    }


def _samples(where: str, array: Any) -> Tensor:
    if not isinstance(array, Tensor) or array.ndim < 2 or array.is_complex() or array.dtype == torch.bool:
        shape = f"{array.dtype} {tuple(array.shape)}"
        raise DataError(f"{where}: x is {shape}; expected numbers [N, ...]")
    if not len(array):
        raise DataError(f"{where}: there is no sample; expected at least one")
    found = array.float() / 255 if array.dtype == torch.uint8 else array.float()
    bad = (~found.flatten(1).isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise DataError(f"{where}: sample {int(bad[0]) + 1} is not finite; expected numbers")
    return found


def _names(where: str, what: str, array: Any, count: int) -> list[str]:
    if array.ndim != 1 or len(array) != count:
        raise DataError(f"{where}: {what} has shape {tuple(array.shape)}; expected [{count}], one for each sample")
    if isinstance(array, Tensor) and (array.is_floating_point() or array.is_complex()):
        raise DataError(f"{where}: {what} is {array.dtype}; expected names or whole numbers of classes")
    return [str(value) for value in array.tolist()]


def _safetensors(file: Path) -> tuple[dict[str, Any], list[str] | None]:
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            arrays: dict[str, Any] = {name: opened.get_tensor(name) for name in opened.keys()}
        classes = json.loads(about["classes"]) if "classes" in about else None
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{file} could not be read as safetensors: {error}") from error
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise DataError(f"{file} has classes {classes!r} in its metadata; expected a list of names")
    return arrays, classes


def _npz(file: Path) -> tuple[dict[str, Any], list[str] | None]:
    try:
        import numpy as np
    except ImportError as error:
        raise DependencyError("NumPy's files need: pip install 'holdfast[bench]'") from error
    arrays: dict[str, Any] = {}
    try:
        with np.load(file, allow_pickle=False) as opened:
            for name in opened.files:
                array = opened[name]
                arrays[name] = array if array.dtype.kind in "US" else torch.from_numpy(array.astype(_native(array)))
    except Exception as error:  # a zip archive of arrays may be broken in many ways, or hold objects
        raise DataError(f"{file} could not be read as arrays: {' '.join(str(error).split())[:200]}") from error
    names = arrays.pop("classes", None)
    return arrays, None if names is None else [str(name) for name in names.tolist()]


def _native(array: Any) -> Any:
    """A dtype that PyTorch has: in the machine's byte order, and signed beyond a byte."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    return f"i{min(2 * size, 8)}" if kind == "u" and size > 1 else array.dtype.newbyteorder("=")
