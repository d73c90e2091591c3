r"""GPM, SGP and null-space Adam: steps that the inputs of earlier tasks do not see."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.checks import check_not_negative
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, ProtectionError
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.projections.basis import (
    check_threshold,
    extend_basis,
    extend_basis_of,
    extend_rows,
    null_basis,
    preserved_basis,
    project,
    scaled_importance,
)
from holdfast.projections.inputs import Inputs, as_matrix, collect, sizes
from holdfast.projections.masks import HoldsStatistics, hold
from holdfast.state import anchor_of

__all__ = ["GPM", "SGP", "AdamNSCL", "Subspace", "extend_basis", "project"]


class Subspace(HoldsStatistics):
    r"""Projects each step: what the optimizer did, momentum, adaptive rates and weight decay included.

    .. math:: \theta \leftarrow \theta^* + P(\theta - \theta^*)

    Weights of layers whose inputs are known (see :func:`holdfast.projections.inputs.collect`) move only where the
    inputs of earlier tasks do not see it. The weights themselves are put back onto the subspace after each step, so
    rounding does not add up. Everything else that took part (biases, whose input is always 1; normalisations with their
    running statistics; recurrent layers) is held as it is, for any change of it would be seen. A layer that took no
    part, such as another task's head, stays free.

    A subclass fills :meth:`_extend`: what it remembers of a weight's inputs.
    """

    puts_back: ClassVar[bool] = True
    order: ClassVar[int] = -10  # before those that hold weights to the last bit
    matrices: ClassVar[int] = 1  # of d² numbers per layer that it keeps, at most

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.meta["first"] = []  # weights on whose first dimension inputs act

    @abc.abstractmethod
    def _extend(self, name: str, inputs: Inputs) -> dict[str, Tensor]:
        """What to remember of a weight's inputs: ``"basis"`` and ``"rows"``, with or without their importances."""

    @property
    def fullness(self) -> dict[str, float]:
        """How full each weight's space is: the share of its input directions that are taken, 1 where it is held whole.

        At 1 a layer learns nothing more.
        """
        found = {}
        for name in self.state:
            shares = [self._taken(kind, self.buffers[f"{kind}.{name}"]) for kind in self._kinds(name)]
            found[name] = max(shares, default=1.0)
        return found

    def most_buffer_bytes(self) -> int:
        """A basis of every layer that is full, and whatever else is kept of its inputs."""
        entries = sum(d * (d + 1) + rows for d, rows in sizes(self.model, self.params).values())
        return torch.float64.itemsize * self.matrices * entries

    def _kinds(self, name: str) -> list[str]:
        return [kind for kind in ("basis", "rows") if f"{kind}.{name}" in self.buffers]

    def _taken(self, kind: str, tensor: Tensor) -> float:
        if kind == "basis":
            return tensor.shape[1] / max(1, tensor.shape[0])
        return float((tensor > 0).double().mean())

    def restore_weights(self, step: Step) -> None:
        """Take out of the step what earlier inputs would see."""
        whole = []
        for name in self.live(step):
            weight, anchor = self.part(name), self.state[name]["anchor"]
            if not self._kinds(name):
                whole.append(name)
                continue
            moved = self._projected(name, weight.to(anchor.dtype) - anchor)
            weight.copy_(step.unless_skipped((anchor + moved).to(weight.dtype), weight))
        hold([self.part(name) for name in whole], [self.state[name]["anchor"] for name in whole])
        self._restore_statistics()

    def _projected(self, name: str, moved: Tensor) -> Tensor:
        """A displacement from the anchor without what earlier inputs would see."""
        first = name in self.meta["first"]
        basis, rows = self.buffers.get(f"basis.{name}"), self.buffers.get(f"rows.{name}")
        if rows is not None:
            moved = moved * (1 - self._of_part(name, rows).to(moved.dtype))[:, None]
        if basis is None:
            return moved
        done = project(as_matrix(moved, first), basis.to(moved.dtype))
        return (done.T if first else done).reshape(moved.shape)

    def _of_part(self, name: str, rows: Tensor) -> Tensor:
        """What is known of an embedding's rows, of those alone that are selected."""
        start = self._rows[name][0] if name in self._rows else 0
        return rows[start : start + self.state[name]["anchor"].shape[0]]

    def _fill_up_inputs(self, name: str, inputs: Inputs) -> None:
        """Have what is remembered of a layer's inputs take their size, where there are more now: 0 in the rest."""
        if inputs.first and name in self._rows:
            raise ConfigurationError(
                f"{type(self).__name__} sees inputs of parameter {name!r} along its rows, of which select names some; "
                "expected the whole parameter"
            )
        for kinds, like in ((("basis", "columns"), inputs.columns), (("rows", "counts"), inputs.rows)):
            for kind in kinds:
                held = self.buffers.get(f"{kind}.{name}")
                if held is None or like is None or held.shape[0] == like.shape[0]:
                    continue
                more = like.shape[0] - held.shape[0]
                wider = nn.functional.pad(held, (0, more)) if kind != "basis" else held
                self.buffers[f"{kind}.{name}"] = wider if held.dim() == 1 else nn.functional.pad(wider, (0, 0, 0, more))

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        inputs, took_part = collect(self.model, batches, objective, self.params)
        if not any(bool(t.any()) for found in inputs.values() for t in found.tensors()):
            raise ProtectionError(
                f"{type(self).__name__} found no layer with an input that is not 0, which protects nothing; expected "
                "linear or convolution layers, embeddings or attention among the selected parameters, and a forward "
                "that runs them"
            )
        for name, found in inputs.items():
            self._fill_up_inputs(name, found)
        added = {name: self._extend(name, found) for name, found in inputs.items()}
        for name, tensors in added.items():
            self.buffers.update({f"{kind}.{name}": tensor for kind, tensor in tensors.items()})
        self.meta["first"] = sorted({*self.meta["first"], *(name for name, found in inputs.items() if found.first)})
        for name in self.params:
            if name in took_part or name in self.state:
                held = not self._kinds(name) and name in self.state
                self.state[name] = self.state[name] if held else {"anchor": anchor_of(self.scope(name))}
        self._remember_statistics()


