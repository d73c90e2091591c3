r"""How steep a loss is where the weights stand: norms of its Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.checks import check_interval
from holdfast.errors import ConfigurationError, DataError, NumericsError
from holdfast.importance.untouched import untouched
from holdfast.names import Select, selected
from holdfast.objectives import Batch, Objective, as_objective
from holdfast.sharding import is_sharded

__all__ = ["HessianNorm", "Kind", "curved", "frobenius", "hessian_norm", "quadratic", "spectral"]

Kind: TypeAlias = Literal["quadratic", "frobenius", "spectral"]
Tensors: TypeAlias = "Sequence[Tensor]"
Product: TypeAlias = "Callable[[Tensors], Tensors]"


@dataclass(frozen=True)
class HessianNorm:
    """What :func:`hessian_norm` found.

    Args:
        kind: which norm.
        whole: of the Hessian in all the weights.
        tensors: name -> of the block in this parameter alone.
        loss: the mean loss of the batch.
        gradient: the norm of its gradient.
        step: γ*, the learning rate of plain gradient descent that lowers the loss most, to second order; from 2γ* on it
            does not lower it. Infinite where the loss does not curve upwards along its gradient.
    """

    kind: Kind
    whole: float
    tensors: dict[str, float]
    loss: float
    gradient: float
    step: float


def _dot(left: Tensors, right: Tensors) -> float:
    return float(sum((a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)))


def quadratic(product: Product, direction: Tensors) -> float:
    r"""The curvature along a direction.

    .. math:: \frac{g^\top H g}{\lVert g \rVert^2}

    Source: Skorski, Temperoni and Theobald 2021, arXiv:2004.09506, as its figures have it. Differs: no.

    Args:
        product: v -> Hv.
        direction: g, tensors ``[*p]`` each.

    Returns:
        In loss units per squared unit of the weights; 0 for a direction that is 0.
    """
    squared = _dot(direction, direction)
    return _dot(direction, product(direction)) / squared if squared > 0 else 0.0


def frobenius(product: Product, probes: Sequence[Tensors]) -> float:
    r"""Hutchinson's estimate of the Frobenius norm.

    .. math:: \lVert H \rVert_F \approx \sqrt{\tfrac1m \textstyle\sum_i \lVert H v_i \rVert^2}

    Source: as :func:`quadratic`; the released notebook computes the norm itself. Differs: it is estimated.

    Args:
        product: v -> Hv.
        probes: vectors of entries -1 and 1.

    Returns:
        In loss units per squared unit of the weights.
    """
    squares = [_dot(found, found) for found in map(product, probes)]
    return math.sqrt(sum(squares) / len(squares))


def spectral(product: Product, start: Tensors, *, iterations: int = 100, tolerance: float = 1e-6) -> float:
    r"""The largest eigenvalue by magnitude, by power iteration.

    .. math:: v \leftarrow \frac{Hv}{\lVert Hv \rVert}, \qquad \lVert H \rVert_2 \approx \lVert Hv \rVert

    Source: as :func:`quadratic`, whose text has this norm. Differs: no.

    Args:
        product: v -> Hv.
        start: v, tensors ``[*p]`` each.
        iterations: at most.
        tolerance: relative change at which it ends.

    Returns:
        In loss units per squared unit of the weights.
    """
    vector, found = list(start), 0.0
    for _ in range(iterations):
        size = math.sqrt(_dot(vector, vector))
        if size == 0:
            return 0.0
        vector = list(product([v / size for v in vector]))
        before, found = found, math.sqrt(_dot(vector, vector))
        if abs(found - before) <= tolerance * found:
            break
    return found


class Curvature:
    """A mean loss, its gradient, and products with its Hessian, whole or in one tensor's block."""

    def __init__(self, loss: Tensor, params: list[nn.Parameter]) -> None:
        self.loss, self.params = loss, params
        self.grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True, materialize_grads=True)

    def direction(self, which: slice) -> list[Tensor]:
        return [grad.detach() for grad in self.grads[which]]

    def product(self, which: slice) -> Product:
        def apply(vector: Tensors) -> Tensors:
            grads = self.grads[which]
            curved = [(g, v) for g, v in zip(grads, vector, strict=True) if g.requires_grad]
            if not curved:
                return [torch.zeros_like(g) for g in grads]
            return torch.autograd.grad(
                [g for g, _ in curved], self.params[which], [v.to(g) for g, v in curved], retain_graph=True,
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip

        return apply


@contextmanager
def curved(
    model: nn.Module, params: dict[str, nn.Parameter], batch: Batch, objective: Objective
) -> Iterator[Curvature]:
    """The mean loss of a batch as a :class:`Curvature`; the model is left as it was."""
    # Fused attention has no second derivative.
    with untouched(model, params.values()), sdpa_kernel(SDPBackend.MATH):
        losses = objective.losses(objective.outputs(model, batch), batch)
        if losses.numel() == 0:
            raise DataError("the batch has no sample, so its loss has no Hessian")
        loss = losses.mean()
        if not bool(loss.isfinite()):
            raise NumericsError(f"the loss is {float(loss.detach())}, so its Hessian has no norm")
        yield Curvature(loss, list(params.values()))


def hessian_norm(
    model: nn.Module,
    batch: Batch,
    objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    kind: Kind = "quadratic",
    *,
    select: Select = None,
    probes: int = 16,
    iterations: int = 100,
    blocks: bool = True,
    generator: torch.Generator | None = None,
) -> HessianNorm:
    r"""A norm of the Hessian of a batch's mean loss, in all weights together and in each tensor.

    .. math:: \frac{g^\top H g}{\lVert g \rVert^2} \ (\text{quadratic}), \qquad \lVert H \rVert_F \ (\text{frobenius}),
        \qquad \lVert H \rVert_2 \ (\text{spectral}), \qquad \gamma^* = \frac{\lVert g \rVert^2}{g^\top H g}

    Source: Skorski, Temperoni and Theobald 2021, arXiv:2004.09506: its text names the spectral norm, its notebook
    computes the Frobenius norm, its figures show the quadratic form. Differs: all are of the exact Hessian, by products
    with it; the model is in evaluation mode. The batch is one: the Hessian of more is the mean of theirs.

    Args:
        model: any module; nothing in it changes.
        batch: with labels.
        objective: what the batch means.
        kind: ``"quadratic"`` costs one product per tensor, ``"frobenius"`` ``probes`` of them, ``"spectral"`` up to
            ``iterations``. A product costs about two backward passes.
        select: which trainable parameters count.
        probes: vectors that the Frobenius norm is estimated from; its relative error falls as 1/√probes.
        iterations: of the power iteration, at most.
        blocks: whether each tensor's norm is wanted, too.
        generator: the source of probes; ``None``: always the same ones.

    Returns:
        The norms, and the step size γ*.

    Raises:
        ConfigurationError: for another kind, or sharded parameters.
        DataError: for a batch without samples, or one that does not fit the model.
        NumericsError: if the loss is not finite.
    """
    if kind not in ("quadratic", "frobenius", "spectral"):
        raise ConfigurationError(f"kind is {kind!r}; expected 'quadratic', 'frobenius' or 'spectral'")
    check_interval("probes", probes)
    check_interval("iterations", iterations)
    params = selected(model, select)
    if any(is_sharded(p) for p in params.values()):
        raise ConfigurationError("the model is sharded; hessian_norm expects whole parameters")
    draw = torch.Generator().manual_seed(0) if generator is None else generator

    def norm(curvature: Curvature, which: slice) -> float:
        product, like = curvature.product(which), curvature.direction(which)
        if kind == "quadratic":
            return quadratic(product, like)
        if kind == "frobenius":
            return frobenius(product, [[_signs(t, draw) for t in like] for _ in range(probes)])
        return spectral(product, [torch.randn(t.shape, generator=draw).to(t) for t in like], iterations=iterations)

    with curved(model, params, batch, as_objective(objective, model)) as curvature:
        everything = slice(None)
        gradient = curvature.direction(everything)
        along = quadratic(curvature.product(everything), gradient)
        return HessianNorm(
            kind=kind,
            whole=along if kind == "quadratic" else norm(curvature, everything),
            tensors={name: norm(curvature, slice(i, i + 1)) for i, name in enumerate(params) if blocks},
            loss=float(curvature.loss.detach()),
            gradient=math.sqrt(_dot(gradient, gradient)),
            step=1 / along if along > 0 else math.inf,
        )


def _signs(like: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=draw).mul_(2).sub_(1).to(like)
