"""From what a user gives to an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from holdfast.errors import ConfigurationError, StateError
from holdfast.objectives.answering import QuestionAnswering
from holdfast.objectives.balanced import ClassBalanced
from holdfast.objectives.base import Batch, Objective
from holdfast.objectives.classification import Classification
from holdfast.objectives.heads import objective_of
from holdfast.objectives.independent import MultiLabel, Regression
from holdfast.objectives.language import CausalLM, Seq2SeqLM
from holdfast.objectives.loss import Loss
from holdfast.objectives.meaning import Own, meaning_of
from holdfast.objectives.segmentation import Segmentation
from holdfast.objectives.tokens import MaskedLM, TokenClassification

__all__ = ["as_objective", "describe", "restore"]

_KINDS: Mapping[str, Callable[..., Objective]] = {
    kind.saved_as: kind
    for kind in (
        CausalLM,
        ClassBalanced,
        Classification,
        MaskedLM,
        MultiLabel,
        QuestionAnswering,
        Regression,
        Segmentation,
        Seq2SeqLM,
        TokenClassification,
    )
}


def as_objective(
    objective: Objective | Callable[[Any, Batch], Tensor] | None, model: nn.Module | None = None
) -> Objective:
    """An objective as given, a bare callable as :class:`Loss`.

    ``None`` is what a Transformers model says by its class (see :func:`objective_of`), and :class:`Classification` of
    any other model.

    Raises:
        ConfigurationError: if it is none of these.
    """
    if objective is None:
        found = None if model is None else objective_of(model)
        return Classification() if found is None else found
    if isinstance(objective, type):
        raise ConfigurationError(
            f"objective is the class {objective.__name__}; expected an instance: {objective.__name__}(…)"
        )
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, nn.modules.loss._Loss):
        raise ConfigurationError(
            f"objective is {objective!r}, which takes targets and returns a mean; expected an Objective or a callable "
            "(outputs, batch) -> [B], such as lambda outputs, batch: cross_entropy(outputs, batch[1], reduction='none')"
        )
    if callable(objective):
        return Loss(objective)
    raise ConfigurationError(f"objective is {objective!r}; expected an Objective or a callable (outputs, batch) -> [B]")


def describe(objective: Objective) -> dict[str, Any]:
    """An objective as plain values; one that has a ``forward`` or is of one's own making by its type's name alone."""
    meaning = meaning_of(objective)
    settings = meaning.settings()
    if settings is None:
        kind = type(meaning.objective if isinstance(meaning, Own) else meaning)
        return {"kind": "given", "type": kind.__name__}
    return {"kind": type(meaning).__name__, **settings}


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
