"""What the processes of a distributed run add up: each sees a part of the samples, all end with the sums of all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed
from torch import Tensor

from holdfast.errors import DataError
from holdfast.heads.moments import Moments
from holdfast.processes import several

__all__ = ["add_up", "gathered", "meeting"]

_MOST_DIMENSIONS = 8


def meeting() -> dict[str, Tensor]:
    """A tensor on the device where the processes exchange theirs, for :func:`holdfast.processes.in_step`."""
    return {"": torch.empty(0, device=_device())} if several() else {}


def _device() -> torch.device:
    nccl = "nccl" in str(torch.distributed.get_backend())
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def gathered(rows: Tensor) -> Tensor:
    """All processes' rows, one process's after the other's: the same in each of them.

    Args:
        rows: ``[b, ...]`` of floats; as many as there are.

    Returns:
        ``[B, ...]``; ``rows`` itself where there is one process.

    Raises:
        DataError: in all processes, if their samples have different shapes or types.
    """
    if not several():
        return rows
    sizes = [rows.dim(), rows.dtype.itemsize, *rows.shape[1:], *[0] * _MOST_DIMENSIONS][:_MOST_DIMENSIONS]
    shapes = [shape.tolist() for shape in _all(torch.tensor([len(rows), *sizes]))]
    if len({tuple(shape[1:]) for shape in shapes}) > 1:
        shown = " and ".join(str(tuple(shape[3 : 2 + shape[1]])) for shape in shapes)
        raise DataError(f"the processes' samples have shapes {shown}, or different types; expected the same in each")
    longest = max(shape[0] for shape in shapes)
    filled = rows.new_zeros(longest, *rows.shape[1:])
    filled[: len(rows)] = rows
    parts = [part[: shape[0]] for part, shape in zip(_all(filled), shapes, strict=True)]
    return torch.cat(parts).to(rows.device)


def add_up(parts: Mapping[str, Moments], device: torch.device) -> None:
    """Give each process the sums of all of them, once: in the same order, so that all hold the same to the last bit.

    Args:
        parts: what this process has seen, by name; changed. Every process must have parts of the same names.
        device: where the sums lie, also those of which this process has none yet.

    Raises:
        DataError: in all processes, if their features differ in number.
    """
    if not several():
        return
    for _, part in sorted(parts.items()):
        part.settle()
        known = [(int(count), int(size)) for count, size in _all(torch.tensor([len(part.labels), part.size or 0]))]
        sizes = sorted({size for _, size in known if size})
        if len(sizes) > 1:
            raise DataError(f"the processes' samples have {sizes} features; expected as many in each")
        if not sizes:
            continue
        longest = max(count for count, _ in known)
        mine = torch.tensor([*part.labels, *[0] * (longest - len(part.labels))], dtype=torch.int64)
        everyones = zip(_all(mine), known, strict=True)
        part.make_room({label for found, (count, _) in everyones for label in found[:count].tolist()}, sizes[0], device)
        for tensor in (part.counts, part.sums, part.gram):
            if tensor is not None:
                moved = tensor.to(_device())
                torch.distributed.all_reduce(moved)
                tensor.copy_(moved)
        part.exchange(gathered)


def _all(tensor: Tensor) -> list[Tensor]:
    """Every process's tensor of the same shape, in the order of their ranks."""
    mine = tensor.to(_device()).contiguous()
    found = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, mine)
    return found
