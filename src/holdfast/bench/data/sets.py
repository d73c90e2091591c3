"""What a data set is once it is read: images, or texts, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ImageDataset", "TextDataset", "normalising"]


def normalising(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor | None, Tensor | None]:
    """What a pixel x of 0 to 255 is multiplied by, and what is added then: float32 ``[C, 1, 1]`` each.

    Args:
        mean: per channel, of pixels scaled to [0, 1]; empty: samples go to the model as they are stored.
        std: likewise.
    """
    if not std:
        return None, None
    scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
    return scale, torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images and labels of one data set, and what its pixels are normalised by.

    Attributes:
        name: as given to `load`.
        train_x: uint8 ``[N, C, H, W]``.
        train_y: int64 ``[N]``, in 0 .. num_classes - 1.
        test_x: uint8 ``[M, C, H, W]``.
        test_y: int64 ``[M]``.
        class_names: one name per label.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, likewise.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Texts and labels of one data set; the test part is empty where the source has none.

    Attributes:
        name: as given to `load_text`.
        train_texts: N texts, in the source's order (`imdb` is sorted by label there: shuffle).
        train_y: int64 ``[N]``.
        test_texts: M texts, M >= 0.
        test_y: int64 ``[M]``.
        class_names: one name per label.
    """

    name: str
    train_texts: tuple[str, ...]
    train_y: Tensor
    test_texts: tuple[str, ...]
    test_y: Tensor
    class_names: tuple[str, ...]
