"""Parts of a parameter: the rows that a selection names, and the block that it was before it grew.

A parameter that has grown (a classifier with more rows, an embedding with more words, a bias with them) holds what it
was as its leading block. What is remembered keeps the shape that it had; steps act on that block and leave the rest
free, and the next ``consolidate`` fills up what is remembered to the new shape, with values under which nothing is
protected yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError
from holdfast.sharding import is_sharded

__all__ = ["Rows", "filled_up", "is_block", "may_hold", "rows_of", "within"]

Rows: TypeAlias = "tuple[int, int | None]"
"""From the first to before the second, along the first dimension; ``None``: to the end, wherever that will be."""


def rows_of(tensor: Tensor, rows: Rows | None) -> Tensor:
    """Some rows of a tensor, as a view; the tensor itself where there is nothing to leave out.

    Args:
        tensor: ``[n, ...]``.
        rows: which; ``None`` for all. Those beyond the end are not there yet.

    Raises:
        ConfigurationError: if there is no such row.
    """
    if rows is None:
        return tensor
    if is_sharded(tensor):
        raise ConfigurationError(
            f"select names some rows of a sharded parameter of shape {tuple(tensor.shape)}; expected all"
        )
    start, stop = rows
    number = tensor.shape[0] if tensor.dim() else 0
    end = number if stop is None else min(stop, number)
    if start >= end:
        shown = f"[{start}:{'' if stop is None else stop}]"
        raise ConfigurationError(f"select names the rows {shown} of a parameter of shape {tuple(tensor.shape)}")
    return tensor if (start, end) == (0, number) else tensor[start:end]


def is_block(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether one shape is a leading block of another: as many dimensions, none longer.

    Example:
        >>> is_block((3, 16), (5, 16)), is_block((5, 16), (3, 16)), is_block((3,), (3, 16))
        (True, False, False)
    """
    return len(shape) == len(whole) and all(part <= full for part, full in zip(shape, whole, strict=True))


def may_hold(held: Tensor, parameter: Tensor) -> bool:
    """Whether something that is remembered may be of a parameter as it is now: of its shape, or a leading block of it.

    Args:
        held: what is remembered.
        parameter: the selected part of the parameter; one that is sharded cannot have grown.
    """
    return held.shape == parameter.shape if is_sharded(parameter) else is_block(held.shape, parameter.shape)


def within(tensor: Tensor, held: Tensor, start: int = 0) -> Tensor:
    """Where something that is remembered lies in a parameter (or in its gradient), as a view.

    Args:
        tensor: ``[*p]``.
        held: its shape is a leading block of the tensor from row ``start`` on.
        start: the first row that the selection names.
    """
    if tensor.shape == held.shape:
        return tensor
    block = [slice(0, size) for size in held.shape]
    block[0] = slice(start, start + held.shape[0])
    return tensor[tuple(block)]


@torch.no_grad()
def filled_up(held: Tensor, like: Tensor, value: float | None) -> Tensor:
    """What is remembered, in the shape of a parameter that has grown since.

    Args:
        held: its shape is a leading block of the parameter's.
        like: the selected part of the parameter, ``[*p]``.
        value: what the rest is filled with; ``None`` for the parameter itself.

    Returns:
        ``[*p]``, of the type of ``held`` and where it is; ``held`` itself if the parameter has not grown.
    """
    if held.shape == like.shape:
        return held
    if value is None:
        found = like.detach().to(held, copy=True)
    else:
        found = torch.full(like.shape, value, dtype=held.dtype, device=held.device)
    within(found, held).copy_(held)
    return found
