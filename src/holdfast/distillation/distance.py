"""How far a student's outputs are from a teacher's, in the sense of each objective."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError
from holdfast.objectives import Batch, Objective, meaning_of
from holdfast.objectives.base import Teaching
from holdfast.objectives.tokens import Tokens
from holdfast.objectives.walked import Unfinished

__all__ = ["check_distillable", "distance"]


def distance(
    objective: Objective,
    student: Tensor,
    teacher: Tensor | Unfinished,
    batch: Batch,
    *,
    temperature: float,
    factor: float,
    strength: float,
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

    Returns:
        Scalar ``[]``.

    Raises:
        DataError: if the shapes do not fit.
    """
    meaning = meaning_of(objective)
    if isinstance(meaning, Tokens):
        return meaning.distance(student, teacher, batch, temperature=temperature, factor=strength * factor)
    assert isinstance(teacher, Tensor), "only tokens have outputs that are not finished"
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if isinstance(objective, Teaching):
        return strength * objective.distill(student, teacher, temperature).mean()
    return strength * meaning.distance(student, teacher, batch, temperature=temperature, factor=factor)


def check_distillable(objective: Objective) -> None:
    """Refuse an objective whose outputs have no distance.

    Raises:
        ConfigurationError: naming what would do.
    """
    reason = meaning_of(objective).no_distance()
    if reason is not None and not isinstance(objective, Teaching):
        raise ConfigurationError(reason)
