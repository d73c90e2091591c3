"""The shared quadratic penalty: its gradient, its implicit step, and the fold of many into one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from holdfast import ConfigurationError
from holdfast.checks import check_interval, check_not_negative, check_positive
from holdfast.penalties.equations import fold, pull, quadratic_penalty
from holdfast.penalties.gradient import add_quadratic_gradient

DOUBLE = torch.float64


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.sampled_from([0.0, 0.3, 2.0]), min_size=1, max_size=6), st.integers(0, 1000))
def test_fold_is_the_sum_of_the_terms(weights, seed):
    size = 5
    terms = [(numbers(size, seed=seed + t), w * numbers(size, seed=-1 - seed - t).abs()) for t, w in enumerate(weights)]
    terms = [(a, f.where(torch.arange(size) != t % size, 0.0)) for t, (a, f) in enumerate(terms)]  # some exact zeros
    anchor, importance, constant = *terms[0], torch.zeros((), dtype=DOUBLE)
    for a, f in terms[1:]:
        anchor, importance, more = fold(anchor, importance, a, f)
        constant = constant + more
    for point in (numbers(size, seed=7), 30 * numbers(size, seed=8)):
        summed = sum((f * (point - a) ** 2).sum() for a, f in terms)
        folded = quadratic_penalty([point], [anchor], [importance], 1.0) + constant
        torch.testing.assert_close(folded, torch.as_tensor(summed), rtol=1e-10, atol=1e-10)
        slope = sum(2 * f * (point - a) for a, f in terms)
        torch.testing.assert_close(2 * importance * (point - anchor), slope, rtol=1e-10, atol=1e-10)


def test_fold_anchors_what_does_not_matter_at_the_latest_point():
    anchor, importance, constant = fold(torch.ones(2), torch.zeros(2), torch.full((2,), 5.0), torch.tensor([0.0, 1.0]))
    assert torch.equal(anchor, torch.tensor([5.0, 5.0]))
    assert torch.equal(importance, torch.tensor([0.0, 1.0]))
    assert constant == 0


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("scale", [None, 16.0])
def test_gradient_is_autograds(weighted, scale):
    params = [nn.Parameter(numbers(3, 2, seed=1)), nn.Parameter(numbers(4, seed=2))]
    anchors = [numbers(3, 2, seed=3), numbers(4, seed=4)]
    importances = [numbers(3, 2, seed=5).abs(), numbers(4, seed=6).abs()] if weighted else None
    value = quadratic_penalty(params, anchors, importances, 0.7)
    by_hand = 0.0
    for i, (p, a) in enumerate(zip(params, anchors, strict=True)):
        by_hand += 0.7 * float(((importances[i] if importances else 1) * (p.detach() - a) ** 2).sum())
    assert float(value.detach()) == pytest.approx(by_hand, rel=1e-12)
    expected = torch.autograd.grad(value, params)
    grads = [numbers(3, 2, seed=9), numbers(4, seed=10)]
    before = [g.clone() for g in grads]
    add_quadratic_gradient(params, grads, anchors, importances, 0.7, None if scale is None else torch.tensor(scale))
    for g, b, e in zip(grads, before, expected, strict=True):
        torch.testing.assert_close(g - b, (scale or 1.0) * e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
def test_gradient_of_low_precision_weights_is_taken_in_float32(weighted):
    p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.bfloat16))
    anchor = torch.tensor([0.999, -2.003])
    importance = torch.tensor([3.0, 5.0], dtype=torch.bfloat16)
    grad = torch.zeros(2, dtype=torch.bfloat16)
    add_quadratic_gradient([p], [grad], [anchor], [importance] if weighted else None, 0.5)
    weights = importance.float() if weighted else torch.ones(2)
    torch.testing.assert_close(grad, (weights * (p.detach().float() - anchor)).bfloat16())
    assert grad.any()


def test_pull_is_the_implicit_step():
    start, anchor, k = numbers(5, seed=1), numbers(5, seed=2), numbers(5, seed=3).abs()
    found = start.clone()
    pull(found, anchor, k)
    # θ' minimises k (θ' - θ*)² / 2 + (θ' - θ)² / 2
    torch.testing.assert_close(found + k * (found - anchor), start + 0 * k, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_pull_at_its_ends_is_exact(dtype, as_tensor):
    start, anchor = numbers(9, seed=1).to(dtype), numbers(9, seed=2).to(dtype)
    for stiffness, expected in ((0.0, start), (float("inf"), anchor)):
        found = start.clone()
        pull(found, anchor.float(), torch.full((9,), stiffness) if as_tensor else stiffness)
        assert torch.equal(found, expected)


def test_pull_is_left_out_of_a_skipped_step():
    start, anchor = numbers(4, seed=1), numbers(4, seed=2)
    found = start.clone()
    pull(found, anchor, 3.0, torch.tensor(1.0))
    assert torch.equal(found, start)
    pull(found, anchor, 3.0, torch.tensor(0.0))
    torch.testing.assert_close(found, anchor + (start - anchor) / 4)


@pytest.mark.parametrize("check", [check_not_negative, check_positive, check_interval])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", None, True])
def test_bad_numbers_are_named(check, value):
    with pytest.raises(ConfigurationError, match="size is "):
        check("size", value)


def test_good_numbers_pass():
    assert check_not_negative("size", 0) == 0.0
    assert check_positive("size", 1e-9) == 1e-9
    assert check_interval("size", 3) == 3
    with pytest.raises(ConfigurationError):
        check_positive("size", 0)
