"""The gradient of a quadratic penalty: as it reads, over lists, in pieces that fit the cache, and compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holdfast.pieces import LARGE, PIECE, compiled, flat_alike, neighbours, pieces, scratch

__all__ = ["AT_ONCE", "add_quadratic_gradient", "add_quadratic_gradient_plainly"]

AT_ONCE = 1 << 24
"""Entries of which there are temporaries at once, off the CPU, unless one tensor has more: 64 MiB of float32."""


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
    *,
    fused: bool = False,
) -> None:
    r"""Add the gradient of a quadratic penalty to ``grads``, in place.

    .. math:: g_i \leftarrow g_i + 2 a F_i (\theta_i - \theta_i^*)

    Large CPU tensors are walked in pieces: five streams over memory (θ, θ*, F and g read, g written) and no temporary
    beyond a piece, which is kept. The rest go through ``torch._foreach_*``, one precision at a time, so many at a time
    that together they have a piece, or :data:`AT_ONCE` off the CPU.

    Args:
        params: the weights, each ``[*p]``.
        grads: their gradients, each ``[*p]``; changed.
        anchors: where the weights should stay, each ``[*p]``.
        importances: how much each weight matters, each ``[*p]``; ``None`` for 1 everywhere.
        factor: ``a``, >= 0.
        grad_scale: what ``grads`` are multiplied by, ``[]``; ``None`` for 1.
        fused: compile one pass over memory.
    """
    whole: list[tuple[Tensor, ...]] = []
    listed: list[int] = []
    for i, p in enumerate(params):
        held = (anchors[i],) if importances is None else (anchors[i], importances[i])
        walks = p.device.type == "cpu" and grad_scale is None and p.numel() >= LARGE
        if fused and _worth_compiling(p, grads[i], *held):
            whole.append((p, grads[i], *held))
        elif walks and flat_alike(p, grads[i], *held):
            _walk(p, grads[i], *held, factor=factor)
        elif p.dtype == grads[i].dtype == anchors[i].dtype:
            listed.append(i)
        else:
            one = slice(i, i + 1)
            weights = None if importances is None else importances[one]
            add_quadratic_gradient_plainly(params[one], grads[one], anchors[one], weights, factor, grad_scale)
    if whole:
        _add_compiled(whole, factor, grad_scale)
    # Many at once where a launch is what costs; on the CPU so many that their temporaries are a piece, used again.
    room = {True: PIECE, False: AT_ONCE}
    sizes = [params[i].numel() / room[params[i].device.type == "cpu"] for i in listed]
    for run in neighbours(sizes, 1):
        group = listed[run]
        weights = None if importances is None else [importances[i] for i in group]
        _add_lists(
            [params[i] for i in group],
            [grads[i] for i in group],
            [anchors[i] for i in group],
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
) -> None:
    """One large CPU tensor in pieces; what does not have the anchor's precision is converted within the piece."""
    dtype = anchor.dtype
    held = (anchor,) if importance is None else (anchor, importance)
    for p, g, a, *weights in pieces(param.detach(), grad, *held):
        distance = scratch(p.numel(), dtype)
        torch.sub(p if p.dtype == dtype else distance.copy_(p), a, out=distance)
        if not weights:
            g.add_(distance, alpha=2 * factor)
            continue
        w = weights[0] if weights[0].dtype == dtype else scratch(p.numel(), dtype, 1).copy_(weights[0])
        if g.dtype == dtype:
            g.addcmul_(distance, w, value=2 * factor)
        else:
            g.add_(distance.mul_(w), alpha=2 * factor)


def _worth_compiling(*tensors: Tensor) -> bool:
    """On the CPU everything is one call; elsewhere each is a call of its own, for flat memory of any length."""
    if tensors[0].device.type == "cpu":
        return all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
    return tensors[0].numel() >= LARGE and flat_alike(*tensors)


def _add_compiled(tensors: list[tuple[Tensor, ...]], factor: float, grad_scale: Tensor | None) -> None:
    """Each tensor in one pass over memory."""
    # A tensor, so that another strength does not compile anew.
    scale = torch.tensor(2 * factor, dtype=torch.float64) if grad_scale is None else 2 * factor * grad_scale
    on_cpu = [held for held in tensors if held[0].device.type == "cpu"]
    if on_cpu:
        # All in one call, for a call costs as much as a pass over 100,000 weights; compiled for just these shapes.
        _compiled(dynamic=False)(on_cpu, scale)
    for held in tensors:
        if held[0].device.type != "cpu":
            # `data` is no view: of a view the compiler would look at the base's shape, and compile for each shape anew.
            row = tuple(t.as_strided((t.numel(),), (1,)).data for t in held)
            _compiled(dynamic=True)([row], scale)
            torch.autograd.graph.increment_version(held[1])  # which writing through `data` does not


@functools.cache
def _compiled(*, dynamic: bool) -> Callable[[list[tuple[Tensor, ...]], Tensor], None]:
    def update(tensors: list[tuple[Tensor, ...]], scale: Tensor) -> None:
        for p, g, anchor, *importance in tensors:
            distance = p.to(anchor.dtype) - anchor
            weighed = distance * importance[0].to(anchor.dtype) if importance else distance
            g.copy_(g.to(anchor.dtype) + scale * weighed)

    return compiled(update, dynamic=dynamic)
