"""The plain twin of the fast CLASSP step: one weight after another, in float64, as the sources write it."""

from __future__ import annotations

__all__ = ["paper_step", "released_step"]


def paper_step(
    weights: list[float],
    gradients: list[float],
    sums: list[float],
    *,
    lr: float,
    threshold: float,
    eps: float,
    power: float,
    scaling: bool,
) -> None:
    r"""Advance one tensor in place by the paper's algorithm listing.

    .. math:: g^2 > t \;\Rightarrow\; s \leftarrow s + |g|^p,\quad w \leftarrow w - \alpha g / (\varepsilon + s)^{1/p}

    Source: arXiv:2405.09637v2, the algorithm listing. Differs: no.

    Args:
        weights: the tensor's weights, flattened, ``[n]``; changed in place.
        gradients: the loss's gradient, ``[n]``.
        sums: the accumulator, ``[n]``; changed in place.
        lr: the step size.
        threshold: weights with a smaller or equal squared gradient stay where they are.
        eps: added to the accumulator inside the root.
        power: the exponent of the accumulated gradient and of the root.
        scaling: False: step by ``lr * g``, and still accumulate.
    """
    for i, g in enumerate(gradients):
        if g**2 > threshold:
            sums[i] += abs(g) ** power
            divisor = (eps + sums[i]) ** (1 / power) if scaling else 1.0
            weights[i] -= lr * g / divisor


def released_step(
    weights: list[float],
    gradients: list[float],
    sums: list[float],
    *,
    lr: float,
    threshold: float,
    eps: float,
    power: float,
    scaling: bool,
) -> None:
    """Advance one tensor in place as the released class does.

    Source: the class released with arXiv:2405.09637v2. It differs from the paper in two ways: the threshold is compared
    with one truth value for the whole tensor, and the power of what is accumulated is discarded.

    Args:
        weights: the tensor's weights, flattened, ``[n]``; changed in place.
        gradients: the loss's gradient, ``[n]``.
        sums: the accumulator, ``[n]``; changed in place.
        lr: the step size.
        threshold: at 1 and above nothing ever moves; below 1 every weight does.
        eps: added to the accumulator inside the root.
        power: the exponent of the root only.
        scaling: False: step by ``lr * g``, and still accumulate.
    """
    if any(g**2 for g in gradients) > threshold:
        for i, g in enumerate(gradients):
            sums[i] += abs(g)
            divisor = (eps + sums[i]) ** (1 / power) if scaling else 1.0
            weights[i] -= lr * g / divisor
