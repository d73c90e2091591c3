"""What importances and teachers ask of an objective; every built-in one answers, and one of your own is helped to."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.objectives.base import Batch, Objective, Padded
from holdfast.objectives.batches import leading_size
from holdfast.objectives.distributions import spread

__all__ = ["Meaning", "Own", "count", "draw", "meaning_of"]


class Meaning(abc.ABC):
    """An objective with all that the library asks of one, beyond the four methods of :class:`Objective`.

    Attributes:
        losses_only: it knows losses, and nothing of the model's distribution: only the empirical Fisher is defined.
    """

    losses_only: ClassVar[bool] = False

    @property
    def named(self) -> str:
        """What errors call it."""
        return type(self).__name__

    @abc.abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """Forward pass: what :meth:`losses` takes."""

    @abc.abstractmethod
    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        """One loss per sample, ``[B]`` (``[B, S]`` where a row holds several samples)."""

    @abc.abstractmethod
    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """Terms whose squared per-sample gradients add up to the exact Fisher information."""

    def root(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass: a tensor ``[B, ...]`` from which the losses come by :meth:`losses_from`."""
        found: Tensor = self.outputs(model, batch)
        return found

    def losses_from(self, root: Tensor, batch: Batch) -> Tensor:
        """The losses of a batch, out of :meth:`root`."""
        return self.losses(root, batch)

    def scores_from(self, root: Tensor, batch: Batch) -> Tensor:
        """What a Fisher information squares the gradients of, out of :meth:`root`: as a rule the losses."""
        return self.losses_from(root, batch)

    def answers(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass: the outputs whose size or spread says how much a weight matters, ``[B, ...]``."""
        return self.root(model, batch)

    def check(self, outputs: Tensor, batch: Batch) -> None:
        """Refuse outputs, and targets where the batch has some, that are not what this objective means."""
        return None

    @abc.abstractmethod
    def count(self, batch: Batch, outputs: Tensor | None = None) -> int:
        """How many samples a batch holds; ``outputs`` (or the root) help where the batch has no targets."""

    @abc.abstractmethod
    def draw(self, outputs: Tensor, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The batch with targets drawn from the model, none where the batch has none."""

    @abc.abstractmethod
    def exact_outputs(self, outputs: Tensor) -> int | None:
        """From how many outputs the exact Fisher is made; ``None`` where it is out of reach."""

    @abc.abstractmethod
    def exact(self, outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Like :meth:`factors`, each times its share in its sample's loss and 0 where no sample is."""

    @abc.abstractmethod
    def squares(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The squared norm of each sample's outputs, ``[B]`` or ``[B, S]``."""

    @abc.abstractmethod
    def spreads(self, outputs: Tensor, batch: Batch, measure: str) -> Tensor:
        """How spread each sample's softmax is (``"entropy"`` or ``"l2"``), ``[B]`` or ``[B, S]``."""

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, *, temperature: float, factor: float) -> Tensor:
        """Mean over labelled positions of how far a student is from a teacher, ``[]``; softened ones times a factor.

        Raises:
            ConfigurationError: if the outputs of this objective have no distance.
        """
        why_not = self.no_distance()
        assert why_not is not None
        raise ConfigurationError(why_not)

    def no_distance(self) -> str | None:
        """Why there is no :meth:`distance`; ``None`` where there is one."""
        return (
            f"LwF cannot compare the outputs of {type(self).__name__}: use an objective that says what they are "
            "(Classification, TokenClassification, Segmentation, Regression, MultiLabel, QuestionAnswering, a language "
            "model's), or give it a method distill(student, teacher, temperature) -> [B]"
        )

    def covers(self, other: Objective | Meaning) -> bool:
        """Whether all that ``other`` would distil is part of what this one distils."""
        return self is other or self == other

    @property
    def shared_key(self) -> Hashable:
        """Objectives with equal keys may share one forward pass."""
        return id(self)

    def settings(self) -> dict[str, Any] | None:
        """The constructor's arguments as plain values; ``None`` where they cannot be saved."""
        return None


class Own(Meaning):
    """An objective of one's own that has the four methods of :class:`Objective`, and what follows from them.

    A row is a sample, unless the objective has ``count`` and ``mask`` (see :class:`Padded`).
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The objective's own."""
        return self.objective.outputs(model, batch)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The objective's own."""
        return self.objective.losses(outputs, batch)

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """The objective's own."""
        return self.objective.factors(outputs)

    def exact(self, outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        """The objective's own factors."""
        return self.objective.factors(outputs)

    def exact_outputs(self, outputs: Tensor) -> int | None:
        """Those of one position."""
        return outputs.shape[-1] if outputs.dim() == 2 else None

    def count(self, batch: Batch, outputs: Tensor | None = None) -> int:
        """What the objective says, or the number of rows."""
        return self.objective.count(batch) if isinstance(self.objective, Padded) else leading_size(batch)

    def draw(self, outputs: Tensor, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The objective's own sample, masked by its own mask."""
        sampled = self.objective.sample(outputs, generator)
        return self.objective.mask(sampled, batch) if isinstance(self.objective, Padded) else sampled

    def squares(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Over all that a row has."""
        return outputs.reshape(len(outputs), -1).square().sum(1)

    def spreads(self, outputs: Tensor, batch: Batch, measure: str) -> Tensor:
        """Over all that a row has, the last dimension as classes."""
        return spread(outputs, measure).reshape(len(outputs), -1).sum(1)

    def no_distance(self) -> str:
        """Named after the objective."""
        return str(super().no_distance()).replace(type(self).__name__, type(self.objective).__name__, 1)

    def covers(self, other: Objective | Meaning) -> bool:
        """The same objective alone."""
        other = other.objective if isinstance(other, Own) else other
        return self.objective is other or self.objective == other


def meaning_of(objective: Objective) -> Meaning:
    """A built-in objective as it is, one of your own with what follows from its four methods."""
    return objective if isinstance(objective, Meaning) else Own(objective)


def count(objective: Objective, batch: Batch, outputs: Tensor | None = None) -> int:
    """How many samples a batch holds: what an importance is the mean over."""
    return meaning_of(objective).count(batch, outputs)


def draw(objective: Objective, outputs: Tensor, batch: Batch, generator: torch.Generator | None) -> Batch:
    """A batch for ``objective.losses`` whose targets are drawn from the model, padding left out."""
    return meaning_of(objective).draw(outputs, batch, generator)
