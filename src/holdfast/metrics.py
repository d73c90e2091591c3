r"""Metrics of continual learning, as pure functions of the accuracy matrix.

``matrix[i][j]``, written :math:`a_{ij}`, is the accuracy on task ``j`` after learning task ``i``, as a fraction;
``T`` is the number of tasks (columns). A method that learns all tasks at once has one row, the state after all of
them; metrics that compare rows are then ``None``, as they are for a run that stopped before its last task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from holdfast.errors import ConfigurationError, DataError

if TYPE_CHECKING:  # tables are made of numbers alone, and must not wait for PyTorch
    from torch import Tensor

__all__ = [
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "interval",
    "learning_accuracy",
    "per_task_accuracy",
    "t_quantile",
]

Matrix: TypeAlias = "Sequence[Sequence[float]] | Tensor"


def _rows(matrix: Matrix) -> list[list[float]]:
    if isinstance(matrix, Sequence):
        rows = [[float(value) for value in row] for row in matrix]
    else:
        if matrix.dim() != 2:
            raise DataError(f"matrix must have 2 dimensions, but its shape is {tuple(matrix.shape)}.")
        rows = matrix.double().tolist()
    if not rows or not rows[0]:
        raise DataError("matrix is empty; expected one row per learned task and one column per task.")
    if len({len(row) for row in rows}) > 1:
        raise DataError("matrix has rows of different lengths; expected one column per task in every row.")
    if len(rows) > len(rows[0]):
        raise DataError(f"matrix has {len(rows)} rows for {len(rows[0])} tasks; expected at most one row per task.")
    return rows


def _square(matrix: Matrix) -> list[list[float]] | None:
    rows = _rows(matrix)
    return rows if len(rows) == len(rows[0]) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def per_task_accuracy(matrix: Matrix) -> list[float]:
    r"""Accuracy on every task at the end: the last row, :math:`a_{Tj}`.

    Args:
        matrix: ``[rows, T]``, fractions.

    Returns:
        ``T`` fractions.

    Raises:
        DataError: if the matrix is empty or not rectangular.
    """
    return _rows(matrix)[-1]


def average_accuracy(matrix: Matrix) -> float:
    r"""Mean accuracy over all tasks at the end.

    .. math:: \frac1T \sum_{j=1}^T a_{Tj}

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 2. Differs: no.

    Args:
        matrix: ``[rows, T]``, fractions.

    Returns:
        A fraction.

    Raises:
        DataError: if the matrix is empty or not rectangular.
    """
    return _mean(per_task_accuracy(matrix))


def learning_accuracy(matrix: Matrix) -> float | None:
    r"""Mean accuracy on each task right after it was learned: plasticity.

    .. math:: \frac1T \sum_{j=1}^T a_{jj}

    Source: Riemer et al. 2019, arXiv:1810.11910. Differs: no.

    Args:
        matrix: ``[rows, T]``, fractions.

    Returns:
        A fraction, or ``None`` where there is not one row per task.

    Raises:
        DataError: if the matrix is empty or not rectangular.
    """
    rows = _square(matrix)
    return None if rows is None else _mean([row[j] for j, row in enumerate(rows)])


def forgetting(matrix: Matrix) -> float | None:
    r"""Mean drop of each earlier task from its best accuracy before the last task was learned.

    .. math:: \frac1{T-1} \sum_{j=1}^{T-1} \Bigl( \max_{i<T} a_{ij} - a_{Tj} \Bigr)

    Source: Chaudhry et al. 2018, arXiv:1801.10112, the forgetting measure. Differs: no.

    Args:
        matrix: ``[rows, T]``, fractions.

    Returns:
        A fraction in ``[-1, 1]`` (below 0 where the last task helped the earlier ones), or ``None`` where there
        is not one row per task or only one task.

    Raises:
        DataError: if the matrix is empty or not rectangular.
    """
    rows = _square(matrix)
    if rows is None or len(rows) < 2:
        return None
    *earlier, last = rows
    return _mean([max(row[j] for row in earlier) - last[j] for j in range(len(last) - 1)])


def backward_transfer(matrix: Matrix) -> float | None:
    r"""Mean change of each earlier task since it was learned: negative when it was forgotten.

    .. math:: \frac1{T-1} \sum_{j=1}^{T-1} (a_{Tj} - a_{jj})

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 3. Differs: no.

    Args:
        matrix: ``[rows, T]``, fractions.

    Returns:
        A fraction in ``[-1, 1]``, or ``None`` where there is not one row per task or only one task.

    Raises:
        DataError: if the matrix is empty or not rectangular.
    """
    rows = _square(matrix)
    if rows is None or len(rows) < 2:
        return None
    return _mean([rows[-1][j] - rows[j][j] for j in range(len(rows) - 1)])


def forward_transfer(matrix: Matrix, initial: Sequence[float] | Tensor) -> float | None:
    r"""Mean gain on each task just before it is learned, over the untrained model.

    .. math:: \frac1{T-1} \sum_{j=2}^{T} (a_{j-1,j} - \bar b_j)

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 4. Differs: no.

    Args:
        matrix: ``[rows, T]``, fractions.
        initial: ``[T]``, the untrained model's accuracy on every task; empty where it was not measured.

    Returns:
        A fraction in ``[-1, 1]``, or ``None`` where there is not one row per task, only one task, or no
        ``initial``.

    Raises:
        DataError: if the matrix is empty or not rectangular, or ``initial`` has another number of tasks.
    """
    start = [float(value) for value in initial]
    rows = _square(matrix)
    if rows is None or len(rows) < 2 or not start:
        return None
    if len(start) != len(rows):
        raise DataError(f"initial has {len(start)} values; expected one for each of the {len(rows)} tasks.")
    return _mean([rows[j - 1][j] - start[j] for j in range(1, len(rows))])


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
    mean = _mean(values)
    count = len(values)
    if count == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, t_quantile(level, count - 1) * deviation / math.sqrt(count)
