r"""Norms of weights, fixed or bounded: the equations of FixNorm and MaxNorm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError
from holdfast.sharding import largest, local, sums

__all__ = ["bounded_radius", "cross_boundary_risk", "fix_norm", "max_norm", "norms", "row_norms", "tau_normalised"]


@torch.no_grad()
def norms(weights: Sequence[Tensor]) -> list[Tensor]:
    """The Frobenius norm of each tensor, ``[]``, in float32 or better; of a sharded one, that of the whole."""
    return _norms([local(w).flatten() for w in weights], weights, rows=False)


@torch.no_grad()
def row_norms(weights: Sequence[Tensor]) -> list[Tensor]:
    """The norm of each row (class, filter) of each tensor, ``[n]``, in float32 or better.

    Args:
        weights: each ``[n, ...]``, flattened over all but its rows; of a sharded one, the rows that are here.
    """
    return _norms([local(w).flatten(1) for w in weights], weights, rows=True)


def _norms(parts: list[Tensor], weights: Sequence[Tensor], *, rows: bool) -> list[Tensor]:
    kinds = [torch.promote_types(part.dtype, torch.float32) for part in parts]
    squares = [torch.linalg.vector_norm(x, dim=-1, dtype=k).square() for x, k in zip(parts, kinds, strict=True)]
    return [square.sqrt() for square in sums(squares, weights, rows=rows)]


@torch.no_grad()
def fix_norm(
    weight: Tensor, norm: Tensor | float, *, current: Tensor | None = None, found_inf: Tensor | None = None
) -> None:
    r"""Give a weight a norm, and leave its direction.

    .. math:: W \leftarrow c \, W / \lVert W \rVert_F

    Source: Zhou et al. 2021, arXiv:2103.15345 (abstract; the text could not be read). A weight of norm 0 is left alone.

    Args:
        weight: ``[*p]``; changed. Of a sharded one, the part that is here.
        norm: c, > 0: a number or ``[]``.
        current: its norm now, ``[]``; by default that of what is given.
        found_inf: > 0 if the optimizer skipped its step; then nothing changes, to the last bit.
    """
    here = norms([weight])[0] if current is None else current
    _scale(weight, torch.where(here > 0, norm / here, 1.0), found_inf)


@torch.no_grad()
def max_norm(
    weight: Tensor, radius: Tensor | float, *, current: Tensor | None = None, found_inf: Tensor | None = None
) -> None:
    r"""Project the rows of a weight onto a ball: those that lie within it stay as they are, to the last bit.

    .. math:: \theta_k \leftarrow \min\left(1, \frac{\delta}{\lVert \theta_k \rVert}\right) \theta_k

    Source: Alshammari et al. 2022, arXiv:2203.14197, eqs. 4 and 5. Differs: no.

    Args:
        weight: ``[n, ...]``; changed. A convolution's filter is flattened. Of a sharded one, the rows that are here.
        radius: δ, >= 0: a number or ``[]``.
        current: the norms of the rows, ``[n]``; a single one, ``[]``, bounds the weight as a whole.
        found_inf: > 0 if the optimizer skipped its step; then nothing changes, to the last bit.
    """
    here = row_norms([weight])[0] if current is None else current
    _scale(weight, torch.where(here > radius, radius / here, 1.0), found_inf)


@torch.no_grad()
def tau_normalised(weight: Tensor, tau: float = 1.0) -> Tensor:
    r"""A classifier's weight with its rows divided by a power of their length; one of zeros stays.

    .. math:: \theta_k / \lVert \theta_k \rVert^{\tau}

    Source: Alshammari et al. 2022, arXiv:2203.14197, sec. 4.2 (L2: τ = 1). Differs: no; its release takes the power
    twice where τ is not 1.

    Args:
        weight: ``[n, ...]``, whole. A bias is left alone by those who use this.
        tau: τ, >= 0.

    Returns:
        ``[n, ...]``, a new tensor.
    """
    here = row_norms([weight])[0]
    found = weight.clone()
    _scale(found, torch.where(here > 0, here.pow(-tau), 1.0), None)
    return found


def _scale(weight: Tensor, factor: Tensor, found_inf: Tensor | None) -> None:
    if found_inf is not None:
        factor = torch.where(found_inf.to(factor.device) > 0, 1.0, factor)
    if factor.dim():
        factor = factor.view(-1, *[1] * (weight.dim() - 1))
    weight.mul_(factor)


@torch.no_grad()
def bounded_radius(weight: Tensor, threshold: float) -> Tensor:
    r"""A radius between the smallest and the largest norm of a weight's rows.

    .. math:: \delta = \min_k \lVert \theta_k \rVert + t \,(\max_k \lVert \theta_k \rVert - \min_k \lVert \theta_k
        \rVert)

    Source: the code of Alshammari et al. 2022, arXiv:2203.14197, which takes it of the classifier that its first stage
    has learned. Differs: no.

    Args:
        weight: ``[n, ...]``, whole or sharded.
        threshold: t, from 0 (all rows that are longer end with the smallest norm) to 1 (nothing is bounded).

    Returns:
        ``[]``, on the weight's device.
    """
    found = row_norms([weight])
    most = largest(found, [weight])
    least = most - largest([most - found[0]], [weight])
    return torch.tensor(least + threshold * (most - least), dtype=found[0].dtype, device=found[0].device)


@torch.no_grad()
def cross_boundary_risk(features: Tensor, weight: Tensor, bias: Tensor | None = None, *, epsilon: float) -> Tensor:
    r"""The share of samples whose answer a small move of their features can change.

    .. math:: \min_{j \ne y} \frac{s_y - s_j}{\lVert w_y - w_j \rVert} < \varepsilon \lVert z \rVert,
        \qquad s = W z + b, \quad y = \arg\max_j s_j

    Source: this project; the paper of FixNorm (arXiv:2103.15345) names the risk, and its definition could not be read.

    Args:
        features: z, what the last layer is given, ``[B, D]``.
        weight: W, of the last layer, ``[K, D]``.
        bias: b, ``[K]``.
        epsilon: ε, how far features move, in units of their own norm, >= 0.

    Returns:
        ``[]``, from 0 to 1.

    Raises:
        ConfigurationError: for shapes that do not go together, or a negative ε.

    Example:
        >>> z, w = torch.tensor([[1.0, 0.0], [1.0, 0.9]]), torch.eye(2)
        >>> [float(cross_boundary_risk(z, w, epsilon=epsilon)) for epsilon in (0.01, 0.1, 1.0)]
        [0.0, 0.5, 1.0]
    """
    check_not_negative("epsilon", epsilon)
    if features.dim() != 2 or weight.dim() != 2 or features.shape[1] != weight.shape[1] or len(weight) < 2:
        raise ConfigurationError(
            f"features are {tuple(features.shape)} and weight {tuple(weight.shape)}; expected [B, D] and [K, D], of at "
            "least two classes"
        )
    scores = torch.nn.functional.linear(features, weight, bias)
    best = scores.argmax(1, keepdim=True)
    gaps = scores.gather(1, best) - scores
    apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")[best.squeeze(1)]
    reach = torch.where(apart > 0, gaps / apart, torch.inf).scatter_(1, best, torch.inf)  # alike classes stay alike
    crossed: Tensor = reach.amin(1) < epsilon * torch.linalg.vector_norm(features, dim=1)
    return crossed.to(features.dtype).mean()
