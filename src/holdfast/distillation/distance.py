"""How far a student's outputs are from a teacher's, in the sense of each objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives import Batch, Objective, meaning_of
from holdfast.objectives.base import Teaching
from holdfast.objectives.classification import Classification
from holdfast.objectives.directed import Direction, directed_divergence
from holdfast.objectives.tokens import Tokens
from holdfast.objectives.walked import Unfinished

__all__ = ["USUAL", "Way", "check_distillable", "distance"]


@dataclass(frozen=True)
class Way:
    """How a student is compared with its teacher.

    Attributes:
        direction: ``"forward"`` is KL(teacher ‖ student).
        non_target: over all answers but the target.
    """

    direction: Direction = "forward"
    non_target: bool = False


USUAL = Way()


def distance(
    objective: Objective,
    student: Tensor,
    teacher: Tensor | Unfinished,
    batch: Batch,
    *,
    temperature: float,
    factor: float,
    strength: float,
    way: Way = USUAL,
) -> Tensor:
    """Mean of an objective's distance over labelled positions, with a factor where a temperature plays a part.

    Args:
        objective: whose outputs these are.
        student: ``[B, ...]``.
        teacher: ``[B, ...]``, or what makes it; if the student has more outputs by now, as many as the teacher had are
            compared.
        batch: where padding is read from.
        temperature: T, > 0.
        factor: what softened distances are multiplied by: T², or 1.
        strength: what all are multiplied by.
        way: how they are compared.

    Returns:
        Scalar ``[]``.

    Raises:
        DataError: if the shapes do not fit.
    """
    meaning = meaning_of(objective)
    if way != USUAL:
        assert isinstance(meaning, Tokens | Classification), "which check_distillable refuses"
        return _directed(meaning, student, teacher, batch, way, temperature=temperature, weight=strength * factor)
    if isinstance(meaning, Tokens):
        return meaning.distance(student, teacher, batch, temperature=temperature, factor=strength * factor)
    assert isinstance(teacher, Tensor), "only tokens have outputs that are not finished"
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if isinstance(objective, Teaching):
        return strength * objective.distill(student, teacher, temperature).mean()
    return strength * meaning.distance(student, teacher, batch, temperature=temperature, factor=factor)


def _directed(
    meaning: Tokens | Classification,
    student: Tensor,
    teacher: Tensor | Unfinished,
    batch: Batch,
    way: Way,
    *,
    temperature: float,
    weight: float,
) -> Tensor:
    meaning.check_outputs(student)
    valid = meaning.units(batch, student).valid
    targets = None
    if way.non_target:
        labels = meaning.targets(batch)
        if labels is None:
            raise DataError("non_target=True leaves the labels out, but the batch has none")
        targets = meaning.at_positions(student, labels)
        targets = targets.masked_fill(targets >= teacher.shape[-1], -1)  # a word that the teacher never knew
    if student.shape[:-1] != teacher.shape[:-1] or student.shape[-1] < teacher.shape[-1]:
        raise DataError(
            f"the old outputs have shape {tuple(teacher.shape)}, but the model now gives {tuple(student.shape)}"
        )
    view = meaning.positions
    if (
        isinstance(teacher, Tensor)
        and view(student).untyped_storage().data_ptr() != student.untyped_storage().data_ptr()
    ):
        student, teacher, view = meaning.positions(student), meaning.positions(teacher), lambda outputs: outputs
    return directed_divergence(
        student, teacher, valid, temperature, view, direction=way.direction, targets=targets, weight=weight
    )


def check_distillable(objective: Objective, way: Way = USUAL) -> None:
    """Refuse an objective whose outputs have no distance, or none of that way.

    Raises:
        ConfigurationError: naming what would do.
    """
    meaning = meaning_of(objective)
    reason = meaning.no_distance()
    if reason is not None and not isinstance(objective, Teaching):
        raise ConfigurationError(reason)
    if way == USUAL:
        return
    if not isinstance(meaning, Tokens | Classification):
        raise ConfigurationError(
            f"direction={way.direction!r} and non_target={way.non_target} are about one answer of several, which "
            f"{meaning.named} has not; expected direction='forward' and non_target=False"
        )
    if way.non_target and not isinstance(meaning, Tokens):
        raise ConfigurationError(
            f"non_target=True leaves out the word that is learned, but the labels of {meaning.named} may be of another "
            "task; expected an objective of words, such as CausalLM"
        )
