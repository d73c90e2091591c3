"""The CLASSP update, three ways: lists of tensors, cache-sized pieces of large CPU tensors, one compiled pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.pieces import LARGE, compiled, flat_alike, pieces, scratch

__all__ = ["Rule", "accumulator_dtype", "advance"]

Triple = tuple[Tensor, Tensor, Tensor]  # weight, gradient, accumulator


class Rule(NamedTuple):
    """One group's update, resolved from its variant."""

    lr: float
    cut: float  # a weight moves where |g| > cut; at 0 every weight does
    eps: float
    growth: float  # the accumulator grows by |g| ** growth
    root: float  # the step is divided by (eps + s) ** (1 / root)
    scaling: bool


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the accumulator of a parameter: a half precision would stop growing after a few hundred steps.

    Args:
        dtype: the parameter's.

    Returns:
        float32 for a half precision, else ``dtype``.
    """
    return torch.promote_types(dtype, torch.float32)


def advance(
    weights: list[Tensor],
    gradients: list[Tensor],
    sums: list[Tensor],
    rule: Rule,
    *,
    fused: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Advance weights and accumulators in place, by the fastest way that each tensor allows.

    Args:
        weights: parameters, ``[*p]`` each.
        gradients: their gradients, multiplied by ``grad_scale`` if that is given, ``[*p]`` each.
        sums: their accumulators, ``[*p]`` each.
        rule: the group's update.
        fused: use the compiled pass.
        grad_scale: the loss scale, ``[]``.
        found_inf: not zero: an overflow was found and nothing may move, ``[]``.
    """
    rest: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}
    amp = grad_scale is not None or found_inf is not None
    whole: list[Triple] = []
    for w, g, s in zip(weights, gradients, sums, strict=True):
        # A subclass, such as a DTensor, stays with the lists.
        plain, on_cpu, large = type(g) is Tensor and not amp, w.device.type == "cpu", w.numel() >= LARGE
        walkable = plain and large and (on_cpu != fused) and flat_alike(w, g, s)
        if plain and fused and (on_cpu or walkable):
            whole.append((w, g, s))
        elif on_cpu and walkable:
            _sweep(w, g, s, rule)
        else:
            lists = rest.setdefault((w.device, w.dtype), ([], [], []))
            for tensors, tensor in zip(lists, (w, _unscaled(g, s.dtype, grad_scale, found_inf), s), strict=True):
                tensors.append(tensor)
    for ws, gs, ss in rest.values():
        _advance_lists(ws, gs, ss, rule)
    if whole:
        _advance_compiled(whole, rule)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))


def _unscaled(g: Tensor, dtype: torch.dtype, grad_scale: Tensor | None, found_inf: Tensor | None) -> Tensor:
    """The true gradient in the accumulator's precision; all zero if the step must be skipped. No host sync."""
    g = g.to(dtype)
    if grad_scale is not None:
        g = g / grad_scale.to(g.device, non_blocking=True)
    if found_inf is not None:
        g = torch.where(found_inf.to(g.device, non_blocking=True) == 0, g, 0.0)
    return g


def _advance_lists(ws: list[Tensor], gs: list[Tensor], ss: list[Tensor], rule: Rule) -> None:
    """Many tensors with few launches: what CUDA wants, and many small tensors anywhere."""
    if rule.cut > 0.0:
        gs = [torch.hardshrink(g, rule.cut) for g in gs]  # 0 where |g| <= cut; a NaN stays to be seen
    if rule.growth == 2.0:
        torch._foreach_addcmul_(ss, gs, gs)
    else:
        grown = torch._foreach_abs(gs)
        if rule.growth != 1.0:
            torch._foreach_pow_(grown, rule.growth)
        torch._foreach_add_(ss, grown)
    if not rule.scaling:
        torch._foreach_add_(ws, gs, alpha=-rule.lr)
        return
    divisors = torch._foreach_add(ss, rule.eps)
    if rule.root == 1.0:
        torch._foreach_addcdiv_(ws, gs, divisors, value=-rule.lr)
    else:
        torch._foreach_pow_(divisors, -1.0 / rule.root)
        torch._foreach_addcmul_(ws, gs, divisors, value=-rule.lr)


