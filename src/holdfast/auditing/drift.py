"""How far a model's weights and its representations have moved."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from holdfast.errors import DataError
from holdfast.names import canonical_parameters

__all__ = ["linear_cka", "relative_distances"]


def linear_cka(before: Tensor, after: Tensor, *, unbiased: bool = False) -> float:
    r"""How alike two representations of the same samples are, whatever their rotation and scale.

    .. math::
        \frac{\mathrm{HSIC}(XX^\top, YY^\top)}
        {\sqrt{\mathrm{HSIC}(XX^\top, XX^\top) \, \mathrm{HSIC}(YY^\top, YY^\top)}}

    of centred features. The plain form is far too large where there are not many more samples than features: two
    unrelated representations of 100 samples in 1,000 dimensions have 0.9. The unbiased form has 0 there.

    A value near 1 does not say that every class is as it was: a few classes weigh little among many.

    Source: Kornblith et al. 2019, arXiv:1905.00414, eq. 3; unbiased: Song et al. 2012, "Feature selection via
    dependence maximization", eq. 5. Differs: no.

    Args:
        before: X, ``[N, D]``.
        after: Y, ``[N, D']``.
        unbiased: the form for any number of samples, N >= 4; it can be a little below 0.

    Returns:
        A number of at most 1; ``nan`` where a representation is the same for all samples.

    Raises:
        DataError: if the samples differ in number, or there are too few.

    Example:
        >>> x = torch.eye(5, dtype=torch.float64)
        >>> round(linear_cka(x, -3 * x.flip(1)), 6)
        1.0
    """
    least = 4 if unbiased else 2
    if before.dim() != 2 or after.dim() != 2 or len(before) != len(after) or len(before) < least:
        raise DataError(
            f"before and after have shapes {tuple(before.shape)} and {tuple(after.shape)}; expected [N, D] with the "
            f"same N >= {least}"
        )
    x, y = (features.double() - features.double().mean(0) for features in (before, after))
    if not unbiased:
        found = [(a.T @ b).square().sum() for a, b in ((x, y), (x, x), (y, y))]
    else:
        k, m = (_without_diagonal(features) for features in (x, y))
        found = [_unbiased_hsic(a, b) for a, b in ((k, m), (k, k), (m, m))]
    return float(found[0] / (found[1].clamp(min=0) * found[2].clamp(min=0)).sqrt())


def _without_diagonal(features: Tensor) -> Tensor:
    return (features @ features.T).fill_diagonal_(0)


def _unbiased_hsic(k: Tensor, m: Tensor) -> Tensor:
    """Song et al. 2012, eq. 5, without the factor 1 / n(n - 3), which the ratio does not see."""
    n = len(k)
    return (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) * m.sum(0)).sum()


def relative_distances(before: nn.Module, after: nn.Module) -> Mapping[str, float]:
    r"""How far the parameters of each layer moved, relative to what they were.

    .. math:: \frac{\lVert \theta_\text{after} - \theta_\text{before} \rVert_2}{\lVert \theta_\text{before} \rVert_2}

    over all parameters of a layer (a module that owns some) together. Of a parameter that grew, the block that was
    there before is compared; one that only one model has, or of another shape, is left out.

    Args:
        before: a model.
        after: the same model later.

    Returns:
        Layer -> distance, dimensionless, in the order of the model; ``inf`` where all was 0.
    """
    old, new = (canonical_parameters(model) for model in (before, after))
    squares: dict[str, Tensor] = {}
    for name, was in old.items():
        now = new.get(name)
        if now is None or was.dim() != now.dim() or any(a > b for a, b in zip(was.shape, now.shape, strict=True)):
            continue
        w = was.detach().double()
        block = now.detach()[tuple(slice(size) for size in was.shape)].to(w.device, torch.float64)
        layer = name.rpartition(".")[0]
        squares[layer] = squares.get(layer, 0) + torch.stack([(block - w).square().sum(), w.square().sum()]).cpu()
    return {layer: _ratio(*pair.sqrt().tolist()) for layer, pair in squares.items()}


def _ratio(moved: float, size: float) -> float:
    return moved / size if size else (torch.inf if moved else 0.0)
