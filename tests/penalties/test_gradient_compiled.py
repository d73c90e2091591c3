"""The compiled pass of a quadratic penalty's gradient against the plain twin."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from holdfast.penalties import gradient

pytestmark = [
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler on the CPU"
    ),
    # The compiler's own imports warn of things that are not Holdfast's to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of:UserWarning"),
]


@pytest.mark.parametrize(
    ("dtype", "weights"), [(torch.float32, torch.float32), (torch.float32, None), (torch.bfloat16, torch.bfloat16)]
)
def test_compiled_equals_the_plain_twin(dtype, weights):
    draw = torch.Generator().manual_seed(4)
    shapes = [(5, 7), (3, 4, 2, 2), (4,)]
    params, grads = ([torch.rand(s, generator=draw).to(dtype) for s in shapes] for _ in range(2))
    anchors = [torch.rand(s, generator=draw) for s in shapes]
    importances = None if weights is None else [torch.rand(s, generator=draw).to(weights) for s in shapes]
    torch._foreach_add_(grads, 2.0)
    for factor, scale in ((0.35, None), (0.7, None), (0.35, torch.tensor(4.0))):
        expected = [g.clone() for g in grads]
        versions = [g._version for g in grads]
        gradient.add_quadratic_gradient_plainly(params, expected, anchors, importances, factor, scale)
        gradient.add_quadratic_gradient(params, grads, anchors, importances, factor, scale, fused=True)
        for g, e, version in zip(grads, expected, versions, strict=True):
            torch.testing.assert_close(g, e)
            assert g._version > version
