r"""Ridge regression on one-hot labels."""

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

__all__ = ["Ridge", "ridge_weight"]


def ridge_weight(gram: Tensor, sums: Tensor, strength: float) -> Tensor:
    r"""The ridge regression of one-hot labels on features.

    .. math:: W = (G + \lambda I)^{-1} \sum_c S_c e_c^\top

    Source: the closed form that ACIL (Zhuang et al. 2022, arXiv:2205.14922) reaches by recursion, and RanPAC (McDonnell
        et
    al. 2023, arXiv:2307.02251) on projected features. Differs: solved from the sums by Cholesky's factorisation; the
    recursion is wrong by 1e-3 and more in float32.

    Args:
        gram: G, ``[D, D]``, symmetric; overwritten.
        sums: S, the sum of the features of each class, ``[C, D]``.
        strength: λ, in features², >= 0.

    Returns:
        W, float64 ``[D, C]``.

    Raises:
        NumericsError: if G + λI is not positive definite.
    """
    gram.diagonal().add_(strength)
    return solve_in_place(gram, sums.mT)


class Ridge(ChosenHead):
    r"""Ridge regression on one-hot labels: :math:`s(z) = z^\top (G + \lambda I)^{-1} \sum_c S_c e_c^\top`.

    Source: as in ACIL (arXiv:2205.14922) and RanPAC (arXiv:2307.02251). Differs: exact in
        any order, and λ is chosen on a part of every task's samples, not of the latest task's alone.

    Args:
        features: as for :class:`Head`.
        strength: λ, >= 0, in features², absolute: it does not grow with the number of samples; ``"auto"`` chooses it
            relative to the mean of G's diagonal.
        relative: whether a number is a share of that mean.
        layer: as for :class:`Head`.
        expand: as for :class:`Head`.
        objective: as for :class:`Head`.
        dtype: as for :class:`Head`.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    amount: Amount
    relative: bool
    called: ClassVar[str] = "strength"

    def __init__(
        self,
        features: nn.Module | Callable[..., Any] | None = None,
        strength: Amount = "auto",
        *,
        relative: bool = False,
        layer: str | None = None,
        expand: FeatureMap | None = None,
        objective: Classification | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.amount, self.relative = self._checked_amount(strength), relative
        super().__init__(features, layer=layer, expand=expand, objective=objective, dtype=dtype)

    @property
    def strength(self) -> Amount:
        """λ as it was asked for."""
        return self.amount

    def _fit(self, sums: Summary, amount: float, *, relative: bool) -> dict[str, Tensor]:
        strength = amount * sums.mean_square() if relative else amount
        return {"weight": ridge_weight(sums.gram(), sums.sums, strength)}

    def _error(self, amount: float, fit: Summary, held: Moments) -> float:
        weight = self._fit(fit, amount, relative=True)["weight"]
        return held_error(weight, torch.zeros_like(weight[0]), held, fit.labels)

    def _score(self, features: Tensor, solved: Mapping[str, Tensor]) -> Tensor:
        return features @ solved["weight"]
