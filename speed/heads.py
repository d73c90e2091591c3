"""What it costs to tell a closed-form head a task, beside the matrix products that it is made of."""

from __future__ import annotations

import torch

from holdfast.heads import RandomProjection, Ridge
from speed.rows import Row, cost
from speed.timing import Setup, alternate

__all__ = ["heads"]


def heads(setup: Setup) -> list[Row]:
    """A ridge head of 5,000 rectified random features, told 60,000 digits."""
    samples, size = (600, 100) if setup.quick else (60_000, 5_000)
    draw = torch.Generator().manual_seed(0)
    inputs = torch.rand(samples, 784, generator=draw).to(setup.device)
    labels = torch.randint(10, (samples,), generator=draw).to(setup.device)
    batches = list(zip(inputs.split(1000), labels.split(1000), strict=True))
    weight = torch.randn(784, size, generator=draw).to(setup.device)
    rows = []
    for dtype in (torch.float64, torch.float32):

        def head(dtype: torch.dtype = dtype) -> None:
            Ridge(RandomProjection(size), dtype=dtype).consolidate(batches)

        def products(dtype: torch.dtype = dtype) -> None:
            gram = torch.zeros(size, size, dtype=dtype, device=setup.device)
            for x, _ in batches:
                features = (x @ weight).to(dtype)
                gram.addmm_(features.T, features)

        # A round takes minutes, in which what is done for the first time is nothing.
        timings = alternate(setup, {"head": head, "products": products}, warm=0, least=3)
        work = f"Ridge, {size:,} features, {samples:,} samples, {str(dtype).removeprefix('torch.')}"
        rows.append(
            cost(timings, "head", "products", bench="heads", work=work, device=setup.device.type,
                 than="x P and Zᵀ Z alone", target=1.3, note="only what is above the diagonal of Zᵀ Z is computed")
        )  # fmt: skip
    return rows
