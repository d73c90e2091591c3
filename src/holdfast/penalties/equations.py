r"""What a quadratic penalty is, as its equations read: its value, its implicit step, and the sum of two as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.sharding import local, total

__all__ = ["fold", "move_towards", "pull", "quadratic_penalty"]


def quadratic_penalty(
    params: Sequence[Tensor], anchors: Sequence[Tensor], importances: Sequence[Tensor] | None, factor: float
) -> Tensor:
    r"""Importance-weighted squared distance from the anchor.

    .. math:: a \sum_i F_i (\theta_i - \theta_i^*)^2

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3 (with :math:`a = \lambda/2`). Differs: no.

    Args:
        params: the weights, each ``[*p]``; sharded ones by their parts on all processes.
        anchors: where they should stay, each ``[*p]``, or the part of it that is here.
        importances: how much each weight matters, each ``[*p]`` or the part of it, >= 0; ``None`` for 1 everywhere.
        factor: ``a``, >= 0.

    Returns:
        Scalar ``[]``, in loss units; differentiable in ``params``.
    """
    parts = []
    for i, (p, anchor) in enumerate(zip(params, anchors, strict=True)):
        distance = local(p).to(anchor.dtype) - anchor
        weighted = distance if importances is None else distance * importances[i].to(anchor.dtype)
        parts.append((weighted * distance).sum())
    return factor * total(parts, params)


@torch.no_grad()
def pull(param: Tensor, anchor: Tensor, stiffness: Tensor | float, found_inf: Tensor | None = None) -> None:
    r"""Implicit step on the quadratic penalty: stable at any strength.

    .. math:: \theta \leftarrow \theta^* + \frac{\theta - \theta^*}{1 + k}, \qquad k = 2 a D F

    Equals the gradient form only to first order in the learning rate, and only under plain SGD; the two rest
    at the same point. ``k = 0`` leaves the weight alone to the last bit, ``k = inf`` gives the anchor.

    Args:
        param: the weights, ``[*p]``; changed.
        anchor: where they should stay, ``[*p]``.
        stiffness: ``k``, a number, ``[]`` or ``[*p]``, >= 0.
        found_inf: > 0 if the optimizer skipped its step; then nothing is pulled.
    """
    if not isinstance(stiffness, Tensor):  # filled on the device: copying a number there would wait for it
        stiffness = torch.full((), stiffness, dtype=anchor.dtype, device=anchor.device)
    k = stiffness.to(anchor)
    move_towards(param, anchor, 1 / (1 + 1 / k), found_inf)  # k / (1 + k), exact at 0 and at infinity


@torch.no_grad()
def move_towards(param: Tensor, anchor: Tensor, weight: Tensor | float, found_inf: Tensor | None = None) -> None:
    r"""Go a share of the way to the anchor.

    .. math:: \theta \leftarrow \theta + w (\theta^* - \theta)

    Args:
        param: the weights, ``[*p]``; changed. In a half precision, the sum is taken in the anchor's.
        anchor: ``[*p]``.
        weight: ``w``, from 0 (nothing changes, to the last bit) to 1 (the anchor); a number, ``[]`` or ``[*p]`` of the
            anchor's type.
        found_inf: > 0 if the optimizer skipped its step; then nothing moves.
    """
    if found_inf is not None:
        if not isinstance(weight, Tensor):
            weight = torch.full((), weight, dtype=anchor.dtype, device=anchor.device)
        weight = torch.where(found_inf.to(weight.device) > 0, 0.0, weight)
    if param.dtype == anchor.dtype:
        param.lerp_(anchor, weight)
    else:
        param.copy_(param.to(anchor.dtype).lerp(anchor, weight))


def fold(
    anchor: Tensor, importance: Tensor, new_anchor: Tensor, new_importance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One quadratic penalty that equals the sum of two, up to a constant.

    .. math:: F' = \bar F + F_t,\quad \bar\theta' = \bar\theta + r(\theta_t - \bar\theta),\quad r = F_t / F'

    Exact for any number of tasks, so many-task EWC costs two tensors per parameter.

    Args:
        anchor: of the penalties so far, ``[*p]``.
        importance: of the penalties so far, ``[*p]``, >= 0.
        new_anchor: of the penalty to add, ``[*p]``.
        new_importance: of the penalty to add, ``[*p]``, >= 0.

    Returns:
        ``(anchor, importance, constant)``: the folded penalty and the ``[]`` that must be added to its sum.
    """
    total = importance + new_importance
    share = torch.where(total > 0, new_importance / total, torch.zeros_like(total))
    gap = new_anchor - anchor
    constant = (importance * share * gap.square()).sum()
    folded = torch.where(total > 0, anchor + share * gap, new_anchor)
    return folded, total, constant
