r"""Streaming linear discriminant analysis, exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.heads.chosen import Amount, ChosenHead, held_error
from holdfast.heads.maps import FeatureMap
from holdfast.heads.moments import Moments, Summary
from holdfast.heads.solve import solve_in_place
from holdfast.objectives import Classification

__all__ = ["SLDA", "slda_weight", "within_covariance"]


def within_covariance(gram: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    r"""The covariance that all classes share.

    .. math:: \Sigma = \tfrac1N \Bigl( G - \sum_c \tfrac{1}{n_c} S_c S_c^\top \Bigr)

    Args:
        gram: G, ``[D, D]``, symmetric; overwritten.
        sums: S, ``[C, D]``.
        counts: n, ``[C]``.

    Returns:
        Σ, ``[D, D]``, in the place of G.
    """
    means = sums / counts[:, None]
    return gram.addmm_(means.mT.to(gram.dtype), sums.to(gram.dtype), alpha=-1).div_(float(counts.sum()))


def slda_weight(
    covariance: Tensor, means: Tensor, shrinkage: float, *, relative: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Linear discriminants of classes that share a covariance.

    .. math:: \Lambda = \bigl( (1 - \varepsilon) \Sigma + \varepsilon v I \bigr)^{-1}, \qquad
        s_c(z) = z^\top \Lambda \mu_c - \tfrac12 \mu_c^\top \Lambda \mu_c

    Source: Hayes and Kanan 2020 (Deep SLDA), arXiv:1909.01520. Differs: the exact covariance of all samples; the
        streaming
    one of the release depends on their order.

    Args:
        covariance: Σ, ``[D, D]``, symmetric; overwritten.
        means: μ, ``[C, D]``.
        shrinkage: ε, >= 0; from 1 on the covariance counts for nothing.
        relative: v is the mean of the variances; else 1, and ε is in features².

    Returns:
        Λμ, ``[D, C]``, and the offsets −½ μΛμ, ``[C]``; float64.

    Raises:
        NumericsError: if the shrunken covariance is not positive definite.
    """
    unit = float(covariance.diagonal().double().mean()) if relative else 1.0
    if unit <= 1e-13 * float(means.square().mean()):  # each class has one sample: all directions are alike
        covariance.zero_()
        unit = 1.0
    covariance.mul_(max(0.0, 1 - shrinkage)).diagonal().add_(shrinkage * unit)
    weight = solve_in_place(covariance, means.mT)
    return weight, -0.5 * (means.double().mT * weight).sum(0)


class SLDA(ChosenHead):
    r"""Linear discriminant analysis with one covariance that all classes share, exact in any order of the samples.

    .. math:: s_c(z) = z^\top \Lambda \mu_c - \tfrac12 \mu_c^\top \Lambda \mu_c,
        \qquad \Lambda = \bigl( (1 - \varepsilon) \Sigma + \varepsilon I \bigr)^{-1}

    Source: Hayes and Kanan 2020 (Deep SLDA), arXiv:1909.01520. Differs: Σ is exact (see :func:`slda_weight`).

    Args:
        features: as for :class:`Head`.
        shrinkage: ε, >= 0, in features²; ``"auto"`` chooses it relative to the mean variance, for features of another
            scale need another ε.
        relative: whether a number is a share of the mean variance.
        prior: whether to add log(n_c / N), for a stream in which classes are as frequent as they will be.
        layer: as for :class:`Head`.
        expand: as for :class:`Head`.
        objective: as for :class:`Head`.
        dtype: as for :class:`Head`.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    amount: Amount
    relative: bool
    called: ClassVar[str] = "shrinkage"

    def __init__(
        self,
        features: nn.Module | Callable[..., Any] | None = None,
        shrinkage: Amount = 1e-4,
        *,
        relative: bool = False,
        prior: bool = False,
        layer: str | None = None,
        expand: FeatureMap | None = None,
        objective: Classification | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.amount, self.relative = self._checked_amount(shrinkage), relative
        self.prior = prior
        super().__init__(features, layer=layer, expand=expand, objective=objective, dtype=dtype)

    @property
    def shrinkage(self) -> Amount:
        """ε as it was asked for."""
        return self.amount

    def _share(self, ratio: float) -> float:
        """The ε at which εv stands to 1 − ε in a ratio (which may be more than 1)."""
        return ratio / (1 + ratio)

    def _fit(self, sums: Summary, amount: float, *, relative: bool) -> dict[str, Tensor]:
        covariance = within_covariance(sums.gram(), sums.sums, sums.counts)
        weight, offset = slda_weight(covariance, sums.means, amount, relative=relative)
        if self.prior:
            offset = offset + (sums.counts / sums.total).log()
        return {"weight": weight, "offset": offset}

    def _error(self, amount: float, fit: Summary, held: Moments) -> float:
        r"""How far discriminants are from the labels of the part held out.

        They are judged as what they are up to a linear map: the penalised regression of one-hot labels (optimal
        scoring: Hastie, Buja and Tibshirani 1995). The map is fitted on the same sums as they are.
        """
        weight = self._fit(fit, self._share(amount), relative=True)["weight"]
        return held_error(*_regression(fit, weight), held, fit.labels)

    def _score(self, features: Tensor, solved: Mapping[str, Tensor]) -> Tensor:
        return features @ solved["weight"] + solved["offset"]


def _regression(sums: Summary, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The least squares of one-hot labels on scores, as a predictor from z: V ``[D, C]`` and b ``[C]``."""
    centre = sums.sums.sum(0) / sums.total
    share = sums.counts / sums.total
    across = sums.sums.mT / sums.total - centre[:, None] * share  # the covariance of z and labels, [D, C]
    spread = weight.mT @ sums.product(weight) / sums.total
    spread -= torch.outer(weight.mT @ centre, weight.mT @ centre)
    found = weight @ (torch.linalg.pinv(spread, hermitian=True) @ (weight.mT @ across))
    return found, share - centre @ found
