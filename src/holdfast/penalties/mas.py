r"""Memory aware synapses: a weight matters as much as it moves the outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from holdfast.errors import ConfigurationError
from holdfast.importance import mas
from holdfast.objectives import Batch, Objective
from holdfast.penalties.quadratic import Options, QuadraticPenalty
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MAS"]


class MAS(QuadraticPenalty):
    r"""Memory aware synapses; no labels are used.

    .. math::
        \lambda \sum_i \Omega_i (\theta_i - \theta_i^*)^2, \qquad
        \Omega \leftarrow \Omega + \mathbb E_x \left| \partial_\theta \lVert f(x) \rVert^2 \right|

    Source: Aljundi et al. 2018, arXiv:1711.09601, eq. 2-4. Differs: no; the absolute value is taken per
    sample, where several releases take it after adding over a batch.

    Args:
        model: the model to protect.
        strength: λ, >= 0; ``"auto"`` (or an :class:`~holdfast.AutoStrength`) finds it on the first steps of each new
            task.
        form: ``"squared_norm"`` as above, or ``"norm"`` for the outputs' norm itself.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: which outputs a batch has; all of them by default.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    halved: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength = "auto",
        form: Literal["squared_norm", "norm"] = "squared_norm",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, strength=strength, **options)
        if form not in ("squared_norm", "norm"):
            raise ConfigurationError(f"form is {form!r}; expected 'squared_norm' or 'norm'")
        self.form: Literal["squared_norm", "norm"] = form

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        found = mas(self.model, batches, objective=objective, form=self.form, names=list(self.params))
        omega = self._scoped(found)
        for name in omega.keys() & self.state.keys():
            omega[name] += self.state[name]["importance"]
        self._anchor_here(omega)
