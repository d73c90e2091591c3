r"""Metrics of continual learning, as pure functions of the accuracy matrix.

``matrix[i][j]``, written :math:`a_{ij}`, is the accuracy on task ``j`` after learning task ``i``, as a fraction;
``T`` is the number of tasks (columns). A method that learns all tasks at once has one row, the state after all of
them; metrics that compare rows are then ``None``, as they are for a run that stopped before its last task.

A stream without boundaries has no such matrix: it is judged sample by sample, before each is learned
(:func:`prequential_accuracy`), beside what no learner at all would have answered (:func:`no_change`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from holdfast.checks import check_interval
from holdfast.errors import DataError
from holdfast.student import interval, t_quantile

if TYPE_CHECKING:  # tables are made of numbers alone, and must not wait for PyTorch
    from torch import Tensor

__all__ = [
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "interval",
    "learning_accuracy",
    "minimum_accuracy",
    "no_change",
    "per_task_accuracy",
    "prequential_accuracy",
    "t_quantile",
    "temporal_kappa",
    "worst_case_accuracy",
]

Matrix: TypeAlias = "Sequence[Sequence[float]] | Tensor"


def _rows(matrix: Matrix, *, finer: bool = False) -> list[list[float]]:
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
    if not finer and len(rows) > len(rows[0]):
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


def _since_learned(matrix: Matrix, learned: Sequence[int] | None) -> tuple[list[list[float]], list[int]] | None:
    """The rows, and for each task the row right after it was learned; ``None`` where there is not one row per task."""
    if learned is None:
        rows = _square(matrix)
        return None if rows is None else (rows, list(range(len(rows))))
    rows, ends = _rows(matrix, finer=True), list(learned)
    if len(ends) != len(rows[0]) or sorted({*ends, -1, len(rows)}) != [-1, *ends, len(rows)]:
        raise DataError(
            f"learned is {ends}; expected a row for each of the {len(rows[0])} tasks, ascending, from 0 to "
            f"{len(rows) - 1}."
        )
    return rows, ends


def minimum_accuracy(matrix: Matrix, learned: Sequence[int] | None = None) -> float | None:
    r"""Mean over the earlier tasks of the worst accuracy that each had since it was learned (min-ACC).

    .. math:: \frac1{T-1} \sum_{j=1}^{T-1} \min_{n > \ell_j} a_{nj}

    Source: the min-ACC of De Lange et al. 2023, arXiv:2205.13452: each task's lowest accuracy since it was learned, and
    their mean; the formula is ours, and its number there was not looked up. Differs: it sees the rows that there are.
    The dip right after a task begins (the stability gap) shows only where there are rows from within tasks.

    Args:
        matrix: ``[rows, T]``, fractions; with ``learned``, as many rows as there were tests, in the order of time.
        learned: ℓ, the row right after each task was learned, ascending, from 0; ``None``: one row per task.

    Returns:
        A fraction, or ``None`` where there is not one row per task, or only one task.

    Raises:
        DataError: if the matrix is empty or not rectangular, or ``learned`` does not fit it.
    """
    found = _since_learned(matrix, learned)
    if found is None or len(found[1]) < 2:
        return None
    rows, ends = found
    return _mean([min(row[j] for row in rows[end + 1 :]) for j, end in enumerate(ends[:-1])])


def worst_case_accuracy(matrix: Matrix, learned: Sequence[int] | None = None) -> float | None:
    r"""What can be relied on at any time: the last task as it is now, the earlier ones at their worst (WC-ACC).

    .. math:: \frac1T a_{TT} + \Bigl( 1 - \frac1T \Bigr) \, \text{min-ACC}

    Source: the WC-ACC of De Lange et al. 2023, arXiv:2205.13452: the latest task's accuracy and min-ACC, weighted by
    their numbers of tasks; likewise without its number there. Differs: as :func:`minimum_accuracy`.

    Args:
        matrix: as for :func:`minimum_accuracy`.
        learned: as for :func:`minimum_accuracy`.

    Returns:
        A fraction, at most the average accuracy at the end; ``None`` where there is not one row per task.

    Raises:
        DataError: if the matrix is empty or not rectangular, or ``learned`` does not fit it.
    """
    found = _since_learned(matrix, learned)
    if found is None:
        return None
    now, tasks = found[0][-1][-1], len(found[1])
    worst = minimum_accuracy(matrix, learned)
    return now if worst is None else now / tasks + (1 - 1 / tasks) * worst


def prequential_accuracy(hits: Sequence[bool] | Tensor, window: int | None = None) -> list[float]:
    r"""Accuracy along a stream in which every sample is answered first and learned then, over a sliding window.

    .. math:: P_w(i) = \frac1{\min(i, w)} \sum_{k=\max(1, i-w+1)}^{i} [\hat y_k = y_k]

    Source: the sliding window of Gama, Sebastião and Rodrigues 2013, "On evaluating stream learning algorithms", with
    the 0-1 loss; the formula is ours, for the definition in words. Differs: their fading factors are not offered.

    Args:
        hits: ``[N]``, whether the answer to each sample was right, in the order of the stream.
        window: w, in samples, >= 1; ``None``: all samples so far.

    Returns:
        N fractions.

    Raises:
        ConfigurationError: if ``window`` is no whole number >= 1.
    """
    right = [int(bool(hit)) for hit in (hits if isinstance(hits, Sequence) else hits.tolist())]
    size = max(1, len(right)) if window is None else check_interval("window", window)
    found, total = [], 0
    for number, hit in enumerate(right):
        total += hit - (right[number - size] if number >= size else 0)
        found.append(total / min(number + 1, size))
    return found


def no_change(labels: Sequence[int] | Tensor) -> list[bool]:
    """Where "the same label as the last" is right: what a prequential accuracy must be held against.

    In a stream that is ordered by class it is nearly always right without having learned anything.

    Source: the no-change classifier of Bifet et al. 2013, "Pitfalls in benchmarking data stream classification", which
    is defined there in words. Differs: no; the first sample has no label before it, and counts as wrong.

    Args:
        labels: ``[N]``, in the order of the stream.

    Returns:
        N hits, for :func:`prequential_accuracy`.
    """
    known = list(labels) if isinstance(labels, Sequence) else labels.tolist()
    return [number > 0 and label == known[number - 1] for number, label in enumerate(known)]


def temporal_kappa(accuracy: float, baseline: float) -> float | None:
    r"""How much of what :func:`no_change` gets wrong is got right: 1 for all, 0 for no more than it, below 0 for less.

    .. math:: \kappa = \frac{p - p_e}{1 - p_e}

    Source: the temporal kappa of Bifet et al. 2013, "Pitfalls in benchmarking data stream classification": Cohen's
    kappa with the no-change classifier in the place of chance. Its number there was not looked up. Differs: no.

    Args:
        accuracy: p, a fraction.
        baseline: p_e, of :func:`no_change` on the same samples.

    Returns:
        A number of at most 1; ``None`` where the baseline is never wrong.
    """
    return None if baseline >= 1 else (accuracy - baseline) / (1 - baseline)
