r"""Weights drawn so that the Hessian's norm is near 1 in every layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from holdfast.checks import check_count
from holdfast.curvature import curved, quadratic
from holdfast.errors import ConfigurationError
from holdfast.names import Select, canonical_modules, selected
from holdfast.objectives import Batch, Objective, as_objective

__all__ = ["hessian_init", "hessian_std"]

_SCALES = tuple(2.0**power for power in range(-4, 5))
_SWEEPS = 2


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

    Raises:
        ConfigurationError: for a count below 1, or a probability that is none.

    Example:
        >>> round(hessian_std(784, 30), 6)
        0.049568
    """
    check_count("inputs", inputs)
    check_count("outputs", outputs)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigurationError(f"dropout is {dropout!r}; expected a probability, from 0 up to 1, which drops all")
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
        model: whose linear layers and convolutions are drawn; changed, unless something is refused.
        batch: with labels.
        objective: what the batch means.
        relu: whether ReLUs follow the layers.
        dropout: the probability of the dropout before each layer.
        select: which of the trainable weights.
        generator: the source of randomness; ``None``: PyTorch's.

    Returns:
        name of a weight -> :math:`h_k` in the end.

    Raises:
        ConfigurationError: for a wrong argument, or if the model has no such layer, or one whose weight is computed
            from something else.
        DataError: for a batch without samples, or one that does not fit the model.
        NumericsError: if the loss is not finite.
    """
    layers = _drawable(model, select)
    known = as_objective(objective, model)
    weights = {name: weight for name, (weight, _) in layers.items()}
    names = list(weights)
    drawn = [p for pair in layers.values() for p in pair if p is not None]
    before = [p.detach().clone() for p in drawn]

    def curvatures() -> dict[str, float]:
        with curved(model, weights, batch, known) as found:
            each = [slice(i, i + 1) for i in range(len(names))]
            return {name: quadratic(found.product(w), found.direction(w)) for name, w in zip(names, each, strict=True)}

    try:
        with torch.no_grad():
            for weight, bias in layers.values():
                kernel = weight[0, 0].numel()
                std = hessian_std(weight.shape[1] * kernel, weight.shape[0] * kernel, relu=relu, dropout=dropout)
                weight.copy_(torch.randn(weight.shape, generator=generator).mul_(std))
                if bias is not None:
                    bias.zero_()
        for _ in range(_SWEEPS):
            if not [name for name in reversed(names) if _rescale(weights[name], curvatures)]:
                break
        return curvatures()
    except BaseException:
        with torch.no_grad():
            for p, held in zip(drawn, before, strict=True):
                p.copy_(held)
        raise


def _drawable(model: nn.Module, select: Select) -> dict[str, tuple[nn.Parameter, nn.Parameter | None]]:
    """Name -> weight and trainable bias of each linear layer and convolution.

    Raises:
        ConfigurationError: if there is none, or one whose weight is computed from something else.
    """
    chosen = selected(model, select)
    layers: dict[str, tuple[nn.Parameter, nn.Parameter | None]] = {}
    for prefix, module in canonical_modules(model):
        name = f"{prefix}.weight" if prefix else "weight"
        if not isinstance(module, nn.Linear | _ConvNd):
            continue
        if is_parametrized(module, "weight") and any(each == name or each.startswith(f"{name}.") for each in chosen):
            raise ConfigurationError(
                f"parameter {name!r} is computed from something else, and hessian_init draws plain weights: draw "
                "first, reparametrise then, or leave it out with select"
            )
        if name in chosen:
            bias = module._parameters.get("bias")
            layers[name] = chosen[name], bias if bias is not None and bias.requires_grad else None
    if not layers:
        raise ConfigurationError("the model has no linear layer or convolution among what select names")
    return layers


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
