r"""Elastic weight consolidation: stay where the Fisher information says it matters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError
from holdfast.importance import FisherKind, fisher
from holdfast.objectives import Batch, Objective
from holdfast.penalties.quadratic import Options, QuadraticPenalty
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["EWC", "OnlineEWC"]


class _FisherPenalty(QuadraticPenalty):
    """What EWC and online EWC share: an importance that is a diagonal Fisher."""

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength = "auto",
        fisher: FisherKind = "auto",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, strength=strength, **options)
        if fisher not in ("auto", "exact", "sampled", "empirical", "batched"):
            raise ConfigurationError(
                f"fisher is {fisher!r}; expected 'auto', 'exact', 'sampled', 'empirical' or 'batched'"
            )
        self.fisher = fisher

    def _estimate(
        self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        found = fisher(
            self.model, batches, objective=objective, kind=self.fisher, names=list(self.params), generator=generator
        )
        return self._scoped(found)


class EWC(_FisherPenalty):
    r"""Elastic weight consolidation, one term per task, folded into two tensors per parameter.

    .. math:: \tfrac{\lambda}{2} \sum_t \sum_i F_{t,i} (\theta_i - \theta_{t,i})^2

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3. Differs: the Fisher is per sample (by
    default summed over all outputs, see ``fisher``), and the sum over tasks is folded into one term (exactly).

    Args:
        model: the model to protect.
        strength: λ, >= 0; ``"auto"`` (or an :class:`~holdfast.AutoStrength`) finds it on the first steps of each new
            task. The Fisher is a mean over samples, so λ does not depend on batch size or sample count.
        fisher: ``"exact"``, ``"sampled"``, ``"empirical"`` or ``"batched"`` (not a Fisher; for comparison);
            ``"auto"`` is exact up to 20 outputs (beyond 256 samples, of fewer and fewer), sampled beyond, empirical
            for what gives losses only.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: what a batch means; all outputs compete by default.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self._fold_in(self._estimate(batches, objective, generator))


class OnlineEWC(_FisherPenalty):
    r"""Elastic weight consolidation with one running Fisher and the latest anchor.

    .. math:: \tfrac{\lambda}{2} \sum_i \bar F_i (\theta_i - \theta_i^*)^2, \qquad \bar F \leftarrow \gamma \bar F + F_t

    Source: Schwarz et al. 2018, arXiv:1805.06370, sec. 4. Differs: the Fisher is per sample, as in :class:`EWC`.

    Args:
        model: the model to protect.
        strength: as for :class:`EWC`.
        decay: γ, in [0, 1]: how much of the older tasks' Fisher is kept.
        fisher: as for :class:`EWC`.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: what a batch means.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength = "auto",
        decay: float = 1.0,
        fisher: FisherKind = "auto",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            model,
            strength=strength,
            fisher=fisher,
            **options,
        )
        self.decay: float = check_not_negative("decay", decay)
        if self.decay > 1:
            raise ConfigurationError(f"decay is {decay!r}; expected a number from 0 to 1")

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        estimate = self._estimate(batches, objective, generator)
        for name in estimate.keys() & self.state.keys():
            estimate[name].add_(self.state[name]["importance"], alpha=self.decay)
        self._anchor_here(estimate)
