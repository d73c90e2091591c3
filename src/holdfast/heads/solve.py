r"""Solve with a positive definite matrix, in its own memory; and choose what is added to its diagonal."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from holdfast.errors import NumericsError

__all__ = ["NotPositiveError", "choose", "solve_in_place"]

_START, _LEAST, _MOST = 1e-3, 1e-9, 1e3
_BETTER = 1e-5  # how much smaller an error must be, as a share, to count as smaller


class NotPositiveError(NumericsError):
    """A matrix is not positive definite as far as its type can tell."""


@torch.no_grad()
def solve_in_place(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve A X = B by Cholesky's factorisation, which takes the place of A.

    Never by a recursive inverse: after 150 batches of 200 that is wrong by 1e-3 to 1e-1 in float32, this by 1e-5.

    Args:
        matrix: A, symmetric, ``[D, D]``, row-major; overwritten. Its lower triangle is not read.
        right: B, ``[D, C]``.

    Returns:
        X, float64 ``[D, C]``.

    Raises:
        NotPositiveError: if A is not positive definite.
    """
    columns = matrix.mT  # column-major, as LAPACK has it, so that nothing is copied
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(columns, out=(columns, info))
    if int(info) != 0:
        raise NotPositiveError(f"a matrix of {len(matrix)} features is not positive definite in {matrix.dtype}")
    lower: Tensor = torch.linalg.solve_triangular(columns, right.to(matrix.dtype), upper=False)
    found: Tensor = torch.linalg.solve_triangular(columns.mT, lower, upper=True)
    return found.double()


def choose(error: Callable[[float], float]) -> float:
    """The candidate with the least error: down the decades from 1e-3, then half a decade to either side.

    Args:
        error: of a candidate; may raise :class:`NotPositiveError`, which counts as infinitely large.

    Returns:
        The best candidate, from 1e-9 to 1e3.

    Example:
        >>> f"{choose(lambda value: abs(math.log10(value) + 5.6)):.3g}"
        '3.16e-06'
    """
    known: dict[int, float] = {}

    def at(half_decades: int) -> float:
        if half_decades not in known:
            try:
                known[half_decades] = error(_START * 10 ** (half_decades / 2))
            except NotPositiveError:
                known[half_decades] = math.inf
        return known[half_decades]

    lowest, highest = (round(2 * math.log10(bound / _START)) for bound in (_LEAST, _MOST))
    best = next((n for n in range(0, highest + 1, 2) if math.isfinite(at(n))), 0)
    for stride in (2, 1):
        for direction in (stride, -stride):
            # Where all are equally good, rounding must not choose: then the order of the samples would.
            while lowest <= best + direction <= highest and at(best + direction) < (1 - _BETTER) * at(best):
                best += direction
    return _START * 10 ** (best / 2)
