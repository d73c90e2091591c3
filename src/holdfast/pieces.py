"""Walking several tensors side by side as flat memory, piece by piece.

An elementwise update of large CPU tensors is bound by memory. Done piece by piece, what one operation writes is still
in the cache when the next one reads it, and temporaries are as small as a piece.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["LARGE", "PIECE", "flat_alike", "pieces"]

# A piece of float32 takes 1 MiB: half for each of two threads, which fits their caches. Smaller pieces spend more on
# starting operations than they save (measured from 2**15 to 2**19 entries).
PIECE = 1 << 18
# Below this many entries walking costs more than the temporaries that it spares.
LARGE = 1 << 14


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
    """The same entries of each tensor, ``[<= PIECE]`` at a time, as views.

    Args:
        *tensors: as :func:`flat_alike` asks for.
    """
    flat = [t.as_strided((t.numel(),), (1,)) for t in tensors]
    if flat[0].numel() <= PIECE:
        yield tuple(flat)
    else:
        yield from zip(*(torch.split(t, PIECE) for t in flat), strict=True)
