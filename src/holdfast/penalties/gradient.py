"""The gradient of a quadratic penalty: as it reads, over lists of tensors, and in pieces that fit the cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.pieces import LARGE, PIECE, flat_alike, pieces

__all__ = ["add_quadratic_gradient", "add_quadratic_gradient_plainly"]


@torch.no_grad()
def add_quadratic_gradient_plainly(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    anchors: Sequence[Tensor],
    importances: Sequence[Tensor] | None,
    factor: float,
    grad_scale: Tensor | None = None,
) -> None:
    """The plain twin of :func:`add_quadratic_gradient`, which also knows every mix of precisions."""
    for i, (p, g, a) in enumerate(zip(params, grads, anchors, strict=True)):
        pull_back = (p.to(a.dtype) - a).mul_(2 * factor)
        if importances is not None:
            pull_back.mul_(importances[i])
        if grad_scale is not None:
            pull_back.mul_(grad_scale)
        g.add_(pull_back.to(g.dtype))


@torch.no_grad()
def add_quadratic_gradient(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    anchors: Sequence[Tensor],
    importances: Sequence[Tensor] | None,
    factor: float,
    grad_scale: Tensor | None = None,
) -> None:
    r"""Add the gradient of a quadratic penalty to ``grads``, in place.

    .. math:: g_i \leftarrow g_i + 2 a F_i (\theta_i - \theta_i^*)

    Large CPU tensors are walked in pieces: five streams over memory (θ, θ*, F and g read, g written) and no temporary.
    The rest go through ``torch._foreach_*``, one precision at a time.

    Args:
        params: the weights, each ``[*p]``.
        grads: their gradients, each ``[*p]``; changed.
        anchors: where the weights should stay, each ``[*p]``.
        importances: how much each weight matters, each ``[*p]``; ``None`` for 1 everywhere.
        factor: ``a``, >= 0.
        grad_scale: what ``grads`` are multiplied by, ``[]``; ``None`` for 1.
    """
    listed: list[int] = []
    scratch: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
    for i, p in enumerate(params):
        held = (anchors[i],) if importances is None else (anchors[i], importances[i])
        walked = grad_scale is None and p.numel() >= LARGE and p.device.type == "cpu"
        if walked and flat_alike(p, grads[i], *held):
            _walk(p, grads[i], *held, factor=factor, scratch=scratch)
        elif p.dtype == grads[i].dtype == anchors[i].dtype:
            listed.append(i)
        else:
            one = slice(i, i + 1)
            weights = None if importances is None else importances[one]
            add_quadratic_gradient_plainly(params[one], grads[one], anchors[one], weights, factor, grad_scale)
    if listed:
        weights = None if importances is None else [importances[i] for i in listed]
        _add_lists(
            [params[i] for i in listed],
            [grads[i] for i in listed],
            [anchors[i] for i in listed],
            weights,
            factor,
            grad_scale,
        )


def _add_lists(
    params: list[Tensor],
    grads: list[Tensor],
    anchors: list[Tensor],
    importances: list[Tensor] | None,
    factor: float,
    grad_scale: Tensor | None,
) -> None:
    """Many tensors with few launches: what CUDA wants, and small tensors anywhere."""
    distances = torch._foreach_sub(params, anchors)
    if grad_scale is not None:
        torch._foreach_mul_(distances, grad_scale)
    if importances is not None and any(w.dtype != d.dtype for w, d in zip(importances, distances, strict=True)):
        torch._foreach_mul_(distances, importances)  # multiplication mixes precisions without a copy
        importances = None
    if importances is None:
        torch._foreach_add_(grads, distances, alpha=2 * factor)
    else:
        torch._foreach_addcmul_(grads, distances, importances, value=2 * factor)


def _walk(
    param: Tensor,
    grad: Tensor,
    anchor: Tensor,
    importance: Tensor | None = None,
    *,
    factor: float,
    scratch: dict[torch.dtype, tuple[Tensor, Tensor]],
) -> None:
    """One large CPU tensor in pieces; what does not have the anchor's precision is converted within the piece."""
    dtype = anchor.dtype
    if dtype not in scratch:
        scratch[dtype] = (torch.empty(PIECE, dtype=dtype), torch.empty(PIECE, dtype=dtype))
    held = (anchor,) if importance is None else (anchor, importance)
    for p, g, a, *weights in pieces(param.detach(), grad, *held):
        distance, converted = (memory[: p.numel()] for memory in scratch[dtype])
        torch.sub(p if p.dtype == dtype else distance.copy_(p), a, out=distance)
        if not weights:
            g.add_(distance, alpha=2 * factor)
            continue
        w = weights[0] if weights[0].dtype == dtype else converted.copy_(weights[0])
        if g.dtype == dtype:
            g.addcmul_(distance, w, value=2 * factor)
        else:
            g.add_(distance.mul_(w), alpha=2 * factor)
