"""Walking several tensors side by side as flat memory, piece by piece, or in one compiled pass.

An elementwise update of large CPU tensors is bound by memory. Done piece by piece, what one operation writes is still
in the cache when the next one reads it, and temporaries are as small as a piece.
"""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec

import torch
from torch import Tensor

__all__ = ["LARGE", "PIECE", "compiled", "flat_alike", "neighbours", "pieces", "scratch"]

_P = ParamSpec("_P")

# A piece of float32 takes 2 MiB: half for each of two threads, which their caches hold beside what is left there by the
# operation before. Smaller pieces spend more on starting operations than they save (measured from 2**17 to 2**20).
PIECE = 1 << 19
# Below this many entries walking costs more than the temporaries that it spares.
LARGE = 1 << 16
_MOST_COMPILED = 256


def flat_alike(*tensors: Tensor) -> bool:
    """Whether the tensors may be walked side by side: dense, of one layout, and of no subclass (such as DTensor).

    Args:
        *tensors: of one shape.
    """
    first = tensors[0]
    dense = first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))
    strides = first.stride()
    return dense and all(type(t) in (Tensor, torch.nn.Parameter) and t.stride() == strides for t in tensors)


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same entries of each tensor, some ``PIECE`` at a time (at most half as many more), as views.

    Args:
        *tensors: as :func:`flat_alike` asks for.
    """
    flat = [t.as_strided((t.numel(),), (1,)) for t in tensors]
    entries = flat[0].numel()
    count = round(entries / PIECE)
    if count <= 1:
        yield tuple(flat)
    else:  # as long as each other, for a short one at the end costs as many operations
        yield from zip(*(torch.split(t, -(-entries // count)) for t in flat), strict=True)


def neighbours(sizes: Sequence[float], most: float) -> list[slice]:
    """Runs of neighbours whose sizes add up to no more than the most, or that have one member.

    Args:
        sizes: of each, in order.
        most: what a run may add up to.
    """
    found: list[slice] = []
    start, total = 0, 0.0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            found.append(slice(start, index))
            start, total = index, 0.0
        total += size
    return [*found, slice(start, len(sizes))] if sizes else []


class _Memory(threading.local):
    def __init__(self) -> None:
        self.held: dict[tuple[torch.dtype, int, int], Tensor] = {}


_memory = _Memory()


def scratch(entries: int, dtype: torch.dtype, number: int = 0) -> Tensor:
    """CPU memory for what is computed on the way, ``[entries]``: the same at every call in a thread.

    Memory that is new from the system has to be mapped page by page when it is first written, which takes several times
    as long as the arithmetic on it. Lengths of another order have memory of their own, for each thread of an operation
    should find the part that it wrote before: the other's would have to come from the other's cache.

    Args:
        entries: how many, at most those of a piece.
        dtype: of each.
        number: 0, 1, ...: which of those that are needed at once.
    """
    key = dtype, number, entries.bit_length()
    held = _memory.held.get(key)
    if held is None or held.numel() < entries:
        with torch.inference_mode(False):
            held = _memory.held[key] = torch.empty(entries, dtype=dtype)
    return held if held.numel() == entries else held[:entries]


def compiled(update: Callable[_P, None], *, dynamic: bool) -> Callable[_P, None]:
    """An update of tensors, compiled for each list of them that it meets.

    PyTorch's own limit of 8 would leave a growing list of heads, or an optimizer of many groups, uncompiled without a
    word: slower, and with temporaries as large as the weights.

    Args:
        update: what to compile; counted apart from other copies of its code.
        dynamic: for flat memory of any length, in place of just the shapes that it meets.
    """
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        return torch.compile(  # type: ignore[call-overload, no-any-return]  # its stubs know neither limit
            update, dynamic=dynamic, recompile_limit=_MOST_COMPILED, isolate_recompiles=True
        )
    return _compiled_before(update, dynamic)


def _compiled_before(update: Callable[_P, None], dynamic: bool) -> Callable[_P, None]:
    """What :func:`compiled` gives on a PyTorch whose ``torch.compile`` takes no limit, such as 2.6."""
    from torch._dynamo import config  # slow to import, and imported by compiling anyway

    assert isinstance(update, types.FunctionType)
    # Compiled copies are counted by their code, which closures of one definition share: this one gets its own.
    own = types.FunctionType(
        update.__code__.replace(), update.__globals__, update.__name__, update.__defaults__, update.__closure__
    )
    run = torch.compile(own, dynamic=dynamic)

    def limited(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with config.patch(cache_size_limit=_MOST_COMPILED):  # which later releases know as recompile_limit
            run(*args, **kwargs)

    return limited
