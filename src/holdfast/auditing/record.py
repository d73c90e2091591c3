"""What an audit found: frozen, plain values, one JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from holdfast.errors import StateError
from holdfast.files import write_file

__all__ = ["Audit", "Change", "ClassChange", "DataAudit", "Layer", "Measured", "Part", "Risen", "WorstFlip"]

VERSION = 1

Part: TypeAlias = Literal["sample", "token", "pixel", "answer"]
"""What one answer is given to."""


@dataclass(frozen=True)
class Measured:
    """A mean and the ends of its 95 % interval, ``None`` where there was one sample."""

    value: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Change:
    """A figure of both models, and how much larger it is for the second, over the same samples.

    Attributes:
        before: of the model before.
        after: of the model after.
        difference: after less before; its interval is of the paired differences.
    """

    before: Measured
    after: Measured
    difference: Measured


@dataclass(frozen=True)
class ClassChange:
    """One class: how many samples it has, and what share of them was and is right, with Wilson's 95 % intervals."""

    label: int
    name: str
    count: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]

    @property
    def change(self) -> float:
        """After less before, a fraction."""
        return self.after - self.before


@dataclass(frozen=True)
class WorstFlip:
    """An answer that was right and is wrong now: which sample, the right answer, the wrong one, and how sure of each.

    Attributes:
        sample: the sample's name, or its number.
        right: the right class.
        now: the class that the model after answers.
        before: the probability that the model before gave to the right class.
        after: the probability that the model after gives to it.
    """

    sample: str
    right: str
    now: str
    before: float
    after: float


@dataclass(frozen=True)
class Risen:
    """A sample whose mean loss rose: its name or number, and the loss of both models."""

    sample: str
    before: float
    after: float


@dataclass(frozen=True)
class DataAudit:
    """Both models on one data set.

    Attributes:
        name: of the data.
        objective: what a batch meant.
        samples: how many samples (rows) there were.
        part: what is answered: a sample, or each token or pixel of it.
        count: how many answers were compared.
        loss: mean loss per answer in nats (of an objective without answers: mean per sample, in its own unit);
            ``None`` where a model cannot give the right answer because it has no such class.
        accuracy: share of right answers, where a sample has one of them with Wilson's intervals; ``None`` of an
            objective without right and wrong.
        perplexity: exp of the mean loss per token, of a language model; comparable within one tokenizer only.
        negative_flips: answers that were right and are wrong now.
        positive_flips: the reverse.
        between_wrong: wrong answers that are other wrong answers now.
        relative_negative_flips: negative flips over those of two independent models as accurate as these.
        mcnemar: the probability of flips as unequal by chance; ``None`` for parts of samples: they are not independent.
        calibration_error: of both models (ECE, 15 bins).
        brier: mean Brier score.
        confidence: mean largest probability.
        kl: mean KL(before ‖ after) in nats, over the classes that the model before had.
        classes: every class with a sample, the one that lost most first.
        worst: the negative flips for which the right class lost most probability, the worst first; of one answer per
            sample.
        risen: the samples whose mean loss rose most, the worst first.
    """

    name: str
    objective: str
    samples: int
    part: Part
    count: int
    loss: Change | None
    accuracy: Change | None = None
    perplexity: Change | None = None
    negative_flips: int | None = None
    positive_flips: int | None = None
    between_wrong: int | None = None
    relative_negative_flips: float | None = None
    mcnemar: float | None = None
    calibration_error: tuple[float, float] | None = None
    brier: tuple[float, float] | None = None
    confidence: tuple[float, float] | None = None
    kl: float | None = None
    classes: tuple[ClassChange, ...] = ()
    worst: tuple[WorstFlip, ...] = ()
    risen: tuple[Risen, ...] = ()

    @property
    def lost(self) -> float | None:
        """What was lost, in points of accuracy; of words, or where nothing is right, in per cent of the loss."""
        if self.accuracy is not None and self.perplexity is None:
            return -100 * self.accuracy.difference.value
        if self.loss is None or not self.loss.before.value:
            return None
        return 100 * self.loss.difference.value / abs(self.loss.before.value)


