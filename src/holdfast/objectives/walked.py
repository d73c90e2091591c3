r"""The distance of two softmaxes over many outputs, walked in pieces that fit the processor's cache.

A language model's outputs ``[B, T, V]`` are by far its largest tensor. Written with PyTorch's own functions, the
distance (:func:`~holdfast.objectives.distributions.softmax_divergence`) makes half a dozen more of that size.
Here a piece of the positions is worked off at a time: the teacher's outputs are made from what its last layer is given,
used and forgotten, and the gradient is the only thing that is as large as the student's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Unfinished", "walked_divergence"]

_Piece: TypeAlias = tuple[slice, slice]  # rows and positions

_BLOCK = 2**21  # numbers that a teacher's last layer makes at once: 8 MiB of float32
_PIECE = 2**18  # numbers that are worked off at once: 1 MiB
_HELD = 2**24  # up to so many numbers the gradient is kept for the backward pass, which otherwise makes it anew


@dataclass(frozen=True)
class Unfinished:
    r"""Outputs :math:`h W^\top + b` that are not made before they are needed, and never all at once.

    Attributes:
        hidden: h, what the last layer is given, ``[B, T, D]``.
        weight: W, ``[K, D]``.
        bias: b, ``[K]``, or ``None``.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def shape(self) -> torch.Size:
        """That of the outputs, ``[B, T, K]``."""
        return torch.Size((*self.hidden.shape[:-1], len(self.weight)))

    def part(self, view: Callable[[Tensor], Tensor]) -> Callable[[_Piece], Tensor]:
        """Positions -> outputs there; ``view`` picks, of all tokens, those that are positions."""
        hidden = view(self.hidden)

        def outputs(piece: _Piece) -> Tensor:
            given = hidden[piece]
            flat = F.linear(given.reshape(-1, given.shape[-1]), self.weight, self.bias)  # one product, not one a row
            return flat.view(*given.shape[:-1], -1)

        return outputs


def walked_divergence(
    student: Tensor,
    teacher: Tensor | Unfinished,
    valid: Tensor,
    temperature: float,
    view: Callable[[Tensor], Tensor] = lambda outputs: outputs,
) -> Tensor:
    r"""How surprised a student is by a teacher's softened answers, on average over positions.

    .. math:: \frac{1}{N} \sum_i \mathrm{KL}(p^*_i \Vert p_i), \qquad p = \mathrm{softmax}(f / T)

    Its gradient with respect to f is :math:`(p_i - p^*_i) / (T N)`. Twin:
    :func:`~holdfast.objectives.distributions.softmax_divergence`, averaged.

    Args:
        student: f, ``[B, T, K]``; at least as many outputs as the teacher has, of which the first are compared.
        teacher: likewise, or what makes it; where one is minus infinity, that answer plays no part.
        valid: which of the positions count, bool ``[B, P]``; N do. Whatever stands at the others is left out.
        temperature: T, > 0.
        view: which tokens ``[B, T, ...]`` are the positions ``[B, P, ...]``; has to return a view.

    Returns:
        Scalar ``[]`` in nats, at least in float32, >= 0 but for rounding; without the factor T².
    """
    walk = _Walk(student.detach(), teacher, valid, temperature, view)
    found: Tensor = _Walked.apply(student, walk)  # type: ignore[no-untyped-call]  # torch's own gap
    return found


class _Walked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, walk: _Walk) -> Tensor:
        number = walk.valid.sum().clamp(min=1).to(walk.dtype)
        ctx.held = ctx.needs_input_grad[0] and student.numel() <= _HELD
        value, gradient = walk.all(gradients=ctx.held)
        ctx.save_for_backward(student if gradient is None else gradient, 1 / (walk.temperature * number))
        if not ctx.held:
            ctx.walk, ctx.autocast = walk, _autocast(student.device.type)
        return value / number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None]:
        saved, scale = ctx.saved_tensors
        factor = (factor * scale).to(saved.dtype)
        if ctx.held:
            return saved * factor, None
        with ctx.autocast():
            _, gradient = ctx.walk.all(gradients=True)
        return gradient.mul_(factor), None


