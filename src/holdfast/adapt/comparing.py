"""Two models of one's own on data of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from holdfast.adapt.opened import Opened
from holdfast.adapt.opening import open_model
from holdfast.adapt.reading import Reader
from holdfast.adapt.samples import Part, batches_of, columns_of, joined
from holdfast.adapt.writing import trained_on
from holdfast.auditing import Audit, audit
from holdfast.bench.data.parts import fingerprint
from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives import CausalLM, Classification, Objective

__all__ = ["audit_of"]


def audit_of(
    before: str,
    after: str,
    data: Sequence[str],
    *,
    text: str | None = None,
    label: str | None = None,
    classes: Sequence[str] = (),
    length: int | None = None,
    skip_broken: bool = False,
    whole: bool = False,
    batch_size: int = 32,
    hessian: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> Audit:
    """What was lost and what was gained between two models.

    Both must make the same input of a sample: perplexities of two tokenizers cannot be compared, nor can answers to
    images of two sizes.

    Args:
        before: the model before, as :func:`open_model` takes it.
        after: the model after.
        data: where data are; of each its test part, or that which was cut when a model was adapted to it; else all.
        text: the column of texts, where its name does not say so.
        label: the column of labels, likewise.
        classes: what the outputs are called, where a model does not say.
        length: how many tokens of a text are read, if not what is usual.
        skip_broken: leave out what cannot be read.
        whole: all of the data, not their test part alone.
        batch_size: samples per forward pass.
        hessian: whether to measure how steep the loss is around both, on the first batch of the first data.
        say: is told of what was found.

    Raises:
        ConfigurationError: if the models are of different kinds, or read samples otherwise.
        DataError: if data cannot be read, or have labels that neither model has.
    """
    old, new = (open_model(model, classes=classes, length=length) for model in (before, after))
    if old.kind != new.kind:
        raise ConfigurationError(f"{before} reads {old.kind} and {after} reads {new.kind}; expected the same")
    if old.classes != new.classes[: len(old.classes)]:
        raise ConfigurationError(
            f"the classes of {after} do not begin with those of {before}: expected {', '.join(old.classes[:8])} first"
        )
    reader = Reader(old.kind, text, label, skip_broken, 0, say)
    parts: dict[str, Part] = {}
    for place in data:
        part = _asked_of(reader, place, (before, after), whole)
        if not len(part):
            raise DataError(f"{place} holds no sample")
        parts[_called(place, parts)], done = new.fitted(part)
        if done:
            say(f"{place}: {done}")
    objective: Objective = CausalLM(per="token") if old.kind == "language" else Classification()
    _check_alike(old, new, next(iter(parts.values())))
    return audit(
        old.model,
        new.model,
        {name: batches_of(new, part, columns_of(new, part, name), batch_size) for name, part in parts.items()},
        objective=objective,
        names={name: part.names for name, part in parts.items()},
        classes=list(new.classes) or None,
        hessian=hessian,
        called=(_short(before), _short(after) if _short(after) != _short(before) else after),
    )


def _asked_of(reader: Reader, place: str, models: Sequence[str], whole: bool) -> Part:
    """The samples of which both are asked: a test part, or that which an adaptation cut; else all of them."""
    found = reader.found(place)
    if whole:
        return joined(*found.values())
    if "test" in found:
        return found["test"]
    for model in models:
        noted = trained_on(model)
        if noted is None:
            continue
        try:
            train, _, test = replace(reader, seed=noted[0], say=lambda sentence: None).parts(place)
        except DataError:  # so small that no adaptation cut them
            continue
        if fingerprint(train) in noted[1]:
            reader.say(f"{place}: {model} was trained on some of them; the {len(test):,} of its test part are asked")
            return test
    every = joined(*found.values())
    reader.say(f"{place}: no test part, so all {len(every):,} are asked; a model that was trained on them is flattered")
    return every


def _check_alike(old: Opened, new: Opened, part: Part) -> None:
    """Refuse models that make different inputs of a sample.

    Raises:
        ConfigurationError: if they do.
    """
    first, second = (opened.inputs([part.samples[0]]) for opened in (old, new))
    pairs = [(first[key], second.get(key)) for key in first] if isinstance(first, dict) else [(first, second)]
    if any(b is None or a.shape != b.shape or not torch.equal(a, b) for a, b in pairs):
        raise ConfigurationError(
            f"{old.source} and {new.source} make different inputs of {part.names[0]!r} (another tokenizer, size or "
            "normalisation), so that their answers cannot be compared; expected the same"
        )


def _called(place: str, known: Mapping[str, object]) -> str:
    """A short name that no other has."""
    name = _short(place)
    return place if name in known else name


def _short(place: str) -> str:
    return Path(place).name or place