class GPM(Subspace):
    r"""Gradient projection memory: no step along the directions that hold most of earlier inputs' energy.

    .. math:: \Delta W \leftarrow \Delta W (I - M M^\top), \qquad
        \lVert M M^\top R \rVert^2 \ge \varepsilon \lVert R \rVert^2

    Source: Saha et al. 2021, arXiv:2103.09762. Differs: the step is projected, not the gradient, so any optimizer
        will do; bases come from the covariance of all inputs, not from 125 to 300 samples; biases and normalisations,
        which the paper's networks lack, are held.

    Args:
        model: the model to protect.
        threshold: ε, the share of energy that is protected in each layer, more than 0 and at most 1.
        growth: what is added to it with each task (0.003 in the paper's longer streams), up to 1.
        select: which trainable parameters to protect.
        objective: how a batch goes through the model.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        threshold: float = 0.95,
        growth: float = 0.0,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.threshold: float = check_threshold("threshold", threshold)
        self.growth: float = check_not_negative("growth", growth)

    @property
    def current_threshold(self) -> float:
        """ε for the task that is consolidated next."""
        return min(1.0, self.threshold + self.growth * self.num_tasks)

    def _extend(self, name: str, inputs: Inputs) -> dict[str, Tensor]:
        found, threshold = {}, self.current_threshold
        if inputs.columns is not None:
            found["basis"] = extend_basis_of(self.buffers.get(f"basis.{name}"), inputs.columns, threshold=threshold)
        if inputs.rows is not None:
            rows = self.buffers.get(f"rows.{name}")
            found["rows"] = extend_rows(None if rows is None else rows > 0, inputs.rows, threshold=threshold).double()
        return found


class SGP(GPM):
    r"""Scaled gradient projection: as GPM, but along each held direction a part of the step remains.

    .. math:: \Delta W \leftarrow \Delta W (I - M \operatorname{diag}(\lambda) M^\top), \qquad
        \lambda_i = \frac{(\alpha + 1)\, s_i}{\alpha s_i + \max_j s_j}

    Source: Saha and Roy 2023, arXiv:2302.01386. Differs: as for :class:`GPM`.

    Args:
        model: the model to protect.
        threshold: ε, as for :class:`GPM`.
        alpha: α, >= 0: the larger, the more like GPM.
        growth: as for :class:`GPM`.
        select: which trainable parameters to protect.
        objective: how a batch goes through the model.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        threshold: float = 0.95,
        alpha: float = 10.0,
        growth: float = 0.0,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, threshold=threshold, growth=growth, select=select, objective=objective)
        self.alpha: float = check_not_negative("alpha", alpha)
        self._before: dict[str, Tensor] = {}

    def project_gradient(self, step: Step) -> None:
        """Note where the weights stand: along a direction that is not held whole, the step alone is scaled."""
        self._before = {
            name: self.part(name).clone()
            for name in self.live(step)
            if f"importance.{name}" in self.buffers or f"rows.{name}" in self.buffers
        }

    def _projected(self, name: str, moved: Tensor) -> Tensor:
        earlier = self._before.pop(name).to(moved.dtype) - self.state[name]["anchor"]
        step = moved - earlier
        first = name in self.meta["first"]
        basis, rows = self.buffers.get(f"basis.{name}"), self.buffers.get(f"rows.{name}")
        if rows is not None:
            step = step * (1 - self._of_part(name, rows).to(moved.dtype))[:, None]
        if basis is not None:
            importance = self.buffers[f"importance.{name}"].to(moved.dtype)
            done = project(as_matrix(step, first), basis.to(moved.dtype), importance)
            step = (done.T if first else done).reshape(moved.shape)
        return earlier + step

    def _extend(self, name: str, inputs: Inputs) -> dict[str, Tensor]:
        found = super()._extend(name, inputs)
        if inputs.columns is not None:
            basis = found["basis"]
            energy = (basis * (inputs.columns @ basis)).sum(0)
            known = self.buffers.get(f"importance.{name}")
            found["importance"] = scaled_importance(known, energy, alpha=self.alpha)
        if inputs.rows is not None:
            held = found["rows"] > 0
            known = self.buffers.get(f"rows.{name}", torch.zeros_like(inputs.rows))
            new = scaled_importance(None, torch.where(held, inputs.rows, 0.0), alpha=self.alpha)
            found["rows"] = torch.where(held, (known + new).clamp_max(1), 0.0)
        return found


