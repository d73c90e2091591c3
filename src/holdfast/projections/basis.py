r"""Which directions old inputs span: bases of subspaces, from inputs or from their covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError, NumericsError

__all__ = [
    "check_threshold",
    "extend_basis",
    "extend_basis_of",
    "extend_rows",
    "null_basis",
    "preserved_basis",
    "project",
    "scaled_importance",
]


def check_threshold(name: str, value: float) -> float:
    """A share of energy, more than 0 and at most 1.

    Raises:
        ConfigurationError: naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigurationError(f"{name} is {value!r}; expected a share of energy, more than 0 and at most 1")
    return float(value)


def project(gradient: Tensor, basis: Tensor, importance: Tensor | None = None) -> Tensor:
    r"""What of a gradient, or of a step, old inputs do not see.

    .. math:: g \leftarrow g - g M M^\top, \qquad \text{or } g - g M \operatorname{diag}(\lambda) M^\top

    Source: Saha et al. 2021 (GPM), arXiv:2103.09762, eq. 6; with importances Saha and Roy 2023 (SGP), arXiv:2302.01386.
    Differs: no.

    Args:
        gradient: g, its inputs last: ``[o, d]``.
        basis: M, orthonormal columns: ``[d, k]``.
        importance: λ, from 0 to 1, ``[k]``; ``None`` for 1 everywhere.

    Returns:
        ``[o, d]``.
    """
    along = gradient @ basis
    return gradient - (along if importance is None else along * importance) @ basis.mT


def extend_basis(basis: Tensor | None, inputs: Tensor, *, threshold: float) -> Tensor:
    r"""The fewest directions that hold a share of the inputs' energy, added to those held already.

    .. math:: \lVert M M^\top R \rVert_F^2 \ge \varepsilon \lVert R \rVert_F^2

    New directions are the left singular vectors of :math:`R - M M^\top R`, largest first.

    Source: Saha et al. 2021 (GPM), arXiv:2103.09762, eq. 5 and 9. Differs: no; the release has one direction fewer for
        the
    first task.

    Args:
        basis: M before, ``[d, k]``; ``None`` for the first task.
        inputs: R, ``[d, n]``.
        threshold: ε, more than 0 and at most 1.

    Returns:
        M, orthonormal columns ``[d, k']``, the old ones first.

    Raises:
        ConfigurationError: for a threshold that is no share.
        DataError: if shapes do not fit.
        NumericsError: if an input is not finite.

    Example:
        >>> inputs = torch.diag(torch.tensor([3.0, 2.0, 0.1]))
        >>> extend_basis(None, inputs, threshold=0.99).shape
        torch.Size([3, 2])
    """
    if inputs.dim() != 2:
        raise DataError(f"inputs have shape {tuple(inputs.shape)}; expected [d, n]")
    check_threshold("threshold", threshold)
    held = inputs.new_zeros(len(inputs), 0) if basis is None else basis
    _check(held, inputs)
    rest = inputs - held @ (held.mT @ inputs)
    vectors, values, _ = torch.linalg.svd(rest, full_matrices=False)
    return _extended(held, vectors, values.square(), float(inputs.square().sum()), threshold)


def extend_basis_of(basis: Tensor | None, covariance: Tensor, *, threshold: float) -> Tensor:
    r"""The same from :math:`C = R R^\top` alone, which takes no more room however many inputs there were.

    The plain twin is :func:`extend_basis`. Squaring halves the digits: directions below 1e-8 of the largest are noise.

    Args:
        basis: as for :func:`extend_basis`.
        covariance: C, ``[d, d]``.
        threshold: as for :func:`extend_basis`.
    """
    held = covariance.new_zeros(len(covariance), 0) if basis is None else basis
    _check(held, covariance)
    rest = covariance - held @ (held.mT @ covariance)
    rest = rest - (rest @ held) @ held.mT
    values, vectors = torch.linalg.eigh((rest + rest.mT) / 2)
    total = float(covariance.diagonal().sum())
    return _extended(held, vectors.flip(1), values.flip(0).clamp_min(0), total, threshold)


def _check(held: Tensor, inputs: Tensor) -> None:
    if len(held) != len(inputs):
        raise DataError(f"the basis has {len(held)} rows; expected {len(inputs)}, as the inputs")
    if not bool(inputs.isfinite().all()):
        raise NumericsError("an input is not finite; expected finite ones")


