r"""Random filters on whitened patches of images: a representation that needs no training and no other data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.checks import check_interval, check_not_negative, check_positive
from holdfast.errors import DataError
from holdfast.heads.maps import FeatureMap

__all__ = ["RandomPatches", "patch_features", "whitening"]

_BLOCK = 1 << 23  # responses at a time: what a processor's cache can hold, more or less


def whitening(patches: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    r"""The symmetric whitening of patches.

    .. math:: W = (\Sigma + \varepsilon \bar\lambda I)^{-1/2}, \qquad \Sigma = \operatorname{cov}(p)

    Source: zero-phase whitening as in Coates, Lee and Ng 2011, sec. 3.1. Differs: ε is relative to the mean variance.

    Args:
        patches: p, ``[n, P]``.
        damping: ε, > 0.

    Returns:
        W, float64 ``[P, P]``, and the mean of the patches, ``[P]``.
    """
    rows = patches.double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).mT @ (rows - mean) / len(rows))
    scale = (values.clamp_min(0) + damping * values.mean().clamp_min(1e-30)).rsqrt()
    return (vectors * scale) @ vectors.mT, mean


def patch_features(images: Tensor, filters: Tensor, offsets: Tensor, floor: Tensor, pool: int) -> Tensor:
    r"""Rectified responses of filters to normalised patches, averaged over the cells of a grid.

    .. math:: r_k = \frac{f_k^\top (p - \bar p)}{\sqrt{\operatorname{var} p + c}} - b_k, \qquad
        z_{kg} = \operatorname{mean}_{p \in g} \max(0, r_k)

    Args:
        images: ``[B, channels, H, W]``.
        filters: f, each summing to 0: ``[K, channels, n, n]``.
        offsets: b, ``[K]``.
        floor: c, what is added to a patch's variance, ``[]``.
        pool: cells along each side of the grid.

    Returns:
        z, ``[B, K pool²]``.
    """
    size = filters.shape[-1]
    mean = F.avg_pool2d(images.mean(1, keepdim=True), size, 1)
    square = F.avg_pool2d(images.square().mean(1, keepdim=True), size, 1)
    scale = (square - mean.square()).clamp_min_(0).add_(floor).rsqrt_()
    # One product of matrices gives every response, scale and offset included, and another averages them: passes over
    # all responses cost more than the arithmetic.
    patches = F.unfold(images, size)
    rows = patches.new_ones(len(images), patches.shape[1] + 1, patches.shape[2])
    torch.mul(patches, scale.flatten(2), out=rows[:, :-1])
    weights = torch.cat([filters.flatten(1), -offsets[:, None]], 1)
    cells = torch.kron(*(_cells(side, pool, rows) for side in scale.shape[2:])).mT
    return ((weights @ rows).relu_() @ cells).flatten(1)


def _cells(side: int, pool: int, like: Tensor) -> Tensor:
    """The averages over the parts of a line, as a matrix ``[pool, side]``; parts overlap where they must."""
    return F.adaptive_avg_pool1d(torch.eye(side, dtype=like.dtype, device=like.device), pool).mT


class RandomPatches(FeatureMap):
    r"""Random Gaussian filters on normalised, whitened patches; rectified, and averaged over a grid.

    Source: after Coates, Lee and Ng 2011, with random filters. Differs: the whitening is that of the first samples
        alone
    (the first task), for later ones must not change the features of earlier ones.

    Args:
        filters: K. There are K · pool² features.
        patch: n, the side of a patch.
        pool: cells along each side of the grid that responses are averaged over.
        threshold: how far above its mean a response must be to count, in standard deviations over the patches that the
            filters are fitted to; ``None``: 1 for images of several channels, else 0.
        floor: what is added to a patch's variance, relative to the mean of it.
        damping: of the whitening, relative to the mean variance.
        seed: of the filters.
    """

    filters: int
    patch: int
    pool: int
    threshold: float | None
    floor: float
    damping: float
    fit_samples = 2000

    def __init__(
        self,
        filters: int = 400,
        *,
        patch: int = 6,
        pool: int = 3,
        threshold: float | None = None,
        floor: float = 0.1,
        damping: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.filters, self.patch, self.pool = (
            check_interval(name, value) for name, value in (("filters", filters), ("patch", patch), ("pool", pool))
        )
        self.threshold = None if threshold is None else check_not_negative("threshold", threshold)
        self.floor, self.damping = check_positive("floor", floor), check_positive("damping", damping)

    def _draw(self, samples: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self._check(samples)
        patches = _patches(samples.float().cpu(), self.patch, generator)
        variance = patches.var(1, unbiased=False)
        floor = (self.floor * variance.mean()).clamp_min(1e-12)
        normal = (patches - patches.mean(1, keepdim=True)) / (variance + floor).sqrt()[:, None]
        white, mean = whitening(normal, self.damping)
        kernels = torch.randn(self.filters, len(mean), generator=generator).double() @ white
        threshold = float(samples.shape[1] > 1) if self.threshold is None else self.threshold
        spread = (kernels @ torch.cov(normal.double().mT, correction=0) * kernels).sum(1).sqrt()
        offsets = kernels @ mean + threshold * spread
        kernels = kernels - kernels.mean(1, keepdim=True)  # so that they take the mean of a patch away themselves
        shape = (self.filters, samples.shape[1], self.patch, self.patch)
        return {"filters": kernels.view(shape), "offsets": offsets, "floor": floor}

    def _apply_to(self, inputs: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        self._check(inputs)
        filters, offsets, floor = tensors["filters"], tensors["offsets"], tensors["floor"]
        if inputs.shape[1] != filters.shape[1]:
            raise DataError(f"the images have {inputs.shape[1]} channels; expected {filters.shape[1]}, as at first")
        responses = self.filters * inputs.shape[2] * inputs.shape[3]
        blocks = torch.split(inputs, max(1, _BLOCK // responses))
        return torch.cat([patch_features(block, filters, offsets, floor, self.pool) for block in blocks])

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or min(images.shape[2:]) < self.patch + self.pool - 1:
            raise DataError(
                f"RandomPatches got samples of shape {tuple(images.shape[1:])}; expected images [channels, H, W] of at "
                f"least {self.patch + self.pool - 1} pixels a side"
            )


def _patches(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Up to a hundred patches of each image, at random places: ``[n, P]``."""
    found = []
    height, width = (side - size + 1 for side in images.shape[2:])
    per_image = min(100, height * width)
    for image in images:
        views = image.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)
        places = torch.randperm(height * width, generator=generator)[:per_image]
        found.append(views[places // width, places % width].flatten(1))
    return torch.cat(found)
