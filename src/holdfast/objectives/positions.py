"""Objectives whose outputs stand at positions, each with a target: one per sample, per token, per pixel."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Objective
from holdfast.objectives.batches import found_targets, is_pair, targets_of
from holdfast.objectives.distributions import IGNORED, Distribution, spread
from holdfast.objectives.meaning import Meaning
from holdfast.objectives.plain import Plain
from holdfast.objectives.units import Units

__all__ = ["Positions"]


class Positions(Plain, Meaning):
    """``B`` rows of ``P`` positions, with ``K`` outputs and one target at each.

    A subclass says how outputs and labels are laid out, which positions count and which belong to one sample
    (:meth:`units`); all that importances and teachers ask follows from that.

    Attributes:
        distribution: what the outputs at a position say of its target.
        no_exact: why there is no exact Fisher; empty where there is one.
        saved_as: by what name a state has it. A class that does not set it itself is of one's own making.
    """

    distribution: ClassVar[Distribution]
    no_exact: ClassVar[str] = ""
    saved_as: ClassVar[str]

    @abc.abstractmethod
    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse outputs of another shape, naming the objective that fits."""

    @abc.abstractmethod
    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse targets of another shape or kind, naming the objective that fits."""

    @abc.abstractmethod
    def positions(self, outputs: Tensor) -> Tensor:
        """The outputs position by position, ``[B, P, K]``."""

    @abc.abstractmethod
    def at_positions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The targets position by position, ``[B, P]``; -100 where there is none."""

    @abc.abstractmethod
    def as_targets(self, outputs: Tensor, drawn: Tensor) -> Any:
        """What was drawn at each position, ``[B, P]``, as a batch has its targets."""

    @abc.abstractmethod
    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """Which positions count, and which belong to one sample.

        Args:
            batch: with or without targets.
            outputs: this objective's outputs, where neither targets nor masks of the batch say how many there are.
        """

    def open(self, outputs: Tensor, batch: Batch, fill: float = -torch.inf) -> Tensor:
        """The outputs, with those of padding filled where padding is among what competes: by default it cannot win."""
        return outputs

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass: the outputs that this task uses, ``[B, ...]``."""
        return self.select(self.forward(model, batch))

    def targets(self, batch: Batch) -> Tensor | None:
        """The targets of a batch, if it has any."""
        return found_targets(batch)

    def check(self, outputs: Tensor, batch: Batch) -> None:
        """Refuse outputs, and targets where the batch has some, of the wrong shape; also targets that are no class."""
        self.check_outputs(outputs)
        targets = self.targets(batch)
        if targets is not None:
            self.check_targets(outputs, targets)
            self.at_positions(outputs, targets)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One loss per sample, ``[B]`` or ``[B, S]``, in nats."""
        targets = self.targets(batch)
        if targets is None:
            targets = targets_of(batch)
        self.check_outputs(outputs)
        self.check_targets(outputs, targets)
        rows = self.positions(self.open(outputs, batch))
        each = self.distribution.losses(rows, self.at_positions(outputs, targets))
        return self.units(batch, outputs).totals(each)

    def count(self, batch: Batch, outputs: Tensor | None = None) -> int:
        """How many samples a batch holds: those with a position that counts."""
        return self.units(batch, outputs).count()

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """Targets drawn from the model's distribution at every position."""
        self.check_outputs(outputs)
        return (None, self.as_targets(outputs, self.distribution.draw(self.positions(outputs), generator)))

    def draw(self, outputs: Tensor, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The batch with targets drawn from the model, none where the batch has none."""
        _, drawn = self.sample(self.open(outputs, batch), generator)
        return self.relabelled(batch, self.masked(outputs, drawn, self.units(batch, outputs).valid))

    def masked(self, outputs: Tensor, drawn: Any, valid: Tensor) -> Any:
        """Drawn targets, none at positions that do not count."""
        each = self.at_positions(outputs, drawn)
        return self.as_targets(outputs, each.masked_fill(~valid, IGNORED))

    def relabelled(self, batch: Batch, targets: Any) -> Batch:
        """A batch with other targets, and without the words, which are none of the model's own."""
        if isinstance(batch, Mapping):
            return {**{key: value for key, value in batch.items() if key != "input_ids"}, "labels": targets}
        inputs = batch[0] if is_pair(batch) else None
        if isinstance(inputs, Mapping):
            return ({key: value for key, value in inputs.items() if key != "input_ids"}, targets)
        return (None, targets)

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """Terms ``[B]`` (``[B, P]``, one for each position) that make the exact Fisher information.

        Raises:
            ConfigurationError: where it is out of reach.
        """
        if self.no_exact:
            raise ConfigurationError(
                f"{type(self).__name__} has no exact Fisher ({self.no_exact}): choose fisher='sampled' or "
                "fisher='empirical'"
            )
        self.check_outputs(outputs)
        return self._factors(outputs)

    def _factors(self, outputs: Tensor) -> Iterator[Tensor]:
        for term in self.distribution.factors(self.positions(outputs)):
            yield term[:, 0] if term.shape[1] == 1 else term

    def exact_outputs(self, outputs: Tensor) -> int | None:
        """Positions times classes."""
        return None if self.no_exact else self.positions(outputs)[:1].numel()

    def exact(self, outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        """The factors, each times its share in its sample's loss and 0 where no sample is."""
        factors = self.factors(self.open(outputs, batch))
        units = self.units(batch, outputs)
        for term in factors:
            yield units.scaled(term)

    def squares(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The squared norm of each sample's outputs."""
        self.check_outputs(outputs)
        rows = self.positions(self.open(outputs, batch, 0.0))
        return self.units(batch, outputs).totals(rows.square().sum(-1))

    def spreads(self, outputs: Tensor, batch: Batch, measure: str) -> Tensor:
        """How spread the softmax is, added up over each sample's positions."""
        self.check_outputs(outputs)
        rows = self.positions(self.open(outputs, batch))
        return self.units(batch, outputs).totals(spread(rows, measure))

    def shares(self, batch: Batch, outputs: Tensor) -> Tensor:
        """How much each position of a teacher's outputs counts, ``[B, P]``."""
        return self.units(batch, outputs).valid

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, *, temperature: float, factor: float) -> Tensor:
        """Mean over labelled positions, so that a strength does not depend on length.

        Args:
            student: ``[B, ...]``, as :meth:`select` gives it.
            teacher: likewise; if the student has more outputs by now, as many as the teacher had are compared.
            batch: where it is read which positions count; its targets may be another task's.
            temperature: T, > 0.
            factor: what softened distances are multiplied by: T², or 1.

        Returns:
            Scalar ``[]``, >= 0, 0 where the two agree.
        """
        self.check_outputs(student)
        new, old = (self.positions(self.open(outputs, batch)) for outputs in (student, teacher))
        if new.shape[-1] > old.shape[-1]:
            new = new[..., : old.shape[-1]]
        if new.shape != old.shape:
            raise DataError(
                f"the old outputs have shape {tuple(teacher.shape)}, but the model now gives {tuple(student.shape)}"
            )
        each = self.distribution.divergence(new, old, temperature)
        share = self.shares(batch, student).to(each.dtype)
        total = torch.where(share > 0, each, 0).mul(share).sum() / share.sum().clamp(min=1e-9)
        return factor * total if self.distribution.softened else total

    def no_distance(self) -> str | None:
        """There is one."""
        return None

    def covers(self, other: Objective | Meaning) -> bool:
        """Objectives of one built-in kind that go through the model in one way cover each other."""
        if self is other or self == other:
            return True
        alike = isinstance(other, type(self)) and type(self) is type(other) and self.shared_key == other.shared_key
        return alike and "saved_as" in vars(type(self))

    def settings(self) -> dict[str, Any] | None:
        """The constructor's arguments as plain values; ``None`` with a ``forward``, or for a class of one's own."""
        saved = self._forward is None and "saved_as" in vars(type(self))
        return self._arguments() if saved else None

    def _arguments(self) -> dict[str, Any]:
        return {}
