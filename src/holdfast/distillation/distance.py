r"""How far a student's outputs are from a teacher's, in the sense of each objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError, StateError
from holdfast.objectives import Batch, CausalLM, Classification, MultiLabel, Objective, Regression
from holdfast.objectives.base import Plain, targets_of

__all__ = [
    "Teaching",
    "check_distillable",
    "covers",
    "describe",
    "distance",
    "restore",
    "sigmoid_divergence",
    "softmax_divergence",
]

_IGNORED = -100


@runtime_checkable
class Teaching(Protocol):
    """An objective of one's own that says how a student learns its outputs from a teacher."""

    def distill(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """One loss per sample ``[B]``, 0 where the two agree; the teacher's outputs carry no gradient."""
        ...


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""How surprised the student is by the teacher's softened answer.

    .. math:: \mathrm{KL}(p^* \Vert p) = \sum_k p^*_k (\log p^*_k - \log p_k), \qquad p = \mathrm{softmax}(f / T)

    Source: Hinton et al. 2015, arXiv:1503.02531, sec. 2. Differs: less the teacher's entropy, a constant.

    Args:
        student: outputs ``[..., K]``.
        teacher: outputs ``[..., K]``.
        temperature: T, > 0.

    Returns:
        ``[...]``, in nats, >= 0; without the factor T².
    """
    log_p = (student / temperature).log_softmax(-1)
    log_q = (teacher / temperature).log_softmax(-1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""The same for independent yes/no answers, each its own.

    .. math:: q \log\frac{q}{p} + (1 - q) \log\frac{1 - q}{1 - p}, \qquad p = \sigma(f / T)

    Args:
        student: outputs ``[...]``.
        teacher: outputs ``[...]``.
        temperature: T, > 0.

    Returns:
        ``[...]``, in nats, >= 0; without the factor T².
    """
    f, g = student / temperature, teacher / temperature
    yes = g.sigmoid() * (F.logsigmoid(g) - F.logsigmoid(f))
    no = (-g).sigmoid() * (F.logsigmoid(-g) - F.logsigmoid(-f))
    return yes + no


def distance(
    objective: Objective, student: Tensor, teacher: Tensor, batch: Batch, *, temperature: float, factor: float
) -> Tensor:
    """Mean over samples of an objective's distance, with a factor where a temperature plays a part.

    Args:
        objective: whose outputs these are.
        student: ``[B, ...]``.
        teacher: ``[B, ...]``; if the student's last dimension has grown since, its first part is compared.
        batch: where padding is read from.
        temperature: T, > 0.
        factor: what softened distances are multiplied by: T², or 1.

    Returns:
        Scalar ``[]``.

    Raises:
        DataError: if the shapes do not fit.
    """
    if student.shape[-1] > teacher.shape[-1]:
        student = student[..., : teacher.shape[-1]]
    if student.shape != teacher.shape:
        raise DataError(
            f"the old outputs have shape {tuple(teacher.shape)}, but the model now gives {tuple(student.shape)}"
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if isinstance(objective, Teaching):
        return objective.distill(student, teacher, temperature).mean()
    if isinstance(objective, Regression):
        return 0.5 * (student - teacher).square().reshape(len(student), -1).sum(1).mean()
    if isinstance(objective, MultiLabel):
        return factor * sigmoid_divergence(student, teacher, temperature).reshape(len(student), -1).sum(1).mean()
    if isinstance(objective, CausalLM):
        each = softmax_divergence(student[:, :-1], teacher[:, :-1], temperature)
        seen = targets_of(batch)[:, 1:] != _IGNORED
        number = seen.sum().clamp(min=1) if objective.per == "token" else len(student)
        return factor * (each * seen).sum() / number
    return factor * softmax_divergence(student, teacher, temperature).mean()


def check_distillable(objective: Objective) -> None:
    """Refuse an objective whose outputs have no distance.

    Raises:
        ConfigurationError: naming what would do.
    """
    if not isinstance(objective, Classification | Regression | MultiLabel | CausalLM | Teaching):
        raise ConfigurationError(
            f"LwF cannot compare the outputs of {type(objective).__name__}: use Classification, Regression, MultiLabel "
            "or CausalLM, or give the objective a method distill(student, teacher, temperature) -> [B]"
        )


def covers(one: Objective, other: Objective) -> bool:
    """Whether all that ``other`` would distil is part of what ``one`` distils."""
    if one is other or one == other:
        return True
    if not (isinstance(one, Plain) and isinstance(other, Plain)) or one.shared_key != other.shared_key:
        return False
    if type(one) is not type(other) or not _built_in(one):
        return False
    if isinstance(one, Classification) and isinstance(other, Classification):
        if one.classes is None or other.classes is None:
            return one.head == other.head and one.classes is None
        return one.head == other.head and set(other.classes) <= set(one.classes)
    return not (isinstance(one, CausalLM) and isinstance(other, CausalLM)) or one.per == other.per


_KINDS: Mapping[str, Callable[..., Objective]] = {
    kind.__name__: kind for kind in (Classification, Regression, MultiLabel, CausalLM)
}


def _built_in(objective: Objective) -> bool:
    return any(type(objective) is kind for kind in _KINDS.values())


def describe(objective: Objective) -> dict[str, Any]:
    """An objective as plain values; one that has a ``forward`` or is of one's own making by its type's name alone."""
    kind = type(objective).__name__
    if not _built_in(objective) or not isinstance(objective, Plain) or objective.shared_key is not None:
        return {"kind": "given", "type": kind}
    if isinstance(objective, Classification):
        classes = None if objective.classes is None else list(objective.classes)
        return {"kind": kind, "classes": classes, "head": objective.head}
    return {"kind": kind, "per": objective.per} if isinstance(objective, CausalLM) else {"kind": kind}


def restore(descriptions: Sequence[Mapping[str, Any]], given: Sequence[Objective]) -> list[Objective]:
    """Objectives from their descriptions, and from the caller those that could not be described.

    Raises:
        StateError: if the caller gave too few or too many, or a description is not one.
    """
    missing = [d["type"] for d in descriptions if d.get("kind") == "given"]
    if len(missing) != len(given):
        names = ", ".join(missing) or "none"
        raise StateError(
            f"the state distils {len(missing)} objectives that cannot be saved ({names}), but load_state_dict "
            f"got {len(given)}: pass them as objectives=[…], in the order of their tasks"
        )
    rest = iter(given)
    found = []
    for description in descriptions:
        values = {key: value for key, value in description.items() if key != "kind"}
        if description.get("kind") == "given":
            found.append(next(rest))
        elif description.get("kind") in _KINDS:
            found.append(_KINDS[description["kind"]](**values))
        else:
            raise StateError(f"the state names an objective {description.get('kind')!r}, which is unknown")
    return found