class AdamNSCL(Subspace):
    r"""Null-space training: steps in the null space of all earlier inputs' covariance.

    .. math:: \Delta W \leftarrow \Delta W\, U_2 U_2^\top, \qquad C = \tfrac1N \sum_t \sum_i x_i x_i^\top

    Source: Wang et al. 2021 (Adam-NSCL), arXiv:2103.07113. Differs: the null space is what is orthogonal to the fewest
    directions with a share of the energy, since a multiple of the smallest eigenvalue says nothing where that is 0
    (``multiple`` gives the paper's rule); the release divides the projector by its norm, which is a learning rate of
    another size, and this does not; any optimizer will do.

    Args:
        model: the model to protect.
        threshold: the share of the inputs' energy that is kept out of, more than 0 and at most 1.
        multiple: a of the paper's rule λ_i ≤ a λ_min, >= 1, in the place of ``threshold``; ``None`` for ``threshold``.
        select: which trainable parameters to protect.
        objective: how a batch goes through the model.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    matrices: ClassVar[int] = 2

    def __init__(
        self,
        model: nn.Module,
        *,
        threshold: float = 0.95,
        multiple: float | None = None,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.threshold: float = check_threshold("threshold", threshold)
        if multiple is not None and not check_not_negative("multiple", multiple) >= 1:
            raise ConfigurationError(f"multiple is {multiple!r}; expected a number >= 1, or None")
        self.multiple = multiple

    def _extend(self, name: str, inputs: Inputs) -> dict[str, Tensor]:
        found = {}
        if inputs.columns is not None:
            total = inputs.columns + self.buffers.get(f"columns.{name}", 0.0)
            found["columns"] = total
            if self.multiple is None:
                found["basis"] = preserved_basis(total, threshold=self.threshold)
            else:
                free = null_basis(total, multiple=self.multiple)
                found["basis"] = torch.linalg.qr(free, mode="complete").Q[:, free.shape[1] :]
        if inputs.rows is not None:
            counts = inputs.rows + self.buffers.get(f"counts.{name}", 0.0)
            found["counts"] = counts
            share = self.threshold if self.multiple is None else 1.0
            found["rows"] = extend_rows(None, counts, threshold=share).double()
        return found
