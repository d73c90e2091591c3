r"""Two softmaxes apart in other ways than KL(old ‖ new): the other direction, and without the target.

.. math:: \mathrm{KL}(p \Vert p^*) = \sum_k p_k (\log p_k - \log p^*_k), \qquad p = \mathrm{softmax}(f / T)

Without the target both are taken over all other answers, each renormalised: there the old model's opinion of the target
does not work against the cross-entropy that learns it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.objectives.walked import Unfinished, none_counts, pieces, taught, walked

__all__ = ["Direction", "directed_divergence", "reverse_divergence", "without_targets"]

Direction: TypeAlias = Literal["forward", "reverse"]

_PIECE = 2**20  # numbers that are worked off at once


def reverse_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""How surprised the teacher is by the student's softened answer.

    .. math:: \mathrm{KL}(p \Vert p^*) = \sum_k p_k (\log p_k - \log p^*_k), \qquad p = \mathrm{softmax}(f / T)

    Source: the penalty of Ziegler et al. 2019, arXiv:1909.08593, eq. 2, in full instead of one draw. Differs: no.

    Args:
        student: outputs ``[..., K]``; where one is minus infinity, that answer plays no part.
        teacher: outputs ``[..., K]``; likewise.
        temperature: T, > 0.

    Returns:
        ``[...]``, in nats, >= 0; without the factor T².
    """
    closed = student.isneginf() | teacher.isneginf()
    log_p, log_q = ((f / temperature).masked_fill(closed, -torch.inf).log_softmax(-1) for f in (student, teacher))
    log_p, log_q = log_p.masked_fill(closed, 0), log_q.masked_fill(closed, 0)
    return (log_p.exp().masked_fill(closed, 0) * (log_p - log_q)).sum(-1)


def without_targets(outputs: Tensor, targets: Tensor | None) -> Tensor:
    """Outputs ``[..., K]`` in which the target ``[...]`` cannot be answered; where it is none (< 0), as they are."""
    if targets is None:
        return outputs
    there = targets.unsqueeze(-1)
    lowest = torch.where(there < 0, outputs.gather(-1, there.clamp(min=0)), -torch.inf)
    return outputs.scatter(-1, there.clamp(min=0), lowest)


def directed_divergence(
    student: Tensor,
    teacher: Tensor | Unfinished,
    valid: Tensor,
    temperature: float,
    view: Callable[[Tensor], Tensor] = lambda outputs: outputs,
    *,
    direction: Direction = "forward",
    targets: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:
    r"""The mean over positions of KL(old ‖ new) or KL(new ‖ old), over all answers or all but the targets.

    Twins: :func:`~holdfast.objectives.distributions.softmax_divergence` and :func:`reverse_divergence` of what
    :func:`without_targets` leaves, averaged. Like :func:`~holdfast.objectives.walked.walked_divergence`, which it
    equals forward and with all answers, it goes piece by piece: only its gradient is as large as the outputs.

    Source: without the target: "Mask the Target" 2026, arXiv:2605.29498. Differs: no.

    Args:
        student: f, ``[B, T, K]``; at least as many outputs as the teacher has, of which the first are compared.
        teacher: likewise, or what makes it; where one is minus infinity, that answer plays no part.
        valid: which of the positions count, bool ``[B, P]``. Whatever stands at the others is left out.
        temperature: T, > 0.
        view: which tokens ``[B, T, ...]`` are the positions ``[B, P, ...]``; has to return a view.
        direction: ``"forward"`` is KL(old ‖ new).
        targets: left out of both, ``[B, P]``; < 0 is none. ``None`` leaves nothing out.
        weight: what all is multiplied by.

    Returns:
        Scalar ``[]`` in nats, at least in float32; without the factor T².
    """
    walk = _Walk(student.detach(), teacher, valid, temperature, view, direction, targets, weight)
    return walked(student, walk)


@dataclass(frozen=True)
class _Walk:
    """A way through all positions, with the arguments of :func:`directed_divergence`."""

    student: Tensor
    teacher: Tensor | Unfinished
    valid: Tensor
    temperature: float
    view: Callable[[Tensor], Tensor]
    direction: Direction
    targets: Tensor | None
    weight: float

    @torch.no_grad()
    def all(self, *, gradients: bool) -> tuple[Tensor, Tensor | None]:
        """The value; if asked for, its gradient with respect to the student's outputs."""
        dtype = torch.promote_types(self.student.dtype, torch.float32)
        known = self.teacher.shape[-1]
        value = self.valid.new_zeros((), dtype=dtype)
        share = self.weight / self.valid.sum().clamp(min=1).to(dtype)
        gradient = torch.zeros_like(self.student) if gradients else None
        students = self.view(self.student)[..., :known]
        into = None if gradient is None else self.view(gradient)[..., :known]
        teachers = taught(self.teacher, self.view)
        for piece in pieces(self.valid, known, _PIECE):
            if none_counts(self.valid[piece]):
                continue
            unused = ~self.valid[piece]
            targets = None if self.targets is None else self.targets[piece]
            new, old = (
                without_targets(f.to(dtype) / self.temperature, targets) for f in (students[piece], teachers(piece))
            )
            each, pull = _apart(new, old, self.direction)
            value += each.masked_fill(unused, 0).sum()
            if into is not None:
                into[piece] = pull.mul_(share / self.temperature).masked_fill_(unused.unsqueeze(-1), 0)
        return value * share, gradient


def _apart(new: Tensor, old: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    r"""How far apart two softmaxes are ``[...]``, and the gradient with respect to the new one's outputs ``[..., K]``.

    .. math:: \partial_f \mathrm{KL}(p^* \Vert p) = p - p^*, \qquad
        \partial_f \mathrm{KL}(p \Vert p^*) = p \bigl(\log p - \log p^* - \mathrm{KL}(p \Vert p^*)\bigr)
    """
    if direction == "reverse":
        new, old = new.masked_fill(old.isneginf(), -torch.inf), old.masked_fill(new.isneginf(), -torch.inf)
    log_p, log_q = new.log_softmax(-1), old.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    apart = (log_q - log_p).masked_fill_(log_q.isneginf(), 0)
    if direction == "forward":
        return (q * apart).sum(-1), p - q
    apart.neg_()
    each = (p * apart).sum(-1)
    return each, p * (apart - each.unsqueeze(-1))
