"""Several sequences in one row: where each begins."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import DataError
from holdfast.objectives.base import Batch
from holdfast.objectives.batches import field

__all__ = ["sequences"]


def sequences(batch: Batch, shape: tuple[int, int]) -> Tensor | None:
    """To which of the sequences packed in its row a token belongs.

    Read from what the model itself tells them apart by: ``seq_idx`` (a number per token), ``cu_seq_lens_q`` (where
    sequences begin and end, over all tokens of the batch) or ``position_ids`` that start again.

    Args:
        batch: the batch.
        shape: rows and tokens per row, ``(B, T)``.

    Returns:
        int64 ``[B, T]``, from 0 and never falling along a row; ``None`` where a row is one sequence.

    Raises:
        DataError: if ``cu_seq_lens_q`` does not end at the number of tokens.
    """
    numbered = field(batch, "seq_idx")
    if numbered is not None and numbered.shape == shape:
        return _counted(numbered[:, 1:] != numbered[:, :-1])
    ends = field(batch, "cu_seq_lens_q")
    if ends is not None:
        tokens = shape[0] * shape[1]
        if ends.dim() != 1 or not len(ends) or int(ends[-1]) != tokens:
            raise DataError(f"cu_seq_lens_q is {ends.tolist()}; expected ends of sequences up to {tokens} tokens")
        place = torch.arange(tokens, device=ends.device)
        return torch.bucketize(place, ends[1:].to(place.dtype), right=True).view(shape)
    places = field(batch, "position_ids")
    if places is not None and places.dim() <= 2 and places.shape[-1] == shape[1]:
        again = places[..., 1:] <= places[..., :-1]
        if bool(again.any()):
            return _counted(again.expand(shape[0], -1))
    return None


def _counted(begins: Tensor) -> Tensor:
    """How many sequences have begun before a token, from whether one begins at each but the first."""
    first = begins.new_zeros(len(begins), 1)
    return torch.cat([first, begins], 1).long().cumsum(1)
