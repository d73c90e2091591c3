r"""L2-SP: stay near the starting point. The control that every importance has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from holdfast.errors import ConfigurationError
from holdfast.objectives import Batch, Objective
from holdfast.penalties.quadratic import Options, QuadraticPenalty
from holdfast.penalties.resources import check_no_importances
from holdfast.state import anchor_of
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["L2SP"]


class L2SP(QuadraticPenalty):
    r"""Squared distance from the anchor, every weight alike.

    .. math:: \tfrac{\lambda}{2} \lVert \theta - \theta^* \rVert^2

    Source: Li et al. 2018, arXiv:1802.01483, eq. 2. Differs: parameters without an anchor are left alone.

    Args:
        model: the model to protect.
        strength: λ, in loss / parameter², >= 0.
        anchors: ``"latest"`` holds to the end of the latest task; ``"all"`` adds one term per task (folded).
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: not used; here so that methods can be exchanged.
        **options: also ``state_device`` and ``fused``, with ``anchors="all"`` also ``importance_dtype``: see
            ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    needs_data: ClassVar[bool] = False
    renewed: ClassVar[int] = 1
    auto_fraction: ClassVar[float | None] = 0.1  # more would hold weights that nobody needs, too

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        anchors: Literal["latest", "all"] = "latest",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, strength=strength, **options)
        if anchors not in ("latest", "all"):
            raise ConfigurationError(f"anchors is {anchors!r}; expected 'latest' or 'all'")
        if anchors == "latest":
            check_no_importances(options, "L2SP(anchors='latest')")
        self.anchors = anchors

    @property
    def elementwise(self) -> bool:
        """Whether nothing but single weights is looked at."""
        return self.anchors == "latest" and self.coupling != "loss" and not self.measured_steps

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        if self.anchors == "latest":
            self.state.update({name: {"anchor": anchor_of(self.scope(name))} for name in self.params})
        else:
            self._fold_in({name: torch.ones_like(anchor_of(self.scope(name))) for name in self.params})