def _extended(held: Tensor, vectors: Tensor, energy: Tensor, total: float, threshold: float) -> Tensor:
    """Directions, largest first, until the share is reached; never more than what is left of the space."""
    room = len(held) - held.shape[1]
    if total <= 0 or room == 0:
        return held
    missing = threshold * total - (total - float(energy.sum()))
    reached = energy[:room].cumsum(0)
    # Energy in the last digits of the largest direction is rounding, which a threshold of 1 would otherwise ask for.
    rounding = len(held) * torch.finfo(held.dtype).eps
    new = int((reached < missing - rounding * total).sum()) + 1 if missing > rounding * total else 0
    new = min(new, int((energy[:room] > rounding * energy[0]).sum()))
    found = vectors[:, :new]
    # What rounding left of the old directions in the new ones is taken out once more.
    found = found - held @ (held.mT @ found)
    return torch.cat([held, torch.linalg.qr(found).Q if new else found], 1)


def extend_rows(rows: Tensor | None, counts: Tensor, *, threshold: float) -> Tensor:
    """The same for rows that are looked up: each is a direction of its own, and its energy is how often it was used.

    Args:
        rows: those held before, bool ``[V]``; ``None`` for the first task.
        counts: ``[V]``.
        threshold: the share of all look-ups.

    Returns:
        bool ``[V]``.
    """
    held = torch.zeros_like(counts, dtype=torch.bool) if rows is None else rows
    order = torch.where(held, -1.0, counts).argsort(descending=True, stable=True)
    missing = threshold * float(counts.sum()) - float(counts[held].sum())
    if missing <= 0:
        return held
    rest = torch.where(held, 0.0, counts)[order]
    new = min(int((rest.cumsum(0) < missing - 1e-9).sum()) + 1, int((rest > 0).sum()))
    found = held.clone()
    found[order[:new]] = True
    return found


def scaled_importance(known: Tensor | None, energy: Tensor, *, alpha: float) -> Tensor:
    r"""How much of a step along each direction is taken away.

    .. math:: \lambda_i = \frac{(\alpha + 1)\, s_i}{\alpha s_i + \max_j s_j}, \qquad
        \lambda \leftarrow \min(1, \lambda_{\text{old}} + \lambda)

    Source: Saha and Roy 2023 (SGP), arXiv:2302.01386, with singular values s as in the release. Differs: no.

    Args:
        known: λ of the directions held before, which come first: ``[k]``; ``None`` for the first task.
        energy: s² of all directions under the new task's inputs, ``[k']``.
        alpha: α, >= 0.

    Returns:
        λ, ``[k']``.
    """
    s = energy.clamp_min(0).sqrt()
    found = (alpha + 1) * s / (alpha * s + s.max()).clamp_min(1e-300)
    if known is not None:
        found = torch.cat([known + found[: len(known)], found[len(known) :]])
    return found.clamp_max(1)


def preserved_basis(covariance: Tensor, *, threshold: float) -> Tensor:
    """The fewest eigenvectors with a share of the inputs' energy: ``[d, k]``; the rest is the null space.

    Args:
        covariance: the uncentred covariance of all inputs so far, or any multiple of it: ``[d, d]``.
        threshold: the share.
    """
    return extend_basis_of(None, covariance, threshold=threshold)


def null_basis(covariance: Tensor, *, multiple: float) -> Tensor:
    r"""The null space as the paper has it: eigenvectors of eigenvalues up to a multiple of the smallest.

    .. math:: \lambda_i \le a\, \lambda_{\min}

    Source: Wang et al. 2021 (Adam-NSCL), arXiv:2103.07113, sec. 4.3. Differs: the smallest eigenvalue counts as 1e-12
        of the
    largest at least, since it is 0, or a rounding error, wherever inputs do not span the space.

    Args:
        covariance: ``[d, d]``.
        multiple: a, >= 1.

    Returns:
        ``[d, k]``.
    """
    values, vectors = torch.linalg.eigh(covariance)
    smallest = max(float(values[0]), 1e-12 * float(values[-1].clamp_min(0)))
    found: Tensor = vectors[:, values <= multiple * smallest]
    return found
