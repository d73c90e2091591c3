"""Which numbers are found to be not finite, on the CPU's way and on that of other devices and subclasses."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.state import finiteness


class Sub(torch.Tensor):
    """Goes the way of everything that is no plain CPU tensor."""


@pytest.mark.parametrize("kind", [torch.Tensor, Sub])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_number_that_is_not_finite_is_found_and_the_largest_is_not_one(dtype, kind):
    most = torch.finfo(dtype).max
    found = []
    for odd in (0.0, most, -most, math.nan, math.inf, -math.inf):
        tensor = torch.ones(5000, dtype=dtype)
        tensor[4321] = odd
        found.append(tensor.as_subclass(kind))
    assert [bool(finite) for finite in finiteness(found)] == [True, True, True, False, False, False]


def test_empty_tensors_are_left_out():
    assert finiteness([]) == []
    assert [bool(finite) for finite in finiteness([torch.ones(0), torch.tensor(1.0)])] == [True]
