r"""Anastrophic regularization: L2-SP on the weight tensors, and a term on the phases of their spectrum.

With :math:`F` the discrete Fourier transform of a flattened tensor of ``N`` entries, the release penalises the mean
over the ``2N`` real numbers of :math:`(F(w) - F(w^*))^2`. By Parseval's theorem that is :math:`\tfrac12\lVert w - w^*
\rVert^2` exactly, so it is computed here in O(N), without a transform.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from holdfast.checks import check_interval, check_not_negative
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.objectives import Batch, Objective
from holdfast.penalties.quadratic import Options, QuadraticPenalty
from holdfast.penalties.resources import check_no_importances
from holdfast.penalties.spectral import flat, gradient_parts, spectral_coherence, spectral_coherence_gradient
from holdfast.sharding import is_sharded, local, place_like, whole
from holdfast.state import anchor_of
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Anastrophic", "is_weight"]


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """Whether the release regularizes a parameter: it goes by the name."""
    return "weight" in name


class Anastrophic(QuadraticPenalty):
    r"""The published penalty on the weight tensors, active from the second task on.

    .. math:: \sum_w \lambda \left(1 - \Phi(w)\right) + \tfrac{\eta}{2} \lVert w - w^* \rVert^2

    Source: the Anastrophic release (its λ is ``coherence``, its η ``strength``). Differs: the second term is computed
    by Parseval's theorem; a tensor without a gradient is left alone. With ``coherence=0`` it is
    :class:`~holdfast.L2SP` on the weight tensors.

    Args:
        model: the model to protect.
        strength: η, in loss / parameter², >= 0.
        coherence: λ, >= 0; 0 leaves Φ out, and with it every transform.
        phi_every: Φ's gradient is added every k-th step only, k times as large, so that the sum of k steps is the same.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``; the last acts on the quadratic term, and Φ's gradient
            is still added to the loss's.
        select: which trainable parameters to protect: by default those with ``weight`` in their name.
        objective: not used; here so that methods can be exchanged.
        **options: also ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

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
        strength: Strength = 3.0,
        coherence: float = 1.0,
        phi_every: int = 1,
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("select", is_weight)
        super().__init__(model, strength=strength, **options)
        check_no_importances(options, "Anastrophic")
        self.coherence: float = check_not_negative("coherence", coherence)
        self.phi_every: int = check_interval("phi_every", phi_every)
        if phi_every > 1 and self.coupling == "loss":
            raise ConfigurationError(
                f"phi_every is {phi_every!r} with coupling='loss', where Φ is part of every loss; "
                "expected 1, or another coupling"
            )

    def _take_effect(self, model: nn.Module, *, effective: bool) -> None:
        if effective and self.coherence > 0:
            raise ConfigurationError(
                f"coherence is {self.coherence!r}, whose term has no gradient on the weights that adapters give; "
                "expected coherence=0 for on='effective'"
            )
        super()._take_effect(model, effective=effective)

    def value(self) -> Tensor:
        """The penalty now, ``[]``, in loss units, whatever the coupling; differentiable."""
        total = super().value()
        if self.num_tasks > 0 and self.coherence > 0:
            for name, p in self.params.items():
                if self.holds(name):
                    total = total + self.coherence * (1 - _coherence(self.block(name, p))).to(total)
        return total

    def add_gradient(self, step: Step) -> None:
        """Add the gradient of Φ's term, and the quadratic term's where the coupling says so."""
        super().add_gradient(step)
        if self.coherence == 0 or self.coupling == "loss":
            return
        due = self._due(self._pulled(step))
        for name, grad in zip(due, self._gradients(due), strict=True):
            self._add_coherence(name, grad, step.grad_scale)

    def _due(self, names: list[str]) -> list[str]:
        """Those whose turn it is; counted per parameter, for it may be one of several optimizers that steps."""
        if self.phi_every == 1 or not names:
            return names
        seen = self.meta.get("phi_seen", {})
        due = [name for name in names if seen.get(name, 0) % self.phi_every == 0]
        self.meta["phi_seen"] = {**seen, **{name: (seen.get(name, 0) + 1) % self.phi_every for name in names}}
        return due

    def _add_coherence(self, name: str, grad: Tensor, grad_scale: Tensor | None) -> None:
        p = self.params[name].detach()
        x = flat(whole(self.block(name)))  # Φ is of a whole tensor: a sharded one is gathered, one at a time
        _, y, along_y, along_x = gradient_parts(x)
        factor: Tensor | float = -self.coherence * self.phi_every
        if grad_scale is not None:
            factor = factor * grad_scale.to(x.device)
        if x.dtype == grad.dtype and grad.is_contiguous() and not is_sharded(p):
            grad.view(-1).addcmul_(y, factor * along_y).addcmul_(x, factor * along_x)
        else:
            change = y.mul_(factor * along_y).addcmul_(x, factor * along_x)
            part = local(place_like(p, change.view(p.shape))) if is_sharded(p) else change.view(grad.shape)
            grad.add_(part.to(grad.dtype))

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        self.state.update({name: {"anchor": anchor_of(self.scope(name))} for name in self.params})


def _coherence(p: Tensor) -> Tensor:
    """Φ ``[]``; of a sharded tensor by its gradient in closed form, because each process has but its own part."""
    if not is_sharded(p):
        return spectral_coherence(p)
    phi, slope = spectral_coherence_gradient(whole(p.detach()))
    here = local(p)
    along = (here.to(slope.dtype) * local(place_like(p, slope))).sum()
    return phi + (along - along.detach())
