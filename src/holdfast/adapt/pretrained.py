"""A model of Transformers, from a folder or from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from holdfast.adapt.opened import Kind, Opened
from holdfast.bench.data import pretrained
from holdfast.bench.data.parts import Part
from holdfast.errors import ConfigurationError, Option

__all__ = ["Pretrained"]

_KINDS: dict[str, Kind] = {
    "ForImageClassification": "images",
    "ForSequenceClassification": "texts",
    "ForCausalLM": "language",
    "LMHeadModel": "language",
}
_LENGTH = 512


class Pretrained(Opened):
    """A model of Transformers: an image classifier, a text classifier or a causal language model.

    Attributes:
        processor: its tokenizer or image processor.
        length: how many tokens of a text it reads at most.
    """

    source: str
    model: Any
    kind: Kind
    processor: Any
    classes: tuple[str, ...]
    named: bool
    usual_lr: float = 5e-5

    def __init__(self, source: str, model: Any, kind: Kind, processor: Any) -> None:
        self.source, self.model, self.kind, self.processor = source, model, kind, processor
        names = {int(label): str(name) for label, name in (model.config.id2label or {}).items()}
        self.classes = () if kind == "language" else tuple(names[label] for label in sorted(names))
        self.named = not all(name == f"LABEL_{place}" for place, name in enumerate(self.classes))
        self.length = min(_LENGTH, self._longest)

    @property
    def _longest(self) -> int:
        """How many tokens it can read; of a model that does not say, as many as its tokenizer makes."""
        said = (
            getattr(self.model.config, "max_position_embeddings", None),
            getattr(self.processor, "model_max_length", 0),
        )
        return min([int(most) for most in said if most], default=_LENGTH)

    @classmethod
    def open(cls, source: str, classes: Sequence[str] = (), length: int | None = None) -> Pretrained:
        """Load a folder or a hub id.

        Raises:
            ConfigurationError: if there is no such model, or it is of another kind.
            DependencyError: if Transformers is not installed.
        """
        opened = cls._loaded(source)
        if classes:
            opened._call(classes)
        if length is not None:
            opened._read_up_to(length)
        return opened

    @classmethod
    def _loaded(cls, source: str) -> Pretrained:
        transformers, config = pretrained.library(), pretrained.config_of(source)
        kind = _kind_of(config, source)
        auto = {
            "images": transformers.AutoModelForImageClassification,
            "texts": transformers.AutoModelForSequenceClassification,
            "language": transformers.AutoModelForCausalLM,
        }[kind]
        reader = transformers.AutoImageProcessor if kind == "images" else transformers.AutoTokenizer
        model, processor = (pretrained.loaded(source, each.from_pretrained) for each in (auto, reader))
        if kind != "images":
            _give_pad(model, processor, source)
        return cls(source, model, kind, processor)

    def _read_up_to(self, length: int) -> None:
        if self.kind == "images":
            raise ConfigurationError(Option("length"), f" is {length}, but {self.source} reads images; expected none")
        if not 2 <= length <= self._longest:
            raise ConfigurationError(
                Option("length"), f" is {length}; {self.source} reads texts of 2 to {self._longest:,} tokens"
            )
        self.length: int = length

    def _call(self, names: Sequence[str]) -> None:
        if len(names) != len(self.classes):
            raise ConfigurationError(
                Option("classes"), f" are {len(names)}; {self.source} has {len(self.classes)} outputs, expected as many"
            )
        self._name(names)

    def _name(self, names: Sequence[str]) -> None:
        self.classes, self.named = tuple(names), True
        self.model.config.id2label = dict(enumerate(names))
        self.model.config.label2id = {name: label for label, name in enumerate(names)}

    def inputs(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """What the tokenizer or the image processor makes of them."""
        if self.kind == "images":
            images = [image.convert("RGB") if self._colour else image.convert("L") for image in samples]
            return dict(self.processor(images, return_tensors="pt"))
        encoded = self.processor(
            list(samples), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {
            key: value for key, value in encoded.items() if key in ("input_ids", "attention_mask", "token_type_ids")
        }

    @property
    def start_of_text(self) -> Any:
        """Its tokenizer, which says so, or what the model's settings say."""
        if self.kind != "language":
            return super().start_of_text
        known = [self.model.config.bos_token_id, self.model.config.eos_token_id]
        told = next((token for token in known if isinstance(token, int)), None)
        tokenizer = self.processor
        return tokenizer if told is None or tokenizer.bos_token or tokenizer.eos_token else told

    def fitted(self, part: Part) -> tuple[Part, str]:
        """Texts to go on with in pieces that it can read; of texts to classify, only how many are longer."""
        if self.kind == "images":
            return part, ""
        room = self.length - self.processor.num_special_tokens_to_add()
        pieces = [self._pieces(text, room) for text in part.samples]
        longer = sum(len(each) > 1 for each in pieces)
        if not longer:
            return part, ""
        if self.kind == "texts":
            return part, f"of {longer:,} of {len(part):,} texts only the first {self.length} tokens are read"
        names = [
            name if len(each) == 1 else f"{name} ({number} of {len(each)})"
            for name, each in zip(part.names, pieces, strict=True)
            for number in range(1, len(each) + 1)
        ]
        cut = Part([piece for each in pieces for piece in each], [], names)
        return cut, f"{longer:,} of {len(part):,} texts are longer than {self.length} tokens and are read in pieces"

    def _pieces(self, text: str, room: int) -> list[str]:
        """A text in pieces of so many tokens."""
        if len(text) <= room:  # no token is shorter than a character
            return [text]
        if not self.processor.is_fast:
            ids = self.processor(text, add_special_tokens=False, verbose=False)["input_ids"]
            cut = [ids[start : start + room] for start in range(0, len(ids), room)]
            return [text] if len(cut) < 2 else [self.processor.decode(piece) for piece in cut]
        found = self.processor(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = found["offset_mapping"]
        starts = range(0, len(ends), room)
        return [text[ends[start][0] : ends[min(start + room, len(ends)) - 1][1]] for start in starts] or [text]

    @property
    def _colour(self) -> bool:
        return int(getattr(self.model.config, "num_channels", 3)) == 3

    def grow(self, names: Sequence[str]) -> None:
        """Grow the last layer; ``id2label`` gets the new names."""
        total = self._grow_last(names)
        known = self.classes
        self.model.config.num_labels = total
        if hasattr(self.model, "num_labels"):
            self.model.num_labels = total
        self._name([*known, *names])

    def write(self, folder: Path) -> None:
        """As ``save_pretrained`` writes it, with its tokenizer or image processor."""
        with pretrained.quietly():
            self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def reopened(self, folder: Path) -> Opened:
        """By ``from_pretrained``."""
        return Pretrained.open(str(folder), length=None if self.kind == "images" else self.length)


def _kind_of(config: Any, source: str) -> Kind:
    for architecture in config.architectures or []:
        for ending, kind in _KINDS.items():
            if architecture.endswith(ending):
                _check_one_class(config, kind, source)
                return kind
    found = ", ".join(config.architectures or ["no architecture"])
    raise ConfigurationError(
        Option("model"), f" {source} is {found}; expected an image classifier, a text classifier or a causal language "
        "model"
    )  # fmt: skip


def _check_one_class(config: Any, kind: Kind, source: str) -> None:
    """Refuse a classifier by its class that is none: it answers with numbers, or with several classes at once."""
    said = getattr(config, "problem_type", None)
    if kind == "language" or (said in (None, "single_label_classification") and config.num_labels > 1):
        return
    what = "several classes at once" if said == "multi_label_classification" else "a number (one output)"
    if said == "regression":
        what = "numbers (regression)"
    raise ConfigurationError(
        Option("model"), f" {source} answers with {what}; expected a classifier with one class for each sample"
    )


def _give_pad(model: Any, tokenizer: Any, source: str) -> None:
    """A token to fill short texts up with: the one there is, else the end of a text, which is masked there."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigurationError(
                f"the tokenizer of {source} has neither a pad token nor an end-of-text token; give it one: "
                "tokenizer.add_special_tokens({'pad_token': '…'})"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
