r"""O-LoRA: a new adapter learns in directions that the adapters before it did not use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.checks import check_not_negative
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, ProtectionError
from holdfast.method import Method
from holdfast.names import Select
from holdfast.objectives import Batch, Objective

__all__ = ["OLoRA", "overlap", "overlap_gradient"]

Form: TypeAlias = Literal["released", "paper"]

_OLD = "old."
_DOWN = ".lora_A."


def overlap(old: Tensor, new: Tensor, form: Form) -> Tensor:
    r"""How far two low-rank subspaces of inputs overlap.

    .. math:: \sum_{ij} \lvert A_{\text{old}} A^\top \rvert_{ij} \quad\text{(released)}, \qquad
        \sum_{ij} (A_{\text{old}} A^\top)_{ij}^2 \quad\text{(paper)}

    Source: Wang et al. 2023, arXiv:2310.14152, eq. 8, which squares; its release takes absolute values.

    Args:
        old: rows of all adapters before, ``[k, n]``.
        new: A, ``[r, n]``.
        form: which.

    Returns:
        Scalar ``[]``, >= 0.
    """
    products = old.to(new) @ new.T
    return products.abs().sum() if form == "released" else products.square().sum()


def overlap_gradient(old: Tensor, new: Tensor, form: Form) -> Tensor:
    r"""The gradient of :func:`overlap` with respect to A, ``[r, n]``.

    .. math:: \operatorname{sign}(A A_{\text{old}}^\top) A_{\text{old}}, \qquad 2 A A_{\text{old}}^\top A_{\text{old}}
    """
    old = old.to(new)
    products = new @ old.T
    return (products.sign() if form == "released" else 2 * products) @ old


class OLoRA(Method):
    r"""The inputs' side A of a new LoRA adapter is kept orthogonal to those of the adapters before it, layer by layer.

    .. math:: \lambda_1 \sum_\ell \sum_{ij} \bigl\lvert A^{\text{old}}_\ell A_\ell^\top \bigr\rvert_{ij}
        + \lambda_2 \sum_p \lVert p \rVert_2

    ``consolidate`` remembers A of the adapters that are trained; then freeze these and add another one
    (``model.add_adapter``), or merge them and begin a new one. To go on with the same adapter is refused: it would be
    held against itself.

    Source: Wang et al. 2023, arXiv:2310.14152; its release has :math:`\lambda_1 = 0.5`, absolute values, and norms that
    are not squared. Differs: the gradient is added once per optimizer step, after clipping.

    Args:
        model: with LoRA adapters of PEFT.
        strength: :math:`\lambda_1`, >= 0.
        shrink: :math:`\lambda_2`, >= 0: pulls the new adapters' parameters p to 0.
        form: ``"released"`` (absolute values) or ``"paper"`` (squares).
        select: which trainable parameters take part.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument; at ``consolidate``, for a model in which no LoRA adapter is trained.
        ProtectionError: in the first step after ``consolidate``, if the same adapter is trained on.
    """

    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float = 0.5,
        shrink: float = 0.0,
        form: Form = "released",
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.strength: float = check_not_negative("strength", strength)
        self.shrink: float = check_not_negative("shrink", shrink)
        if form not in ("released", "paper"):
            raise ConfigurationError(f"form is {form!r}; expected 'released' or 'paper'")
        self.form: Form = form
        self._another = False  # whether it was seen that another adapter is trained

    @property
    def current_strength(self) -> float:
        """λ₁."""
        return self.strength

    @torch.no_grad()
    def value(self) -> Tensor:
        """The penalty now, ``[]``, in loss units."""
        total = super().value()
        for name, p in self.params.items():
            old = self.buffers.get(_place(name))
            if old is not None:
                total = total + self.strength * overlap(old, p.detach(), self.form).to(total)
            if self.shrink and self.num_tasks > 0 and ".lora_" in name:
                total = total + self.shrink * p.detach().norm().to(total)
        return total

    @torch.no_grad()
    def add_gradient(self, step: Step) -> None:
        """Add the penalty's gradient, in closed form."""
        if self.num_tasks == 0:
            return
        self._check_another()
        for name in self.live(step, held=False):
            p = self.params[name].detach()
            pull = torch.zeros_like(p)
            if (old := self.buffers.get(_place(name))) is not None:
                pull += self.strength * overlap_gradient(old, p, self.form)
            if self.shrink and ".lora_" in name:
                pull += self.shrink * torch.nan_to_num(p / p.norm())
            grad = self.params[name].grad
            assert grad is not None, "live says so"
            grad.add_(pull if step.grad_scale is None else pull * step.grad_scale.to(pull))

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        found = {name: p.detach() for name, p in self.params.items() if _DOWN in name}
        if not found:
            raise ConfigurationError(
                "O-LoRA remembers LoRA adapters that are trained, but the model has none; expected one of "
                "peft.get_peft_model"
            )
        kept = dict(self.buffers)
        for name, rows in found.items():
            place = _place(name)
            kept[place] = torch.cat([kept[place], rows]) if place in kept else rows.clone()
        self.buffers = kept
        self.meta["latest"] = {_place(name): len(rows) for name, rows in found.items()}

    def _begin_anew(self) -> None:
        self._another = False

    def _loaded(self) -> None:
        super()._loaded()
        self._another = False

    def _check_another(self) -> None:
        """Look, once, whether what is trained now is what was remembered."""
        if self._another or self.meta["steps"] > 0:
            return
        self._another = True
        for name, p in self.params.items():
            rows = self.meta["latest"].get(_place(name))
            if (
                rows is not None
                and rows == len(p)
                and torch.equal(self.buffers[_place(name)][-rows:].to(p), p.detach())
            ):
                raise ProtectionError(
                    f"{name!r} is the adapter that was just remembered, and it is still trained, so that it would be "
                    "held against itself: freeze it and add another one, or merge it and begin a new one"
                )


def _place(name: str) -> str:
    """Where the old rows of a layer are, by the name of its A; nowhere for anything else."""
    return _OLD + name.partition(_DOWN)[0] if _DOWN in name else ""