def _sweep(w: Tensor, g: Tensor, s: Tensor, rule: Rule) -> None:
    """One large CPU tensor, piece by piece: memory is read once, later operations find the piece in the cache."""
    for wp, gp, sp in pieces(w, g, s):
        if rule.cut > 0.0 and _nothing_passes(gp, rule.cut):
            continue
        gate, work = (scratch(sp.numel(), sp.dtype, number) for number in (0, 1))
        if gp.dtype != sp.dtype:
            gp = gate.copy_(gp)
        if rule.cut > 0.0:
            gp = torch.hardshrink(gp, rule.cut, out=gate)
        if rule.growth == 2.0:
            sp.addcmul_(gp, gp)
        else:
            torch.abs(gp, out=work)
            if rule.growth != 1.0:
                work.pow_(rule.growth)
            sp.add_(work)
        if not rule.scaling:
            wp.add_(gp, alpha=-rule.lr)
            continue
        torch.add(sp, rule.eps, out=work)
        if rule.root == 1.0:
            wp.addcdiv_(gp, work, value=-rule.lr)
        else:
            wp.addcmul_(gp, work.pow_(-1.0 / rule.root), value=-rule.lr)


def _nothing_passes(g: Tensor, cut: float) -> bool:
    """Whether the whole piece stays where it is, as most do at a high threshold: that saves all but one of the passes.

    Its head is looked at first: where many weights pass, that is enough to know.
    """
    for part in (g[:4096], g):
        # Not `max > cut or min < -cut`: a NaN is to be seen, so it passes.
        if not (part.amax().item() <= cut and part.amin().item() >= -cut):
            return False
    return True


def _advance_compiled(tensors: list[Triple], rule: Rule) -> None:
    """Each tensor in one pass over memory."""
    kind = (rule.cut > 0.0, rule.growth, rule.root, rule.scaling)
    scalars = [torch.tensor(value, dtype=torch.float64) for value in (rule.lr, rule.cut, rule.eps)]
    on_cpu = [each for each in tensors if each[0].device.type == "cpu"]
    if on_cpu:
        # All in one call, for a call costs as much as a pass over 100,000 weights; compiled for just these shapes.
        _compiled(*kind, dynamic=False)(on_cpu, *scalars)
    for w, g, s in tensors:
        if w.device.type != "cpu":
            # `data` is no view: of a view the compiler would look at the base's shape, and compile for each shape anew.
            _compiled(*kind, dynamic=True)([(_flat(w).data, _flat(g).data, _flat(s).data)], *scalars)
            torch.autograd.graph.increment_version(w)  # which writing through `data` does not


@functools.cache
def _compiled(
    gated: bool, growth: float, root: float, scaling: bool, *, dynamic: bool
) -> Callable[[list[Triple], Tensor, Tensor, Tensor], None]:
    """The whole update as one kernel; what a schedule changes stays a tensor argument, so that it never recompiles."""

    def update(walked: list[Triple], lr: Tensor, cut: Tensor, eps: Tensor) -> None:
        for w, g, s in walked:
            h = g.to(s.dtype)
            size = h.abs()
            if gated:
                # `~(<=)`, not `>`: a NaN stays to be seen.
                h = torch.where(~(size <= cut), h, 0.0)
                size = h.abs()
            total = s + (size if growth == 1.0 else h * h if growth == 2.0 else size.pow(growth))
            s.copy_(total)
            divisor = total + eps
            if not scaling:
                change = lr * h
            elif root == 1.0:
                change = lr * h / divisor
            else:
                change = lr * h * (divisor.rsqrt() if root == 2.0 else divisor.pow(-1.0 / root))
            w.copy_(w - change)

    return compiled(update, dynamic=dynamic)
