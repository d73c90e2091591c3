"""Both models over the data, once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.auditing.answers import answers_of, has_answers
from holdfast.auditing.drift import relative_distances
from holdfast.auditing.features import Features, similarities
from holdfast.auditing.record import Audit, DataAudit, Layer
from holdfast.auditing.tally import AnswerTally, LossTally
from holdfast.curvature import Kind, hessian_norm
from holdfast.errors import ConfigurationError, DataError, Option
from holdfast.importance.untouched import untouched
from holdfast.objectives import Batch, Objective, as_objective
from holdfast.objectives.batches import leading_size
from holdfast.objectives.meaning import meaning_of
from holdfast.objectives.positions import Positions

__all__ = ["audit"]

Asked: TypeAlias = "Objective | Callable[[Any, Batch], Tensor] | None"
_NORMS: tuple[Kind, ...] = ("quadratic", "frobenius")  # the spectral norm takes up to a hundred products
_OLD = "old"  # what a single data set is called


def audit(
    before: nn.Module,
    after: nn.Module,
    batches: Iterable[Batch] | Mapping[str, Iterable[Batch]],
    *,
    objective: Asked | Mapping[str, Asked] = None,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    called: tuple[str, str] = ("before", "after"),
    similarity_samples: int = 1000,
    hessian: bool = False,
) -> Audit:
    """What was lost and what was gained between two models, on any data. Both are looked at and left as they were.

    Args:
        before: the model before, on the device of the batches.
        after: the model after; it may have more classes.
        batches: pairs or dicts as for ``consolidate``, each read once; several data sets by name.
        objective: what a batch means; one for all data sets, or one for each by name.
        names: what the samples are called (a file, a text), in order; by data set where there are several. Else they
            are numbered.
        classes: what the classes are called; default: what a Transformers model's configuration says.
        called: what the two models are called.
        similarity_samples: how many samples of the first data set the layers' similarities are of; 0: none.
        hessian: whether to measure how steep the loss is around both models, in all their parameters: the Hessian's
            norm (see :func:`holdfast.hessian_norm`) on the first batch. It costs 17 products with it, of about two
            backward passes each.

    Returns:
        A frozen record; :func:`holdfast.auditing.as_text` shows it as a table.

    Raises:
        ConfigurationError: if both are the same module, or an argument fits no data set.
        DataError: if a data set is empty, or does not fit its objective.

    Example:
        >>> old, new = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> found = audit(old, new, [(torch.eye(2), torch.tensor([0, 1]))])
        >>> found.data[0].count
        2
    """
    if before is after:
        raise ConfigurationError(
            "before and after are the same module; keep a copy before training: before = copy.deepcopy(model)"
        )
    _check_samples(similarity_samples)
    sets = dict(batches) if isinstance(batches, Mapping) else {_OLD: batches}
    if not sets:
        raise DataError("batches is empty; expected at least one data set")
    meanings = _by_set("objective", objective, sets, lambda asked: isinstance(asked, Mapping))
    labels = _by_set("names", names, sets, lambda asked: isinstance(asked, Mapping))
    found, features = [], [Features(model, similarity_samples) for model in (before, after)]
    seen: list[tuple[Batch, Objective]] = []
    with untouched(before, ()), untouched(after, ()), torch.no_grad():
        for number, (name, data) in enumerate(sets.items()):
            meaning = as_objective(meanings[name], before)
            run = _Set(name, meaning, labels[name], _class_names(classes, before, after))
            if hessian and number == 0:
                data = _noting(data, meaning, seen)
            found.append(run.audited(before, after, data, features if number == 0 and similarity_samples else []))
    layers, samples = _layers(before, after, features)
    steep = _steepness(before, after, *seen[0]) if seen else None
    return Audit(*called, tuple(found), layers, samples, steep)


def _noting(batches: Iterable[Batch], objective: Objective, seen: list[tuple[Batch, Objective]]) -> Iterator[Batch]:
    """Batches as they come, of which the first is noted."""
    for batch in batches:
        if not seen:
            seen.append((batch, objective))
        yield batch


def _steepness(
    before: nn.Module, after: nn.Module, batch: Batch, objective: Objective
) -> dict[str, tuple[float, float]]:
    """Kind of norm -> of both models."""
    found: dict[str, tuple[float, float]] = {}
    with _trainable(before), _trainable(after):
        for kind in _NORMS:
            old, new = (hessian_norm(model, batch, objective, kind, blocks=False) for model in (before, after))
            found[kind] = old.whole, new.whole
    return found


@contextlib.contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """All parameters take part for as long as it lasts, frozen ones too."""
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


class _Set:
    """One data set on its way through both models."""

    def __init__(
        self, name: str, objective: Objective, names: Sequence[str] | None, class_names: Mapping[int, str]
    ) -> None:
        self.name, self.objective, self.names = name, objective, names
        self.answered = has_answers(objective)
        self.tally: AnswerTally | LossTally = AnswerTally(objective, class_names) if self.answered else LossTally()

    def audited(
        self, before: nn.Module, after: nn.Module, batches: Iterable[Batch], features: Sequence[Features]
    ) -> DataAudit:
        """The audit of all its batches."""
        for batch in batches:
            try:
                self._add(before, after, batch, features)
            except DataError as error:
                raise error.within(self.name) from error
        if not self.tally.samples:
            raise DataError(f"{self.name} has no sample; expected at least one batch")
        if self.names is not None and len(self.names) != self.tally.samples:
            raise DataError(
                f"names of {self.name} are {len(self.names)}, but it has {self.tally.samples} samples; expected as many"
            )
        return self.tally.audit(self.name, self.objective)

    def _add(self, before: nn.Module, after: nn.Module, batch: Batch, features: Sequence[Features]) -> None:
        rows = leading_size(batch)
        contexts: list[contextlib.AbstractContextManager[None]] = [each.heard(rows) for each in features]
        contexts = contexts or [contextlib.nullcontext(), contextlib.nullcontext()]
        names = self._names(rows)
        if self.answered:
            assert isinstance(self.objective, Positions) and isinstance(self.tally, AnswerTally)
            outputs = []
            for model, context in zip((before, after), contexts, strict=True):
                with context:
                    outputs.append(self.objective.outputs(model, batch))
            self.tally.add(answers_of(self.objective, outputs[0], outputs[1], batch), names)
            return
        assert isinstance(self.tally, LossTally)
        meaning, losses = meaning_of(self.objective), list[Tensor]()
        for model, context in zip((before, after), contexts, strict=True):
            with context:
                found = meaning.losses(meaning.outputs(model, batch), batch)
            losses.append(found.reshape(len(found), -1).sum(1))
        old, new = losses
        self.tally.add(old, new, torch.full((len(old),), meaning.count(batch) / len(old)), names)

    def _names(self, rows: int) -> list[str]:
        seen = self.tally.samples
        if self.names is None:
            return [str(number) for number in range(seen, seen + rows)]
        found = [str(name) for name in self.names[seen : seen + rows]]
        return found + [""] * (rows - len(found))  # too few are an error at the end, which says how many there are


def _check_samples(value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(Option("similarity_samples"), f" is {value!r}; expected a whole number >= 0")


def _by_set(option: str, asked: Any, sets: Mapping[str, Any], several: Callable[[Any], bool]) -> dict[str, Any]:
    """One value for each data set."""
    if not several(asked):
        if option == "names" and asked is not None and len(sets) > 1:
            raise ConfigurationError(f"names are one list for {len(sets)} data sets; expected one for each, by name")
        return dict.fromkeys(sets, asked)
    unknown = sorted(set(asked) - set(sets))
    if unknown:
        raise ConfigurationError(f"{option} is given for {', '.join(unknown)}; the data sets are {', '.join(sets)}")
    return {name: asked.get(name) for name in sets}


def _class_names(
    asked: Sequence[str] | Mapping[int, str] | None, before: nn.Module, after: nn.Module
) -> Mapping[int, str]:
    if asked is not None:
        return dict(asked) if isinstance(asked, Mapping) else dict(enumerate(asked))
    for model in (after, before):
        known = getattr(getattr(model, "config", None), "id2label", None)
        if isinstance(known, Mapping):
            return {int(label): str(name) for label, name in known.items()}
    return {}


def _layers(before: nn.Module, after: nn.Module, features: Sequence[Features]) -> tuple[tuple[Layer, ...], int]:
    distances = relative_distances(before, after)
    alike, samples = similarities(*features)
    return tuple(Layer(name or "(model)", moved, alike.get(name)) for name, moved in distances.items()), samples
