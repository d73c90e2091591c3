"""The compiled pass, against the plain twin in float64 and the eager step in mixed precision."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from torch import nn

from holdfast.optim import CLASSP
from holdfast.optim._reference import paper_step

pytestmark = [
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler on the CPU"
    ),
    # The compiler's own imports warn of things that are not Holdfast's to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of:UserWarning"),
]


@pytest.mark.parametrize(("power", "threshold"), [(1.0, 0.3), (2.0, 0.0), (2.5, 0.3)])
def test_compiled_equals_the_plain_twin(power: float, threshold: float) -> None:
    generator = torch.Generator().manual_seed(4)
    shapes = [(5, 7), (3, 4, 2, 2), (4,)]
    params = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]
    weights = [p.flatten().tolist() for p in params]
    sums = [[0.0] * p.numel() for p in params]
    values = {"threshold": threshold, "power": power, "scaling": True}
    optimizer = CLASSP(params, fused=True, **values)
    versions = [p._version for p in params]
    for lr, eps in ((0.2, 1e-5), (0.1, 1e-3)):  # a schedule changes them; the kernel stays
        optimizer.consolidate(lr=lr, eps=eps)
        for p, w, s in zip(params, weights, sums, strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            paper_step(w, p.grad.flatten().tolist(), s, lr=lr, eps=eps, **values)
        optimizer.step()
    for p, w, s, version in zip(params, weights, sums, versions, strict=True):
        torch.testing.assert_close(p.detach().flatten(), torch.tensor(w, dtype=torch.float64), rtol=1e-12, atol=1e-14)
        total = optimizer.state[p]["sum"].flatten()
        torch.testing.assert_close(total, torch.tensor(s, dtype=torch.float64), rtol=1e-12, atol=1e-14)
        assert p._version > version


def test_compiled_equals_eager_for_bfloat16_weights_and_shows_a_nan() -> None:
    generator = torch.Generator().manual_seed(6)
    start = torch.randn(33, generator=generator).bfloat16()
    gradient = torch.randn(33, generator=generator).bfloat16()
    gradient[7] = float("nan")
    results = []
    for fused in (False, True):
        p = nn.Parameter(start.clone())
        optimizer = CLASSP([p], threshold=0.25, scaling=False, fused=fused)
        p.grad = gradient.clone()
        optimizer.step()
        assert optimizer.state[p]["sum"].dtype == torch.float32
        results.append((p.detach(), optimizer.state[p]["sum"]))
    assert results[1][0].isnan().nonzero().flatten().tolist() == [7]
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, equal_nan=True)