def _autocast(device: str) -> Callable[[], torch.autocast]:
    """The autocast of now, for the backward pass, which has none of its own."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)


@dataclass(frozen=True)
class _Walk:
    """A way through all positions, with the arguments of :func:`walked_divergence`."""

    student: Tensor
    teacher: Tensor | Unfinished
    valid: Tensor
    temperature: float
    view: Callable[[Tensor], Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """In which it is reckoned."""
        return torch.promote_types(self.student.dtype, torch.float32)

    @torch.no_grad()
    def all(self, *, gradients: bool) -> tuple[Tensor, Tensor | None]:
        """The sum of all divergences; if asked for, T times its gradient with respect to the student's outputs."""
        value = self.valid.new_zeros((), dtype=self.dtype)
        gradient = torch.zeros_like(self.student) if gradients else None
        known = self.teacher.shape[-1]
        students = self.view(self.student)[..., :known]
        into = None if gradient is None else self.view(gradient)[..., :known]
        teachers = (
            self.teacher.part(self.view)
            if isinstance(self.teacher, Unfinished)
            else self.view(self.teacher).__getitem__
        )
        for block in _pieces(self.valid, known, _BLOCK):
            if _none(valid := self.valid[block]):
                continue
            old = teachers(block)
            for piece in _pieces(valid, known, _PIECE):
                if _none(valid[piece]):
                    continue
                there = None if into is None else into[block][piece]
                value += self._piece(students[block][piece], old[piece], ~valid[piece], there)
        return value, gradient

    def _piece(self, new: Tensor, old: Tensor, unused: Tensor, into: Tensor | None) -> Tensor:
        """The sum over one piece, whose gradient is written where it belongs."""
        each, difference = _divergence(self._softened(new), self._softened(old), into is not None)
        some = unused.device.type != "cpu" or bool(unused.any())  # elsewhere, to look would be to wait
        if into is not None and difference is not None:
            into.copy_(difference.masked_fill_(unused.unsqueeze(-1), 0) if some else difference)
        return (each.masked_fill(unused, 0) if some else each).sum()

    def _softened(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.dtype)
        return rows if self.temperature == 1 else rows / self.temperature


def _pieces(valid: Tensor, outputs: int, size: int) -> Iterator[_Piece]:
    """Positions ``[B, P]`` in pieces of about so many numbers."""
    rows, positions = valid.shape
    width = max(1, min(positions, size // outputs))
    height = max(1, size // (outputs * positions)) if width == positions else 1
    for row in range(0, rows, height):
        for start in range(0, positions, width):
            yield slice(row, row + height), slice(start, start + width)


def _none(valid: Tensor) -> bool:
    """Whether no position counts, where that can be told without waiting."""
    return valid.device.type == "cpu" and not bool(valid.any())


def _divergence(new: Tensor, old: Tensor, gradients: bool) -> tuple[Tensor, Tensor | None]:
    r"""KL(p ‖ q) of the softmaxes of outputs g (old) and f (new), and q − p.

    .. math:: \sum_k p_k (g_k - f_k) - \log Z_g + \log Z_f
    """
    p, old_total, old_log = _exponentials(old)
    q, new_total, new_log = _exponentials(new)
    apart = old - new
    each = torch.linalg.vecdot(p, apart) / old_total
    if each.device.type != "cpu" or not bool(each.isfinite().all()):
        apart.nan_to_num_(nan=0.0, posinf=torch.inf)  # an answer was ruled out: p = 0 there
        each = torch.linalg.vecdot(p, apart) / old_total
    each = each - old_log + new_log
    if not gradients:
        return each, None
    return each, q.div_(new_total.unsqueeze(-1)).sub_(p.div_(old_total.unsqueeze(-1)))


def _exponentials(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The softmax times a total, the total, and :math:`\log Z`: one pass where a softmax and its log are two."""
    top = rows.amax(-1, keepdim=True)
    found = torch.sub(rows, top).exp_()
    total = found.sum(-1)
    return found, total, total.log() + top.squeeze(-1)
