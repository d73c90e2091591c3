r"""Where low-rank adapters begin so that they spare what a weight did: :math:`W = (W - BA) + BA`.

Every function takes a weight ``[o, n]`` and gives B ``[o, r]`` and A ``[r, n]``; what is left for the base is W − BA.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.checks import check_positive
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.projections.basis import check_threshold

__all__ = ["corda", "inflora", "kept_directions", "lora_null", "milora", "unused_directions"]


def milora(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""The adapter begins as the smallest singular components of the weight; it needs no data.

    .. math:: W = U S V^\top, \qquad B = U_r \sqrt{S_r}, \quad A = \sqrt{S_r} V_r^\top \quad \text{(the r smallest)}

    Source: Wang et al. 2024, arXiv:2406.09044. Differs: no.

    Args:
        weight: W, ``[o, n]``.
        rank: r, at most min(o, n).

    Returns:
        B ``[o, r]`` and A ``[r, n]``.

    Raises:
        ConfigurationError: if the rank is too large.
    """
    U, S, V = _svd(weight, rank)
    root = S[-rank:].sqrt()
    return U[:, -rank:] * root, root[:, None] * V[-rank:]


def corda(weight: Tensor, covariance: Tensor, rank: int, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    r"""The adapter begins where the weight does least to the inputs that are to be kept.

    .. math:: W C = U S V^\top, \qquad B = U_r \sqrt{S_r}, \quad A = \sqrt{S_r} V_r^\top C^{-1} \quad
        \text{(the r smallest)}

    Source: Yang et al. 2024, arXiv:2406.05223, knowledge-preserved mode. Differs: C is divided by the mean of its
    diagonal, so that neither A nor B grows with the amount of data (their product does not depend on it).

    Args:
        weight: W, ``[o, n]``.
        covariance: C, the sum or mean of :math:`x x^\top` over inputs, ``[n, n]``.
        rank: r, at most min(o, n).
        damping: what is added to the diagonal, in units of its mean, > 0; doubled until C can be inverted.

    Returns:
        B ``[o, r]`` and A ``[r, n]``.

    Raises:
        ConfigurationError: if the rank is too large, or the damping is none.
        NumericsError: if C is 0, or not finite.
    """
    check_positive("damping", damping)
    C = _scaled(covariance.double())
    eye = torch.eye(len(C)).to(C)
    while True:
        damped = C + damping * eye
        inverse = torch.linalg.inv(damped)
        if float(torch.linalg.matrix_norm(damped @ inverse - eye)) < 0.05:
            break
        damping *= 2
    U, S, V = _svd(weight.double() @ damped, rank)
    root = S[-rank:].sqrt()
    return U[:, -rank:] * root, root[:, None] * V[-rank:] @ inverse


def lora_null(weight: Tensor, unused: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""The adapter begins where no input that is to be kept has a part; with A frozen nothing changes for these.

    .. math:: W N N^\top = U S V^\top, \qquad B = U_r S_r, \quad A = V_r^\top \quad \text{(the r largest)}

    Source: Tang et al. 2025, arXiv:2503.02659. Differs: A is orthonormal and B has all the size, so that freezing A
    leaves the rate to B alone.

    Args:
        weight: W, ``[o, n]``.
        unused: N, an orthonormal basis ``[n, k]`` of what inputs leave out: see :func:`unused_directions`.
        rank: r, at most min(o, k).

    Returns:
        B ``[o, r]`` and A ``[r, n]``, with orthonormal rows.

    Raises:
        ConfigurationError: if fewer directions are unused.
    """
    if unused.shape[1] < rank:
        raise ConfigurationError(
            f"rank is {rank}, but the inputs leave {unused.shape[1]} of {len(unused)} directions unused; expected at "
            "most as many"
        )
    N = unused.double()
    U, S, V = _svd(weight.double() @ N, rank)  # within N, so that A lies there even where W does nothing
    return U[:, :rank] * S[:rank], V[:rank] @ N.T


def inflora(covariance: Tensor, kept: Tensor, rank: int) -> Tensor:
    r"""A for an adapter whose B begins at 0: what the new inputs use most and the old ones do not.

    .. math:: (I - M M^\top) C_{\text{new}} = U S V^\top, \qquad A = U_r^\top / \sqrt 3

    With A frozen, nothing changes for inputs within M.

    Source: Liang and Li 2024, arXiv:2404.00228. Differs: no.

    Args:
        covariance: :math:`C_{\text{new}}`, ``[n, n]``.
        kept: M, an orthonormal basis ``[n, k]`` of the old inputs: see :func:`kept_directions`.
        rank: r, at most n − k.

    Returns:
        A, ``[r, n]``.

    Raises:
        ConfigurationError: if too few directions are left.
    """
    C, M = _scaled(covariance.double()), kept.double()
    if M.shape[1] + rank > len(C):
        raise ConfigurationError(
            f"rank is {rank}, but {M.shape[1]} of {len(C)} directions are kept; expected at most {len(C) - M.shape[1]}"
        )
    U, _, _ = _svd(C - M @ (M.T @ C), rank)
    return U[:, :rank].T / 3**0.5


def unused_directions(covariance: Tensor, tolerance: float) -> Tensor:
    """An orthonormal basis ``[n, k]`` of the directions with at most that share of the largest one's energy."""
    check_threshold("tolerance", tolerance)
    values, vectors = torch.linalg.eigh(_scaled(covariance.double()))
    found: Tensor = vectors[:, values <= tolerance * values[-1]]
    return found


def kept_directions(covariance: Tensor, threshold: float) -> Tensor:
    """An orthonormal basis ``[n, k]`` of the fewest directions that have that share of all energy."""
    check_threshold("threshold", threshold)
    values, vectors = torch.linalg.eigh(_scaled(covariance.double()))
    shares = values.clamp(min=0).flip(0).cumsum(0) / values.clamp(min=0).sum()
    number = min(len(values), int((shares < threshold).sum()) + 1)
    found: Tensor = vectors.flip(1)[:, :number]
    return found


def _scaled(covariance: Tensor) -> Tensor:
    if not bool(covariance.isfinite().all()):
        raise NumericsError("the inputs of a layer are not finite: nothing can be told from them")
    mean = covariance.diagonal().mean()
    if not float(mean) > 0:
        raise NumericsError("the inputs of a layer are all 0: nothing can be told from them")
    return covariance / mean


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    if rank > min(matrix.shape):
        raise ConfigurationError(f"rank is {rank}; expected at most {min(matrix.shape)}, the rank of the weight")
    U, S, V = torch.linalg.svd(matrix.double(), full_matrices=False)
    return U, S, V
