r"""The distance of two softmaxes over many outputs, walked in pieces that fit the processor's cache.

A language model's outputs ``[B, T, V]`` are by far its largest tensor. Written with PyTorch's own functions, the
distance (:func:`~holdfast.objectives.distributions.softmax_divergence`) makes half a dozen more of that size.
Here a piece of the positions is worked off at a time: the teacher's outputs are made from what its last layer is given,
used and forgotten, and the gradient is the only thing that is as large as the student's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Scratch", "Unfinished", "none_counts", "pieces", "taught", "walked", "walked_divergence"]

_Piece: TypeAlias = tuple[slice, slice]  # rows and positions

_BLOCK = 2**21  # numbers that a teacher's last layer makes at once: 8 MiB of float32
_PIECE = 2**18  # numbers that are worked off at once: 1 MiB
_SMALL = 1e-15  # sums of exponentials from here to its inverse lost nothing to an overflow or underflow
_HELD = 2**24  # up to so many numbers the gradient is kept for the backward pass, which otherwise makes it anew


@dataclass
class Scratch:
    """Memory for a block of outputs, kept from one step to the next.

    To be given new pages by the system for each block costs more than the arithmetic.
    """

    memory: Tensor | None = None

    def product(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``rows @ weight.T + bias``, ``[n, D]`` -> ``[n, K]``, good until the next call."""
        if torch.is_autocast_enabled(rows.device.type) or rows.dtype != weight.dtype:
            return F.linear(rows, weight, bias)
        size = len(rows) * len(weight)
        if (
            self.memory is None
            or self.memory.numel() < size
            or (self.memory.dtype, self.memory.device) != (rows.dtype, rows.device)
        ):
            self.memory = rows.new_empty(size)
        found = self.memory[:size].view(len(rows), len(weight))
        torch.mm(rows, weight.t(), out=found)
        return found if bias is None else found.add_(bias)


@dataclass(frozen=True)
class Unfinished:
    r"""Outputs :math:`h W^\top + b` that are not made before they are needed, and never all at once.

    Attributes:
        hidden: h, what the last layer is given, ``[B, T, D]``.
        weight: W, ``[K, D]``.
        bias: b, ``[K]``, or ``None``.
        scratch: where blocks of them are made.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def shape(self) -> torch.Size:
        """That of the outputs, ``[B, T, K]``."""
        return torch.Size((*self.hidden.shape[:-1], len(self.weight)))

    def part(self, view: Callable[[Tensor], Tensor]) -> Callable[[_Piece], Tensor]:
        """Positions -> outputs there, good until the next are asked for.

        Args:
            view: picks, of all tokens, those that are positions.
        """
        hidden = view(self.hidden)

        def outputs(piece: _Piece) -> Tensor:
            given = hidden[piece]
            rows = self.scratch.product(given.reshape(-1, given.shape[-1]), self.weight, self.bias)
            return rows.view(*given.shape[:-1], -1)

        return outputs


def walked_divergence(
    student: Tensor,
    teacher: Tensor | Unfinished,
    valid: Tensor,
    temperature: float,
    view: Callable[[Tensor], Tensor] = lambda outputs: outputs,
    *,
    weight: float = 1.0,
) -> Tensor:
    r"""How surprised a student is by a teacher's softened answers, on average over positions.

    .. math:: \frac{w}{N} \sum_i \mathrm{KL}(p^*_i \Vert p_i), \qquad p = \mathrm{softmax}(f / T)

    Its gradient with respect to f is :math:`w (p_i - p^*_i) / (T N)`. Twin:
    :func:`~holdfast.objectives.distributions.softmax_divergence`, averaged.

    Args:
        student: f, ``[B, T, K]``; at least as many outputs as the teacher has, of which the first are compared.
        teacher: likewise, or what makes it; where one is minus infinity, that answer plays no part.
        valid: which of the positions count, bool ``[B, P]``; N do. Whatever stands at the others is left out.
        temperature: T, > 0.
        view: which tokens ``[B, T, ...]`` are the positions ``[B, P, ...]``; has to return a view.
        weight: w. What is multiplied here costs nothing: the gradient that is kept needs no further pass.

    Returns:
        Scalar ``[]`` in nats, at least in float32, >= 0 but for rounding; without the factor T².
    """
    walk = _Walk(student.detach(), teacher, valid, temperature, view, weight)
    return walked(student, walk)


class Walking(Protocol):
    """A way through all positions that ends in a value."""

    def all(self, *, gradients: bool) -> tuple[Tensor, Tensor | None]:
        """The value; if asked for, its gradient with respect to the student's outputs."""
        ...


def walked(student: Tensor, walk: Walking) -> Tensor:
    """The value of a walk, ``[]``, through which a backward pass finds the student's outputs."""
    found: Tensor = _Walked.apply(student, walk)  # type: ignore[no-untyped-call]  # torch's own gap
    return found


