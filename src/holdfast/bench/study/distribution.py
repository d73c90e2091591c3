"""How importances are spread: pure functions of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["density", "kurtosis", "skewness", "zeros"]


def zeros(values: Tensor) -> float:
    """Share of entries that are exactly 0, a fraction in [0, 1].

    Args:
        values: any shape, at least one entry.

    Example:
        >>> zeros(torch.tensor([0.0, 1.0, 2.0, 0.0]))
        0.5
    """
    return float((values == 0).double().mean())


def _standardised(values: Tensor) -> Tensor | None:
    x = values.detach().double().flatten()
    x = x - x.mean()
    scale = x.square().mean().sqrt()
    return None if scale == 0 else x / scale


def skewness(values: Tensor) -> float | None:
    r"""Third standardised moment, of the population.

    .. math:: \frac{\tfrac1n \sum (x_i - \bar x)^3}{\left(\tfrac1n \sum (x_i - \bar x)^2\right)^{3/2}}

    Source: the usual definition; 0 for a symmetric distribution.

    Args:
        values: any shape, at least one entry.

    Returns:
        A number; ``None`` where all entries are equal.
    """
    z = _standardised(values)
    return None if z is None else float(z.pow(3).mean())


def kurtosis(values: Tensor) -> float | None:
    r"""Fourth standardised moment less 3, of the population (excess kurtosis).

    .. math:: \frac{\tfrac1n \sum (x_i - \bar x)^4}{\left(\tfrac1n \sum (x_i - \bar x)^2\right)^2} - 3

    Source: the usual definition; 0 for a normal distribution.

    Args:
        values: any shape, at least one entry.

    Returns:
        A number; ``None`` where all entries are equal.
    """
    z = _standardised(values)
    return None if z is None else float(z.pow(4).mean()) - 3.0


def density(values: Tensor, low: float, high: float, bins: int = 60) -> list[float]:
    """Histogram density of the logarithm (base 10) of the positive entries.

    Importances span many powers of ten, so their density is only readable on a logarithmic axis. Zeros are not on
    it: :func:`zeros` counts them, and the densities integrate to the share of entries that are not zero.

    Args:
        values: >= 0, any shape.
        low: left end, a power of ten; smaller entries count in the first bin.
        high: right end, a power of ten.
        bins: how many bins of equal width.

    Returns:
        ``bins`` densities, per power of ten.
    """
    x = values.detach().double().flatten()
    logs = x[x > 0].log10().clamp(low, high)
    counts = torch.histc(logs, bins=bins, min=low, max=high)
    return (counts / (x.numel() * (high - low) / bins)).tolist()
