"""How much memory a method says that it will take, before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["Sized"]


class Sized:
    """The part of a :class:`~holdfast.Method` that an estimate of its memory asks: tensors on ``meta`` will do.

    How many tensors of the size of each it keeps stands in the registry, where users read it.
    """

    renewed: ClassVar[int] = 1  # tensors per parameter that consolidate makes while the old ones are still held
    params: dict[str, nn.Parameter]

    def most_buffer_bytes(self) -> int:
        """The most bytes that ``buffers`` may come to take where data decide; 0 for a method that knows beforehand."""
        return 0

    def copied(self) -> Mapping[str, Tensor]:
        """Of which of the model's tensors it keeps tensors of the same size; by default what it protects."""
        return self.params

    def kept_as(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in which it keeps what it remembers of a tensor of some precision: float32 or better."""
        return torch.promote_types(dtype, torch.float32)
