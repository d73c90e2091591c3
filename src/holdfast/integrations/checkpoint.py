"""Distributed checkpoints (``torch.distributed.checkpoint``): what a method remembers, saved and loaded in parts.

``dcp.load`` fills in the tensors of a state dict that is there already, and a fresh method has none. So what is to be
filled in is made here from what the checkpoint says of itself, each tensor sharded as its parameter is now.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import StorageReader

from holdfast.errors import StateError
from holdfast.method import Method
from holdfast.names import canonical_parameters
from holdfast.sharding import check_flat_shards, local, made_of
from holdfast.structure import decode, encode

__all__ = ["load_memory", "memory_of"]


def memory_of(keep: Method) -> dict[str, Any]:
    """What a method remembers, as ``dcp.save`` takes it: each process then writes its parts.

    Args:
        keep: the method.

    Returns:
        A dict that shares its tensors with the method, sharded as they are; only :func:`load_memory` reads it.

    Raises:
        ConfigurationError: under FSDP1, whose parameters are pieces of one flat tensor.
    """
    check_flat_shards("a distributed checkpoint's memory", keep.model.modules())
    saved = keep.carried()
    assert saved is not None
    plain = {key: value for key, value in saved.items() if key not in ("state", "buffers")}
    # As text: of a dict, distributed checkpoints forget what is empty, and pickle the rest.
    header, tensors = encode(plain | {"names": list(saved["state"])})
    assert not tensors
    return {"header": header, "state": saved["state"], "buffers": saved["buffers"]}


def load_memory(keep: Method, checkpoint: str | PathLike[str] | StorageReader, *, key: str = "keep") -> None:
    """Have a method take over what :func:`memory_of` put into a distributed checkpoint; all processes must ask for it.

    There may be another number of processes than there was, one without ``torch.distributed`` too. Of what is sharded
    each reads its parts; what belongs to no parameter (a teacher) each reads whole, into the host's memory.

    Args:
        keep: a method of the same class, fresh or not, on the model as it is to be trained: ``fully_shard`` comes
            first. An objective that cannot be saved is taken from it.
        checkpoint: the checkpoint's folder, or a reader of it.
        key: under which it was saved, with dots where dicts are nested: ``"app.keep"``.

    Raises:
        StateError: if nothing was saved under that key, or for what ``load_state_dict`` refuses.
    """
    reader = checkpoint if isinstance(checkpoint, StorageReader) else FileSystemReader(checkpoint)
    metadata = reader.read_metadata()
    paths: Mapping[str, tuple[Any, ...]] = metadata.planner_data or {}
    places = {flat: place for flat, path in paths.items() if (place := _below(key, path))}
    if ("header",) not in places.values():
        shown = ", ".join(sorted({repr(str(path[0])) for path in paths.values()})) or "nothing"
        raise StateError(
            f"the checkpoint holds no memory under {key!r}, but {shown} at the top; expected what was saved by "
            f"dcp.save({{{key!r}: memory_of(keep), …}})"
        )
    params = canonical_parameters(keep.model)
    found: dict[str, Any] = {}
    for flat, place in places.items():
        known = metadata.state_dict_metadata[flat]
        found[flat] = None
        if isinstance(known, TensorStorageMetadata):
            like = params.get(str(place[1])) if place[0] == "state" else None
            found[flat] = _room_for(known, like)
    with warnings.catch_warnings():  # of one process it says that it takes it for one
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(found, storage_reader=reader)
    keep.recall(_together(found, places))


def _below(key: str, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The rest of a path that begins with a key, empty if it does not."""
    for n in range(1, len(path)):
        if ".".join(map(str, path[:n])) == key:
            return path[n:]
    return ()


def _room_for(known: TensorStorageMetadata, like: Tensor | None) -> Tensor:
    """A tensor to be filled in: sharded as its parameter, or whole on the host where it has none of its shape."""
    if like is None or like.shape != known.size:
        return torch.empty(known.size, dtype=known.properties.dtype)
    return made_of(like, torch.empty_like(local(like.detach()), dtype=known.properties.dtype))


def _together(found: Mapping[str, Any], places: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    by_place = {place: found[flat] for flat, place in places.items()}
    saved: dict[str, Any] = decode(by_place.pop(("header",)), {})
    saved |= {"state": {name: {} for name in saved.pop("names")}, "buffers": {}}
    for place, tensor in by_place.items():
        if place[0] == "state":
            saved["state"][place[1]][place[2]] = tensor
        else:
            saved["buffers"][place[1]] = tensor
    return saved
