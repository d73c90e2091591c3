r"""Synaptic intelligence: a weight matters as much as its way lowered the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from holdfast.checks import check_positive
from holdfast.penalties.path import PathPenalty
from holdfast.penalties.quadratic import Options
from holdfast.penalties.tensors import side_by_side
from holdfast.state import anchor_of
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SI", "synaptic_importance"]


def synaptic_importance(path: Tensor, displacement: Tensor, damping: float) -> Tensor:
    r"""What one task adds to the importance.

    .. math:: \frac{\max(0, \omega)}{(\theta - \theta_0)^2 + \xi}, \qquad \omega = -\sum_k g_k \, \Delta\theta_k

    Source: Zenke et al. 2017, arXiv:1703.04200, eq. 5. Differs: the maximum, so that no penalty is negative.

    Args:
        path: ω, the loss's decrease that is due to each weight, ``[*p]``, in loss units.
        displacement: how far the task moved each weight in all, ``[*p]``.
        damping: ξ, in parameter², > 0.

    Returns:
        Importance ``[*p]``, >= 0, in loss / parameter².
    """
    return path.clamp_min(0).div_(displacement.square().add_(damping))


class SI(PathPenalty):
    r"""Synaptic intelligence.

    .. math::
        c \sum_i \Omega_i (\theta_i - \theta_i^*)^2, \qquad
        \Omega \leftarrow \Omega + \frac{\max(0, \omega)}{(\theta - \theta_0)^2 + \xi}, \qquad
        \omega = -\sum_k g_k \, \Delta\theta_k

    with g the gradient of the task's loss alone, as the user's clipping leaves it and before any method edits it, and
    Δθ the step that was really made.

    Source: Zenke et al. 2017, arXiv:1703.04200, eq. 3-5. Differs: a negative ω counts as 0.

    State per parameter: ``importance``, ``anchor`` and ``path``; two more tensors of its size while training.

    Args:
        model: the model to protect; attach before the first task, which has to be watched too.
        strength: c, >= 0.
        damping: ξ, in parameter², > 0.
        coupling: ``"gradient"`` or ``"proximal"``. ``"loss"`` is refused, here and in every other quadratic penalty on
            the same optimizer: the path integral would contain that penalty. Beside LwF both losses are integrated.
        select: which trainable parameters to protect.
        objective: not used; here so that methods can be exchanged.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        damping: float = 0.1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, strength=strength, **options)
        self.damping: float = check_positive("damping", damping)

    @property
    def elementwise(self) -> bool:
        """Whether nothing but single weights is looked at."""
        return not self.measured_steps

    def _summarise(self) -> dict[str, dict[str, Tensor]]:
        fresh = {}
        for name in self.params:
            held, here = self.state.get(name, {}), anchor_of(self.scope(name))
            known = held.get("importance", here)
            importance = known.to(torch.promote_types(known.dtype, here.dtype), copy=True)
            if "importance" not in held:
                importance.zero_()
            if "path" in held:
                start = held["anchor"] if "anchor" in held else held["start"]
                for total, path, end, begin in side_by_side(importance, held["path"], here, start):
                    total.add_(synaptic_importance(path, end - begin, self.damping))
            fresh[name] = {"anchor": here, "importance": importance}
        return fresh
