"""A model of Transformers, from a folder or from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from holdfast.adapt.opened import Kind, Opened
from holdfast.errors import ConfigurationError, DependencyError, Option, StateError

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

    usual_lr = 5e-5

    def __init__(self, source: str, model: Any, kind: Kind, processor: Any) -> None:
        self.source, self.model, self.kind, self.processor = source, model, kind, processor
        names = {int(label): str(name) for label, name in (model.config.id2label or {}).items()}
        self.classes = () if kind == "language" else tuple(names[label] for label in sorted(names))
        self.named = not all(name == f"LABEL_{place}" for place, name in enumerate(self.classes))
        most = getattr(model.config, "max_position_embeddings", None) or _LENGTH
        self.length = min(_LENGTH, int(most), int(getattr(processor, "model_max_length", _LENGTH) or _LENGTH))

    @classmethod
    def open(cls, source: str, classes: Sequence[str] = ()) -> Pretrained:
        """Load a folder or a hub id.

        Raises:
            ConfigurationError: if there is no such model, or it is of another kind.
            DependencyError: if Transformers is not installed.
        """
        try:
            import transformers
        except ImportError as error:
            raise DependencyError("a model of Transformers needs: pip install 'holdfast[adapt]'") from error
        try:
            config = transformers.AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                Option("model"),
                f" is {source!r}, which is no folder or hub id that Transformers can read: {_line(error)}",
            ) from error
        kind = _kind_of(config, source)
        auto = {
            "images": transformers.AutoModelForImageClassification,
            "texts": transformers.AutoModelForSequenceClassification,
            "language": transformers.AutoModelForCausalLM,
        }[kind]
        reader = transformers.AutoImageProcessor if kind == "images" else transformers.AutoTokenizer
        try:
            with _quietly():
                model, processor = auto.from_pretrained(source), reader.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise StateError(f"{source} could not be loaded: {_line(error)}") from error
        if kind != "images":
            _give_pad(model, processor, source)
        opened = cls(source, model, kind, processor)
        if classes:
            opened._call(classes)
        return opened

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
        with _quietly():
            self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def reopened(self, folder: Path) -> Opened:
        """By ``from_pretrained``."""
        return Pretrained.open(str(folder))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the bars that Transformers draws over weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _kind_of(config: Any, source: str) -> Kind:
    for architecture in config.architectures or []:
        for ending, kind in _KINDS.items():
            if architecture.endswith(ending):
                return kind
    found = ", ".join(config.architectures or ["no architecture"])
    raise ConfigurationError(
        Option("model"), f" {source} is {found}; expected an image classifier, a text classifier or a causal language "
        "model"
    )  # fmt: skip


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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
