"""A head as one file that says all of itself, so that it can be built from the file alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.errors import ConfigurationError, HoldfastError, StateError
from holdfast.files import load_state, save_state
from holdfast.heads.calibrated import TransportCalibrated
from holdfast.heads.fecam import FeCAM
from holdfast.heads.head import Head
from holdfast.heads.lwpk import LwPK
from holdfast.heads.maps import FeatureMap, RandomFourier, RandomProjection
from holdfast.heads.ncm import NCM
from holdfast.heads.patches import RandomPatches
from holdfast.heads.ridge import Ridge
from holdfast.heads.slda import SLDA
from holdfast.objectives import Classification

__all__ = ["load", "save"]

# Which attributes are the arguments that a head or a feature map is built with again.
_HEADS: Mapping[type[Head], tuple[str, ...]] = {
    NCM: (),
    LwPK: ("scale", "omega", "cluster_epochs"),
    SLDA: ("shrinkage", "relative", "prior"),
    Ridge: ("strength", "relative"),
    FeCAM: ("shrinkage", "tukey"),
    TransportCalibrated: (
        "tukey", "share", "spread", "levels", "draws", "base_samples", "keep", "epsilon", "temperature", "strength",
        "released", "seed",
    ),
}  # fmt: skip
_MAPS: Mapping[type[FeatureMap], tuple[str, ...]] = {
    RandomProjection: ("size", "seed"),
    RandomFourier: ("size", "width", "seed"),
    RandomPatches: ("filters", "patch", "pool", "threshold", "floor", "damping", "seed"),
}
_DTYPES = {"float64": torch.float64, "float32": torch.float32}
_PARTS = {"kind", "settings", "dtype", "layer", "expand", "features", "state"}


def save(head: Head, path: str | os.PathLike[str]) -> Path:
    """Write a head with its settings, its feature map and its sums; the model behind its features is not in the file.

    Args:
        head: one of this library's, also one that has not learned anything yet.
        path: the file, safetensors with a checksum as of :func:`holdfast.save_state`.

    Returns:
        The path that was written.

    Raises:
        ConfigurationError: for a head or a feature map of one's own: keep its ``state_dict()`` with ``save_state``.
        StateError: if the file cannot be written.
    """
    expand = head.expand
    content = {
        "kind": type(head).__name__,
        "settings": _settings(head, _HEADS),
        "dtype": str(head.dtype).removeprefix("torch."),
        "layer": head.backbone.layer,
        "features": head.backbone.call is not None,
        "expand": None if expand is None else {"kind": type(expand).__name__, "settings": _settings(expand, _MAPS)},
        "state": dict(head.state_dict()),
    }
    return save_state(content, path)


def load(
    path: str | os.PathLike[str],
    features: nn.Module | Callable[..., Any] | None = None,
    *,
    objective: Classification | None = None,
) -> Head:
    """Build a head from what :func:`save` wrote: it answers to the last bit as it did, and goes on learning.

    Args:
        path: the file.
        features: the model that gave it its features, if one did; its weights are held to their hashes in the file.
        objective: how a batch goes through that model, if that was told to the head.

    Raises:
        ConfigurationError: if the head stands on features and there are none, or the other way round.
        StateError: if the file holds no head, or is damaged.
        ProtectionError: if the model has other weights.

    Example:
        >>> import tempfile
        >>> head = NCM()
        >>> head.consolidate([(torch.eye(2), torch.tensor([3, 5]))])
        >>> load(save(head, Path(tempfile.mkdtemp()) / "head.safetensors")).classes
        (3, 5)
    """
    content = load_state(path)
    if not content.keys() >= _PARTS or content["dtype"] not in _DTYPES:
        raise StateError(f"{path} holds no head; expected what holdfast.heads.save wrote")
    if content["features"] != (features is not None):
        has = "stands on the features of a model" if content["features"] else "stands on its inputs"
        raise ConfigurationError(f"the head in {path} {has}, and features is {features!r}; expected the same as it had")
    expand = content["expand"]
    head: Head = _built(
        path, content, _HEADS, features=features, layer=content["layer"], objective=objective,
        expand=None if expand is None else _built(path, expand, _MAPS), dtype=_DTYPES[content["dtype"]],
    )  # fmt: skip
    try:
        head.load_state_dict(content["state"])
    except HoldfastError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"{path} holds no state of {content['kind']}: {' '.join(str(error).split())}") from error
    return head


def _settings(part: Any, known: Mapping[Any, tuple[str, ...]]) -> dict[str, Any]:
    if type(part) not in known:
        names = ", ".join(kind.__name__ for kind in known)
        raise ConfigurationError(
            f"{type(part).__name__} is none of {names}, which can be built from a file alone; keep its state_dict() "
            "with holdfast.save_state"
        )
    return {name: getattr(part, name) for name in known[type(part)]}


def _built(path: Any, content: Mapping[str, Any], known: Mapping[Any, tuple[str, ...]], **more: Any) -> Any:
    kinds = {kind.__name__: kind for kind in known}
    try:
        return kinds[content["kind"]](**content["settings"], **more)
    except (KeyError, TypeError) as error:
        raise StateError(f"{path} names a head or a feature map that is none of {', '.join(kinds)}") from error
