r"""Means of a few runs and their intervals, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence

from holdfast.errors import ConfigurationError, DataError

__all__ = ["interval", "t_quantile"]


def _t_probability(t: float, freedom: int) -> float:
    r"""P(\|X\| < t) for Student's t with whole degrees of freedom: the finite series of A&S 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, series = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        series += term
        term *= square * k / (k + 1)
    return (angle + sine * series) * 2.0 / math.pi if odd else sine * series


def t_quantile(level: float, freedom: int) -> float:
    r"""The t with :math:`P(|X| < t)` = ``level``, for Student's t distribution.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4, inverted by bisection. Differs: no.

    Args:
        level: two-sided probability, in (0, 1); 0.95 for the usual interval.
        freedom: degrees of freedom, a whole number >= 1.

    Returns:
        The quantile, dimensionless, > 0.

    Raises:
        ConfigurationError: if ``level`` or ``freedom`` is out of its range.
    """
    if not 0.0 < level < 1.0:
        raise ConfigurationError(f"level is {level}; expected a probability between 0 and 1.")
    if freedom < 1:
        raise ConfigurationError(f"freedom is {freedom}; expected a whole number of at least 1.")
    low, high = 0.0, 1.0
    while _t_probability(high, freedom) < level:
        low, high = high, 2.0 * high
    while high - low > 1e-13 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if _t_probability(middle, freedom) < level else (low, middle)
    return 0.5 * (low + high)


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
    r"""Mean and half-width of its confidence interval by Student's t.

    .. math:: \bar x \pm t_{n-1} \, s / \sqrt n

    Source: Student 1908. Differs: no.

    Args:
        values: one value per seed, ``[n]``.
        level: two-sided probability of the interval, in (0, 1).

    Returns:
        The mean and the half-width, both in the unit of the values; the half-width is ``None`` for one value.

    Raises:
        DataError: if there is no value.
        ConfigurationError: if ``level`` is not between 0 and 1.
    """
    if not values:
        raise DataError("values is empty; expected one value per seed.")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, t_quantile(level, count - 1) * deviation / math.sqrt(count)
