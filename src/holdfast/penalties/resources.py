"""Where a penalty keeps what it remembers, how precisely, and by which kernel it acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TypedDict

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError
from holdfast.pieces import neighbours
from holdfast.sharding import is_sharded

__all__ = [
    "GROUP_BYTES",
    "KEPT",
    "Resources",
    "check_host",
    "check_no_importances",
    "check_resources",
    "lent",
    "near",
    "placed",
]

KEPT = ("anchor", "importance")
"""What is moved and rounded: the rest of a method's state changes at every step, and stays with the parameters."""

# How much is under way at once from the host: large enough to run at full speed, small beside a model.
GROUP_BYTES = 64 * 2**20
_ALIGNMENT = 512


class Resources(TypedDict, total=False):
    """What every quadratic penalty takes as further keywords.

    Attributes:
        importance_dtype: ``torch.bfloat16`` halves the importances' memory (they keep their range and lose digits);
            ``None`` (default) keeps them as they are estimated. Anchors always keep the weights' precision or better.
        state_device: ``"cpu"`` keeps anchors and importances in the host's memory, pinned where there is CUDA, and
            copies them to the parameters' device at each step: with ``coupling="gradient"`` in groups, one group ahead
            of what is computed, with the other couplings as they are needed. ``None`` (default) keeps them with the
            parameters.
        fused: compile the penalty's gradient to one pass over memory (``torch.compile``; on CPU it needs a C++
            compiler). The first protected step then takes seconds, some 15 for 60 tensors. Default ``False``.
    """

    importance_dtype: torch.dtype | None
    state_device: torch.device | str | None
    fused: bool


def check_resources(resources: Resources) -> tuple[torch.dtype | None, torch.device | None, bool]:
    """The three settings, or a sentence about what is wrong.

    Raises:
        ConfigurationError: for a precision in which importances would be lost, or a device other than ``"cpu"``.
        TypeError: for a keyword that is none of the three.
    """
    unknown = sorted(resources.keys() - Resources.__annotations__.keys())
    if unknown:
        raise TypeError(f"got an unexpected keyword argument {unknown[0]!r}")
    dtype, device = resources.get("importance_dtype"), resources.get("state_device")
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float64):
        raise ConfigurationError(
            f"importance_dtype is {dtype!r}; expected torch.bfloat16, torch.float32, torch.float64 or None (float16 "
            "would round most importances to 0)"
        )
    if device is not None and not _is_host(device):
        shown = str(device) if isinstance(device, torch.device) else device
        raise ConfigurationError(f"state_device is {shown!r}; expected 'cpu', or None for the parameters' own")
    fused = resources.get("fused", False)
    if not isinstance(fused, bool):
        raise ConfigurationError(f"fused is {fused!r}; expected True or False")
    return dtype, None if device is None else torch.device("cpu"), fused


def check_no_importances(resources: Resources, name: str) -> None:
    """Refuse a precision for importances that are not there.

    Raises:
        ConfigurationError: if one is asked for.
    """
    dtype = resources.get("importance_dtype")
    if dtype is not None:
        raise ConfigurationError(f"importance_dtype is {dtype!r}, but {name} has no importances; expected None")


def check_host(params: Mapping[str, Tensor], device: torch.device | None) -> None:
    """Refuse to keep elsewhere what is remembered of sharded parameters.

    Args:
        params: name -> parameter.
        device: where the state is to be kept; ``None`` for the parameters' own.

    Raises:
        ConfigurationError: naming a parameter that is sharded, and on another device.
    """
    for name, p in params.items():
        if device is not None and p.device != device and is_sharded(p):
            raise ConfigurationError(
                f"state_device is {str(device)!r}, but parameter {name!r} is sharded on {p.device}, where its state "
                "has to be, too; expected None (FSDP2's CPUOffloadPolicy keeps both on the host)"
            )


def _is_host(device: object) -> bool:
    try:
        return isinstance(device, str | torch.device) and torch.device(device).type == "cpu"
    except RuntimeError:  # torch's own, for a name that it does not know
        return False


def placed(held: Mapping[str, Tensor], dtype: torch.dtype | None, device: torch.device | None) -> dict[str, Tensor]:
    """What is kept of one parameter, where and as it is kept between steps; the same tensors where nothing changes.

    Args:
        held: kind -> tensor.
        dtype: of the importance; ``None``: as it is.
        device: of anchor and importance; ``None``: as they are.
    """
    found = dict(held)
    for kind in KEPT:
        if kind not in found:
            continue
        tensor = found[kind]
        if kind == "importance" and dtype is not None:
            tensor = tensor.to(dtype)
        if device is not None and tensor.device != device:
            tensor = tensor.to(device)
            if torch.cuda.is_available():
                tensor = tensor.pin_memory()
        found[kind] = tensor
    return found


def near(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor on the parameter's device."""
    return tensor.to(parameter.device, non_blocking=True)


def lent(
    held: Sequence[Sequence[Tensor]], device: torch.device, group_bytes: int = GROUP_BYTES
) -> Iterator[tuple[slice, list[list[Tensor]]]]:
    """Copies on a device of tensors in the host's memory, a group at a time while the next is on its way.

    Only two groups have room on the device, in turn. What is lent must be used, on the current stream, before the next
    group is asked for.

    Args:
        held: tensors that are needed together, for one parameter after the other; each dense.
        device: where they are needed.
        group_bytes: the most that is lent at once, unless one parameter alone needs more.

    Yields:
        Which entries of ``held``, and the copies.
    """
    groups = neighbours([sum(map(_room, tensors)) for tensors in held], group_bytes)
    if not groups:
        return
    size = max(sum(_room(t) for tensors in held[group] for t in tensors) for group in groups)
    rooms = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(2, len(groups)))]
    cuda = device.type == "cuda"
    lane = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]  # torch's own gap
    used: list[torch.cuda.Event | None] = [None, None]
    if cuda and lane is not None:
        lane.wait_stream(torch.cuda.current_stream(device))  # the rooms may still be read by whoever had them before

    def fetch(index: int) -> tuple[list[list[Tensor]], torch.cuda.Event | None]:
        with nullcontext() if lane is None else torch.cuda.stream(lane):
            before = used[index % 2]
            if lane is not None and before is not None:
                lane.wait_event(before)
            copies = _copied(held[groups[index]], rooms[index % 2])
            return copies, None if lane is None else lane.record_event()

    coming = fetch(0)
    for index, group in enumerate(groups):
        copies, ready = coming
        if index + 1 < len(groups):
            coming = fetch(index + 1)
        if ready is not None:
            torch.cuda.current_stream(device).wait_event(ready)
        yield group, copies
        if cuda:
            used[index % 2] = torch.cuda.current_stream(device).record_event()


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def _copied(held: Sequence[Sequence[Tensor]], room: Tensor) -> list[list[Tensor]]:
    """Copies side by side in some room, each with the layout of what it is a copy of."""
    offset, found = 0, []
    for tensors in held:
        copies = []
        for tensor in tensors:
            memory = room[offset : offset + tensor.nbytes].view(tensor.dtype)
            copies.append(memory.as_strided(tensor.shape, tensor.stride()).copy_(tensor, non_blocking=True))
            offset += _room(tensor)
        found.append(copies)
    return found
