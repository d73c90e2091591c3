r"""Logistic regression to the last digits: Newton's method with conjugate gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["logistic_regression"]

_INNER = 500  # steps of conjugate gradients
_HALVINGS = 40


def logistic_regression(
    features: Tensor,
    targets: Tensor,
    classes: int,
    *,
    strength: float = 1.0,
    weights: Tensor | None = None,
    tolerance: float = 1e-12,
    iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    r"""Softmax regression with a squared penalty on its weights, none on its offsets.

    .. math:: \min_{V, b} \; -\sum_i a_i \log \mathrm{softmax}(V^\top z_i + b)_{y_i} + \tfrac{\lambda}{2} \lVert V
        \rVert^2

    With λ = 1 that is scikit-learn's ``LogisticRegression()`` of three classes or more. The minimum is unique (offsets
    sum to 0), so nothing depends on where or in which order it was looked for. The steps are Newton's, each solved by
    conjugate gradients, which never hold a Hessian matrix.

    Args:
        features: z, float64 ``[N, D]``.
        targets: y, int64 ``[N]``, columns 0 to C − 1.
        classes: C.
        strength: λ, > 0.
        weights: a, ``[N]``; ``None``: 1 each.
        tolerance: it ends where the gradient is so much smaller than at the start, or gets no smaller.
        iterations: Newton steps at most.

    Returns:
        V, ``[D, C]``, and b, ``[C]``.
    """
    rows = torch.cat([features, features.new_ones(len(features), 1)], 1)
    penalty = features.new_full((rows.shape[1], 1), strength)
    penalty[-1] = 0
    amount = features.new_ones(len(rows), 1) if weights is None else weights.to(features)[:, None]
    wanted = F.one_hot(targets, classes).to(features)
    found = features.new_zeros(rows.shape[1], classes)

    def value(at: Tensor) -> float:
        losses = F.cross_entropy(rows @ at, targets, reduction="none")
        return float(losses @ amount[:, 0] + (penalty * at.square()).sum() / 2)

    best, lost, first = value(found), float("inf"), 0.0
    for _ in range(iterations):
        p = torch.softmax(rows @ found, 1)
        gradient = rows.T @ (amount * (p - wanted)) + penalty * found
        size = float(gradient.norm())
        first = first or size
        if size <= tolerance * max(1.0, first) or (size >= lost and size <= 1e-6 * max(1.0, first)):
            break
        lost = size
        direction = _solved(_curvature(rows, amount, p, penalty), gradient, min(0.1, size / max(1.0, first)))
        slope = float((gradient * direction).sum())
        length = 1.0
        for _ in range(_HALVINGS):
            now = value(found - length * direction)
            # Near the minimum the decrease is less than what a sum in float64 can show.
            if now <= best - 1e-4 * length * slope or slope <= 1e-12 * (1 + abs(best)):
                break
            length /= 2
        found, best = found - length * direction, now
    return found[:-1], found[-1] - found[-1].mean()  # a constant in all offsets changes no probability


def _curvature(rows: Tensor, amount: Tensor, p: Tensor, penalty: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The Hessian as a function of a direction ``[D + 1, C]``, and its diagonal."""

    def times(direction: Tensor) -> Tensor:
        moved = rows @ direction
        found = rows.T @ (amount * p * (moved - (p * moved).sum(1, keepdim=True))) + penalty * direction
        found[-1] += direction[-1].mean() * amount.sum()  # the same in all offsets changes nothing else: let it be 0
        return found

    return times, rows.square().T @ (amount * p * (1 - p)) + penalty


def _solved(hessian: tuple[Callable[[Tensor], Tensor], Tensor], gradient: Tensor, accuracy: float) -> Tensor:
    """H⁻¹g, by conjugate gradients that know the diagonal."""
    times, diagonal = hessian
    scale = diagonal.clamp_min(float(diagonal.max()) * 1e-14)
    found, left = torch.zeros_like(gradient), gradient
    eased = left / scale
    direction, energy = eased, float((left * eased).sum())
    enough = accuracy * float(gradient.norm())
    for _ in range(_INNER):
        moved = times(direction)
        bend = float((direction * moved).sum())
        if bend <= 0 or energy <= 0:
            break
        found = found + energy / bend * direction
        left = left - energy / bend * moved
        if float(left.norm()) <= enough:
            break
        eased = left / scale
        before, energy = energy, float((left * eased).sum())
        direction = eased + energy / before * direction
    return found
