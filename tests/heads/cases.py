"""The heads under test, samples for them, and what two answers must be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.heads import NCM, SLDA, FeCAM, LwPK, Ridge, TransportCalibrated

HEADS = {
    "ncm": NCM,
    "slda": SLDA,
    "slda-auto": lambda *args, **more: SLDA(*args, shrinkage="auto", **more),
    "ridge": Ridge,
    "ridge-number": lambda *args, **more: Ridge(*args, strength=0.1, **more),
    "lwpk": LwPK,
    "fecam": FeCAM,
    "h-ot": lambda *args, **more: TransportCalibrated(*args, tukey=0.5, base_samples=18, keep=70, draws=20, **more),
}
every = pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)


def samples(number: int = 90, classes: int = 5, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.rand(classes, width, generator=draw, dtype=torch.float64) * 4
    labels = torch.randint(classes, (number,), generator=draw)
    return (centres[labels] + torch.randn(number, width, generator=draw, dtype=torch.float64)).relu(), labels


def tell(head, x: Tensor, y: Tensor, *, batch: int = 8):
    head.consolidate(zip(x.split(batch), y.split(batch), strict=True))
    return head


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