class _Walked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, walk: Walking) -> Tensor:
        ctx.held = ctx.needs_input_grad[0] and student.numel() <= _HELD
        value, gradient = walk.all(gradients=ctx.held)
        ctx.save_for_backward(student if gradient is None else gradient)
        if not ctx.held:
            ctx.walk, ctx.autocast = walk, _autocast(student.device.type)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        if ctx.held and factor.device.type == "cpu" and float(factor) == 1:
            return gradient, None
        if ctx.held:
            return gradient * factor.to(gradient.dtype), None
        with ctx.autocast():
            _, gradient = ctx.walk.all(gradients=True)
        return gradient.mul_(factor.to(gradient.dtype)), None


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
    weight: float

    @property
    def dtype(self) -> torch.dtype:
        """In which it is reckoned."""
        return torch.promote_types(self.student.dtype, torch.float32)

    @torch.no_grad()
    def all(self, *, gradients: bool) -> tuple[Tensor, Tensor | None]:
        """The value; if asked for, its gradient with respect to the student's outputs."""
        value = self.valid.new_zeros((), dtype=self.dtype)
        share = self.weight / self.valid.sum().clamp(min=1).to(self.dtype)
        known = self.teacher.shape[-1]
        gradient = self._room_for_gradient(known) if gradients else None
        students = self.view(self.student)[..., :known]
        into = None if gradient is None else self.view(gradient)[..., :known]
        teachers = taught(self.teacher, self.view)
        for block in pieces(self.valid, known, _BLOCK):
            valid = self.valid[block]
            if none_counts(valid):
                if into is not None:
                    into[block].zero_()
                continue
            old = teachers(block)
            for piece in pieces(valid, known, _PIECE):
                there = None if into is None else into[block][piece]
                if none_counts(valid[piece]):
                    if there is not None:
                        there.zero_()
                    continue
                new, unused = self._softened(students[block][piece]), ~valid[piece]
                each = _divergence(new, self._softened(old[piece]), share / self.temperature, there)
                value += each.masked_fill_(unused, 0).sum()
                if there is not None and (unused.device.type != "cpu" or bool(unused.any())):
                    there.masked_fill_(unused.unsqueeze(-1), 0)
        return value * share, gradient

    def _room_for_gradient(self, known: int) -> Tensor:
        """Like the student's outputs; 0 where the walk does not pass."""
        if self.student.device.type != "cpu":
            return torch.zeros_like(self.student)  # to ask which tokens those are would wait for the device
        room = torch.empty_like(self.student)
        passed_by = torch.ones(self.student.shape[:-1], dtype=torch.bool)
        self.view(passed_by).fill_(False)
        room[passed_by.nonzero(as_tuple=True)] = 0  # a mask would go over all of it
        room[..., known:] = 0
        return room

    def _softened(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.dtype)
        return rows if self.temperature == 1 else rows / self.temperature


def taught(teacher: Tensor | Unfinished, view: Callable[[Tensor], Tensor]) -> Callable[[_Piece], Tensor]:
    """A piece -> the teacher's outputs there."""
    return teacher.part(view) if isinstance(teacher, Unfinished) else view(teacher).__getitem__


def pieces(valid: Tensor, outputs: int, size: int) -> Iterator[_Piece]:
    """Positions ``[B, P]`` in pieces of about so many numbers."""
    rows, positions = valid.shape
    width = max(1, min(positions, size // outputs))
    height = max(1, size // (outputs * positions)) if width == positions else 1
    for row in range(0, rows, height):
        for start in range(0, positions, width):
            yield slice(row, row + height), slice(start, start + width)


def none_counts(valid: Tensor) -> bool:
    """Whether no position counts, where that can be told without waiting."""
    return valid.device.type == "cpu" and not bool(valid.any())


def _divergence(new: Tensor, old: Tensor, scale: Tensor, into: Tensor | None) -> Tensor:
    r"""KL(p ‖ q) of the softmaxes of outputs g (old) and f (new); a multiple of q − p goes where it is wanted.

    .. math:: \sum_k p_k (g_k - f_k) - \log Z_g + \log Z_f
    """
    p, old_total, old_log = _exponentials(old)
    q, new_total, new_log = _exponentials(new)
    apart = old - new
    each: Tensor = torch.linalg.vecdot(p, apart) / old_total
    if each.device.type != "cpu" or not bool(each.isfinite().all()):
        apart.nan_to_num_(nan=0.0, posinf=torch.inf)  # an answer was ruled out: p = 0 there
        each = torch.linalg.vecdot(p, apart) / old_total
    if into is not None:
        q.mul_((scale / new_total).unsqueeze(-1))
        minus = (-scale / old_total).unsqueeze(-1)
        if into.dtype == q.dtype:
            torch.addcmul(q, p, minus, out=into)
        else:
            into.copy_(q.addcmul_(p, minus))
    return each - old_log + new_log


def _exponentials(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The softmax times a total, the total, and :math:`\log Z`: one pass where a softmax and its log are two."""
    if rows.device.type == "cpu":
        # Nearly all outputs there are need no shift, and what it costs to find out afterwards is next to nothing.
        found = rows.exp()
        total = found.sum(-1)
        if bool(((total > _SMALL) & (total < 1 / _SMALL)).all()):
            return found, total, total.log()
    top = rows.amax(-1, keepdim=True)
    found = torch.sub(rows, top).exp_()
    total = found.sum(-1)
    return found, total, total.log() + top.squeeze(-1)
