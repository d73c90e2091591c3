r"""InRank's arithmetic: how much of a product's spectrum its first directions explain, and what rank follows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holdfast.errors import NumericsError

__all__ = ["dense_spectrum", "drawn", "explained", "grown_rank", "most_rank", "next_rank", "spectrum", "truncated"]


def drawn(rows: int, columns: int, *, generator: torch.Generator | None = None) -> Tensor:
    r"""A factor as PyTorch's linear layers draw their weights: evenly from :math:`\pm 1 / \sqrt{\text{columns}}`.

    Source: the code of Zhao et al. 2023, arXiv:2306.11250 (``kaiming_uniform_`` with a = √5). Differs: no.

    Args:
        rows: of the factor.
        columns: of the factor.
        generator: the source of randomness; ``None`` for PyTorch's own.

    Returns:
        float32 ``[rows, columns]``, on the CPU.
    """
    bound = 1 / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)


def dense_spectrum(up: Tensor, down: Tensor) -> Tensor:
    """The plain twin of :func:`spectrum`: of the product itself."""
    found: Tensor = torch.linalg.svdvals(up @ down)
    return found


def spectrum(up: Tensor, down: Tensor) -> Tensor:
    r"""The singular values of a product of thin factors, without making it.

    .. math:: B = Q_B R_B, \quad A^\top = Q_A R_A \quad \Rightarrow \quad
        \sigma(B A) = \sigma(R_B R_A^\top), \; 0, \dots, 0

    Args:
        up: B, ``[m, k]``.
        down: A, ``[k, n]``.

    Returns:
        ``[min(m, n)]``, the largest first.

    Example:
        >>> spectrum(torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0, 3.0, 0.0]]))
        tensor([6., 0.])
    """
    all_of_them = min(up.shape[0], down.shape[1])
    if up.shape[1] >= all_of_them:
        return dense_spectrum(up, down)
    left, right = torch.linalg.qr(up, mode="r").R, torch.linalg.qr(down.T, mode="r").R
    found = torch.linalg.svdvals(left @ right.T)
    return torch.cat([found, found.new_zeros(all_of_them - len(found))])


def explained(values: Tensor) -> Tensor:
    r"""How much of the variance of singular values goes with the first of them.

    .. math:: g(k) = 1 - \frac{\operatorname{Var}(0, \dots, 0, \sigma_{k+1}, \dots, \sigma_n)}
        {\operatorname{Var}(\sigma_1, \dots, \sigma_n)}

    A variance of values, no energy: their squares are not summed.

    Source: the code of Zhao et al. 2023, arXiv:2306.11250. Differs: where all values are equal, as of a product that is
    0, everything is explained.

    Args:
        values: σ, ``[n]``, the largest first.

    Returns:
        ``[n + 1]``, of k = 0 to n.

    Example:
        >>> explained(torch.tensor([2.0, 0.0])).tolist()
        [0.0, 1.0, 1.0]
    """
    numbers = torch.arange(len(values) + 1, device=values.device)
    left = values.masked_fill(numbers[:-1] < numbers[:, None], 0.0)  # row k: without the first k
    whole = values.var(unbiased=False)
    return torch.where(whole > 0, 1 - left.var(dim=1, unbiased=False) / whole, 1.0)


def next_rank(values: Tensor, rank: int, *, buffer: int, threshold: float, max_rank: int) -> int:
    r"""The rank that a product has need of.

    .. math:: r \leftarrow \min \{ k \in r, r + 1, \dots, \min(r + b, r_{\max} - b) - 1 : g(k) > \tau \}

    or the last k that is tried, if none is enough: it grows by b − 1 at most, and never falls.

    Source: the code of Zhao et al. 2023, arXiv:2306.11250. Differs: no.

    Args:
        values: σ, ``[n]``, of the product of the r + b directions that are trained, the largest first.
        rank: r.
        buffer: b, the directions that are trained beyond the rank.
        threshold: τ, from 0 to 1.
        max_rank: :math:`r_{\max}`.

    Returns:
        r.

    Example:
        >>> next_rank(torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0]), 1, buffer=2, threshold=0.9, max_rank=5)
        2
    """
    tried = range(rank, min(rank + buffer, max_rank - buffer))
    if not tried:
        return rank
    shares = explained(values)[tried.start : tried.stop].tolist()
    return next((k for k, share in zip(tried, shares, strict=False) if share > threshold), tried[-1])


def grown_rank(name: str, up: Tensor, down: Tensor, rank: int, *, buffer: int, threshold: float) -> int:
    """The rank that factors have need of, by their product so far: see :func:`next_rank`. It waits for the device.

    Args:
        name: of the weight, for the sentence of an error.
        up: B, ``[m, r_max]``.
        down: A, ``[r_max, n]``.
        rank: r.
        buffer: b.
        threshold: τ.

    Returns:
        r.

    Raises:
        NumericsError: if they are not finite.
    """
    if rank >= len(down) - buffer:
        return rank
    used = rank + buffer
    left, right = up[:, :used].double(), down[:used].double()
    if not bool(left.isfinite().all() & right.isfinite().all()):
        raise NumericsError(f"the factors of {name!r} are not finite: training has diverged; lower the learning rate")
    return next_rank(spectrum(left, right), rank, buffer=buffer, threshold=threshold, max_rank=len(down))


def truncated(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""The best factors of a lower rank, each with half of the spectrum.

    .. math:: B A = U S V^\top, \quad B \leftarrow U_r S_r^{1/2}, \quad A \leftarrow S_r^{1/2} V_r^\top

    Source: the code of Zhao et al. 2023, arXiv:2306.11250, which so begins its second stage. Differs: no.

    Args:
        up: B, ``[m, k]``.
        down: A, ``[k, n]``.
        rank: r, up to k.

    Returns:
        B ``[m, r]`` and A ``[r, n]``.
    """
    left_basis, left = torch.linalg.qr(up)
    right_basis, right = torch.linalg.qr(down.T)
    left_vectors, values, right_vectors = torch.linalg.svd(left @ right.T)
    root = values[:rank].sqrt()
    return left_basis @ left_vectors[:, :rank] * root, root[:, None] * (right_vectors[:rank] @ right_basis.T)


def most_rank(rows: int, columns: int, asked: int | None) -> int:
    """The largest rank of a matrix's factors: half of its shorter side, or what is asked for.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        asked: a rank, which a small matrix cannot have; ``None`` for half of the shorter side.
    """
    side = min(rows, columns)
    return max(1, side // 2) if asked is None else min(side, asked)