@dataclass(frozen=True)
class Layer:
    """One layer of both models.

    Attributes:
        name: as in the model.
        distance: how far its parameters moved, relative to what they were.
        similarity: unbiased linear CKA of what it gives, over the samples of the first data set; ``None`` if not
            measured.
    """

    name: str
    distance: float | None
    similarity: float | None


@dataclass(frozen=True)
class Audit:
    """What was lost and what was gained between two models.

    Attributes:
        before: what the model before is called.
        after: what the model after is called.
        data: one audit for each data set.
        layers: in the order of the model.
        similarity_samples: how many samples the layers' similarities are of.
        hessian_norm: of both models on the first data set, by kind; ``None`` if not asked for.
        version: of this form.
    """

    before: str
    after: str
    data: tuple[DataAudit, ...]
    layers: tuple[Layer, ...] = ()
    similarity_samples: int = 0
    hessian_norm: Mapping[str, tuple[float, float]] | None = None
    version: int = VERSION

    def exceeding(self, most: float) -> list[DataAudit]:
        """The data sets of which more was lost than allowed.

        Args:
            most: points of accuracy, or per cent of the loss (see :attr:`DataAudit.lost`).
        """
        return [found for found in self.data if found.lost is not None and not found.lost <= most]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as :meth:`save` writes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Audit:
        """The audit out of :meth:`to_dict`'s values.

        Raises:
            StateError: if they are none, or of a later version.
        """
        version = plain.get("version") if isinstance(plain, Mapping) else None
        if version != VERSION:
            raise StateError(f"this is no audit of version {VERSION}: its version is {version!r}")
        try:
            return cls(
                **{
                    **plain,
                    "data": tuple(_data(item) for item in plain["data"]),
                    "layers": tuple(Layer(**item) for item in plain["layers"]),
                    "hessian_norm": _pairs(plain.get("hessian_norm")),
                }
            )
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise StateError(f"this is no audit: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a JSON file; an old one stays until the new one is whole.

        Raises:
            StateError: if the file cannot be written.
        """
        text = json.dumps(_spelled(self.to_dict()), indent=1, ensure_ascii=False) + "\n"
        return write_file(path, lambda file: file.write(text.encode()), what="audit")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Audit:
        """Read what :meth:`save` wrote.

        Raises:
            StateError: if the file is missing, or none.
        """
        try:
            return cls.from_dict(_read(json.loads(Path(path).read_text(encoding="utf-8"))))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StateError(f"{os.fspath(path)} is no audit: {error}") from error


def _change(plain: Mapping[str, Any] | None) -> Change | None:
    return None if plain is None else Change(**{key: Measured(**value) for key, value in plain.items()})


def _pair(plain: Any) -> Any:
    return None if plain is None else tuple(plain)


def _pairs(plain: Mapping[str, Any] | None) -> dict[str, tuple[float, float]] | None:
    return None if plain is None else {key: (float(before), float(after)) for key, (before, after) in plain.items()}


def _data(plain: Mapping[str, Any]) -> DataAudit:
    unknown = set(plain) - {field.name for field in fields(DataAudit)}
    if unknown:
        raise TypeError(f"unknown entries {', '.join(sorted(unknown))}")
    made = {key: _change(plain[key]) for key in ("loss", "accuracy", "perplexity")}
    pairs = {key: _pair(plain[key]) for key in ("calibration_error", "brier", "confidence")}
    intervals = ("before_interval", "after_interval")
    classes = tuple(
        ClassChange(**{**item, **{key: _pair(item[key]) for key in intervals}}) for item in plain["classes"]
    )
    worst = tuple(WorstFlip(**item) for item in plain["worst"])
    risen = tuple(Risen(**item) for item in plain["risen"])
    return DataAudit(**{**plain, **made, **pairs, "classes": classes, "worst": worst, "risen": risen})


def _spelled(value: Any) -> Any:
    """Numbers that JSON lacks, as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"not finite": repr(value)}
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, list | tuple) else value


def _read(value: Any) -> Any:
    if isinstance(value, Mapping):
        return float(value["not finite"]) if set(value) == {"not finite"} else {k: _read(v) for k, v in value.items()}
    return [_read(item) for item in value] if isinstance(value, list) else value
