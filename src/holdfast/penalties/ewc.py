r"""Elastic weight consolidation: stay where the Fisher information says it matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError
from holdfast.importance import FisherKind, fisher
from holdfast.importance.untouched import undisturbed
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.penalties.foreign import foreign, initialised_anew, learning_rates
from holdfast.penalties.quadratic import Coupling, QuadraticPenalty
from holdfast.penalties.resources import Resources
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["EWC", "OnlineEWC", "Variant"]

Variant: TypeAlias = Literal["paper", "foreign"]


class _FisherPenalty(QuadraticPenalty):
    """What EWC and online EWC share: an importance that is a diagonal Fisher."""

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        fisher: FisherKind = "auto",
        coupling: Coupling = "gradient",
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
        **resources: Unpack[Resources],
    ) -> None:
        super().__init__(model, strength=strength, coupling=coupling, select=select, objective=objective, **resources)
        if fisher not in ("auto", "exact", "sampled", "empirical", "batched"):
            raise ConfigurationError(
                f"fisher is {fisher!r}; expected 'auto', 'exact', 'sampled', 'empirical' or 'batched'"
            )
        self.fisher = fisher

    def _estimate(
        self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        return fisher(
            self.model, batches, objective=objective, kind=self.fisher, names=list(self.params), generator=generator
        )


class EWC(_FisherPenalty):
    r"""Elastic weight consolidation, one term per task, folded into two tensors per parameter.

    .. math:: \tfrac{\lambda}{2} \sum_t \sum_i F_{t,i} (\theta_i - \theta_{t,i})^2

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3. Differs: the Fisher is per sample and exact by
    default, and the sum over tasks is folded into one term (exactly).

    Args:
        model: the model to protect.
        strength: λ, >= 0. The Fisher is a mean over samples, so λ does not depend on batch size or sample count.
        fisher: ``"exact"``, ``"sampled"``, ``"empirical"`` or ``"batched"`` (not a Fisher; for comparison);
            ``"auto"`` is exact up to 20 outputs, sampled beyond, empirical for a bare callable.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: what a batch means; all outputs compete by default.
        variant: ``"paper"``, or for comparison only ``"foreign"``: the EWC baseline of the CLASSP release, whose Fisher
            and anchor belong to another network, initialised anew and trained by plain SGD for one pass over the
            batches at the learning rate of the attached optimizer. It remembers the first task alone: every later
            ``consolidate`` leaves the penalty as it is. See :func:`holdfast.penalties.foreign.foreign`.
        **resources: ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument; for ``variant="foreign"`` also if a protected parameter belongs to no
            module with ``reset_parameters``, and in ``consolidate`` if no optimizer is attached.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        fisher: FisherKind = "auto",
        coupling: Coupling = "gradient",
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
        variant: Variant = "paper",
        **resources: Unpack[Resources],
    ) -> None:
        super().__init__(
            model,
            strength=strength,
            fisher=fisher,
            coupling=coupling,
            select=select,
            objective=objective,
            **resources,
        )
        if variant not in ("paper", "foreign"):
            raise ConfigurationError(f"variant is {variant!r}; expected 'paper' or 'foreign'")
        self.variant = variant
        if variant == "foreign":
            if fisher != "auto":
                raise ConfigurationError(
                    f"fisher is {fisher!r}, but variant='foreign' has a Fisher of its own; expected 'auto'"
                )
            with undisturbed(model):  # better refused now than after the first task
                initialised_anew(model, self.params)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        if self.variant == "paper":
            self._fold_in(self._estimate(batches, objective, generator))
        elif self.num_tasks == 0:
            names = list(self.params)
            rates = learning_rates(self.model, names, self._optimizers)
            importances, anchors = foreign(
                self.model, batches, objective=objective, names=names, rates=rates, generator=generator
            )
            self.state = {name: {"anchor": anchors[name], "importance": importances[name]} for name in names}


class OnlineEWC(_FisherPenalty):
    r"""Elastic weight consolidation with one running Fisher and the latest anchor.

    .. math:: \tfrac{\lambda}{2} \sum_i \bar F_i (\theta_i - \theta_i^*)^2, \qquad \bar F \leftarrow \gamma \bar F + F_t

    Source: Schwarz et al. 2018, arXiv:1805.06370, sec. 4. Differs: the Fisher is per sample and exact by default.

    Args:
        model: the model to protect.
        strength: λ, >= 0.
        decay: γ, in [0, 1]: how much of the older tasks' Fisher is kept.
        fisher: as for :class:`EWC`.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: what a batch means.
        **resources: ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        decay: float = 1.0,
        fisher: FisherKind = "auto",
        coupling: Coupling = "gradient",
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
        **resources: Unpack[Resources],
    ) -> None:
        super().__init__(
            model,
            strength=strength,
            fisher=fisher,
            coupling=coupling,
            select=select,
            objective=objective,
            **resources,
        )
        self.decay = check_not_negative("decay", decay)
        if self.decay > 1:
            raise ConfigurationError(f"decay is {decay!r}; expected a number from 0 to 1")

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        estimate = self._estimate(batches, objective, generator)
        for name in estimate.keys() & self.state.keys():
            estimate[name] += self.decay * self.state[name]["importance"]
        self._anchor_here(estimate)
