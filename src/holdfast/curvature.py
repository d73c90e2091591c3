r"""How steep a loss is where the weights stand: norms of its Hessian, and weights drawn so that they are near 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd

from holdfast.checks import check_interval
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.importance.untouched import untouched
from holdfast.names import Select, canonical_modules, selected
from holdfast.objectives import Batch, Objective, as_objective
from holdfast.sharding import is_sharded

__all__ = ["HessianNorm", "Kind", "frobenius", "hessian_init", "hessian_norm", "hessian_std", "quadratic", "spectral"]

Kind: TypeAlias = Literal["quadratic", "frobenius", "spectral"]
Tensors: TypeAlias = "Sequence[Tensor]"
Product: TypeAlias = "Callable[[Tensors], Tensors]"

_SCALES = tuple(2.0**power for power in range(-4, 5))
_SWEEPS = 2


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


class _Curvature:
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
def _curved(model: nn.Module, params: dict[str, nn.Parameter], batch: Batch, objective: Objective) -> Iterator[Any]:
    # Fused attention has no second derivative.
    with untouched(model, params.values()), sdpa_kernel(SDPBackend.MATH):
        loss = objective.losses(objective.outputs(model, batch), batch).mean()
        if not bool(loss.isfinite()):
            raise NumericsError(f"the loss is {float(loss.detach())}, so its Hessian has no norm")
        yield _Curvature(loss, list(params.values()))


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

    def norm(curvature: _Curvature, which: slice) -> float:
        product, like = curvature.product(which), curvature.direction(which)
        if kind == "quadratic":
            return quadratic(product, like)
        if kind == "frobenius":
            return frobenius(product, [[_signs(t, draw) for t in like] for _ in range(probes)])
        return spectral(product, [torch.randn(t.shape, generator=draw).to(t) for t in like], iterations=iterations)

    with _curved(model, params, batch, as_objective(objective, model)) as curvature:
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


def hessian_std(inputs: int, outputs: int, *, relu: bool = False, dropout: float = 0.0) -> float:
    r"""The standard deviation of a layer's first weights that keeps the Hessian's norm near 1.

    .. math:: \sigma^2 = \frac{2 (1 - p)}{d_\text{in} + d_\text{out}}, \qquad \text{twice that for ReLU}

    Source: Skorski, Temperoni and Theobald 2021, arXiv:2004.09506. Differs: its rule for dropout divides by 1 - p,
    which is right for plain masks; PyTorch's dropout scales what it keeps, and so it is multiplied here.

    Args:
        inputs: of a unit, counted with the kernel for a convolution.
        outputs: as many as each input reaches.
        relu: whether a ReLU follows.
        dropout: p, the probability that an input is dropped.

    Returns:
        σ.

    Example:
        >>> round(hessian_std(784, 30), 6)
        0.049568
    """
    return math.sqrt((4 if relu else 2) * (1 - dropout) / (inputs + outputs))


def hessian_init(
    model: nn.Module,
    batch: Batch,
    objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    *,
    relu: bool = True,
    dropout: float = 0.0,
    select: Select = None,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    r"""Draw weights so that the curvature of each layer along its own gradient is near 1; biases become 0.

    .. math:: W_k \leftarrow s_k W_k, \qquad s_k = \arg\min_{s \in 2^{-4 \dots 4}} \textstyle\sum_j |\ln h_j(s)|

    from weights drawn by :func:`hessian_std`, from the last layer to the first, in two sweeps at most.

    Source: Skorski, Temperoni and Theobald 2021, arXiv:2004.09506, whose principle this is. Differs: how its figures
    choose σ is not said; the search is ours. It looks at all layers at once: one at a time, each by its own curvature,
    they drive one another to where the softmax is saturated.

    Args:
        model: whose linear layers and convolutions are drawn; changed.
        batch: with labels.
        objective: what the batch means.
        relu: whether ReLUs follow the layers.
        dropout: the probability of the dropout before each layer.
        select: which of the trainable weights.
        generator: the source of randomness; ``None``: PyTorch's.

    Returns:
        name of a weight -> :math:`h_k` in the end.

    Raises:
        ConfigurationError: if the model has no such layer.
    """
    chosen = selected(model, select)
    layers: dict[str, nn.Parameter] = {}
    for prefix, module in canonical_modules(model):
        name = f"{prefix}.weight" if prefix else "weight"
        if isinstance(module, nn.Linear | _ConvNd) and name in chosen:
            layers[name] = weight = chosen[name]
            kernel = weight[0, 0].numel()
            std = hessian_std(weight.shape[1] * kernel, weight.shape[0] * kernel, relu=relu, dropout=dropout)
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=generator).mul_(std))
                if module.bias is not None:
                    module.bias.zero_()
    if not layers:
        raise ConfigurationError("the model has no linear layer or convolution among what select names")
    known = as_objective(objective, model)

    names = list(layers)

    def curvatures() -> dict[str, float]:
        with _curved(model, layers, batch, known) as found:
            each = [slice(i, i + 1) for i in range(len(names))]
            return {name: quadratic(found.product(w), found.direction(w)) for name, w in zip(names, each, strict=True)}

    for _ in range(_SWEEPS):
        if not [name for name in reversed(names) if _rescale(layers[name], curvatures)]:
            break
    return curvatures()


@torch.no_grad()
def _rescale(weight: nn.Parameter, curvatures: Callable[[], dict[str, float]]) -> bool:
    """Give a weight the scale that serves all layers best; whether that is another than it has."""
    before = weight.detach().clone()
    distances = {}
    for scale in sorted(_SCALES, key=lambda scale: abs(math.log(scale))):  # of equal ones, the nearest to 1
        weight.copy_(before * scale)
        distances[scale] = sum(abs(math.log(h)) if h > 0 else math.inf for h in curvatures().values())
    best = min(distances, key=distances.__getitem__)
    weight.copy_(before * best)
    return best != 1.0
