"""Images as tensors, for models that bring no processor of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Preparation"]


@dataclass(frozen=True)
class Preparation:
    """How an image becomes numbers: resized, as fractions, less a mean, over a deviation.

    Attributes:
        shape: channels (1 or 3), height and width.
        mean: of each channel, or one for all.
        std: likewise.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, images: Sequence[Any]) -> Tensor:
        """Float32 ``[B, C, H, W]`` out of PIL images."""
        channels, height, width = self.shape
        arrays = []
        for image in images:
            ready = image.convert("RGB" if channels == 3 else "L")
            if ready.size != (width, height):
                ready = ready.resize((width, height), 2)  # bilinear
            arrays.append(np.asarray(ready).reshape(height, width, channels))
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std
