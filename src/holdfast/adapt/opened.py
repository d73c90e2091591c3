"""A model of one's own, whatever it is: how a sample becomes its input, its classes' names, how it is written."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.adapt.last import grown, last_layer, replace
from holdfast.bench.data.parts import Part
from holdfast.errors import ConfigurationError

__all__ = ["Kind", "Opened"]

Kind: TypeAlias = Literal["images", "texts", "language"]
"""What it reads: images to classify, texts to classify, or texts to go on with."""


class Opened(abc.ABC):
    """A model and all that has to be known of it.

    Attributes:
        source: what the user typed.
        model: the network.
        kind: what it reads.
        classes: what its outputs are called, in order; of a language model empty.
        named: whether these names mean something; else they are numbers.
        usual_lr: the learning rate at which such a model is usually trained further.
        length: how many tokens of a text it reads at most; 0 of one that reads none.
    """

    source: str
    model: Any
    kind: Kind
    classes: tuple[str, ...]
    named: bool
    usual_lr: float = 1e-3
    length: int = 0

    @abc.abstractmethod
    def inputs(self, samples: Sequence[Any]) -> Any:
        """A batch's inputs, as the model is called with them (a dict or a tensor), out of images or texts."""

    @abc.abstractmethod
    def grow(self, names: Sequence[str]) -> None:
        """Give it outputs for further classes; the old ones stay as they are.

        Raises:
            ConfigurationError: if it has no last layer that could grow.
        """

    @abc.abstractmethod
    def write(self, folder: Path) -> None:
        """Write it so that what it came from loads it again."""

    @abc.abstractmethod
    def reopened(self, folder: Path) -> Opened:
        """What :meth:`write` wrote, read again."""

    def fitted(self, part: Part) -> tuple[Part, str]:
        """Samples as long as the model reads them, and what was done to them in a sentence; empty where nothing was."""
        return part, ""

    @property
    def start_of_text(self) -> Any:
        """Where a text of its own begins, as ``holdfast.generations`` takes it.

        Raises:
            ConfigurationError: if it writes none.
        """
        raise ConfigurationError(f"{self.source} writes no texts; expected a language model")

    @property
    def last_layer(self) -> str:
        """The name of the linear layer whose outputs the classes are.

        Raises:
            ConfigurationError: if there is none.
        """
        return last_layer(self.model, len(self.classes), self.source)

    def _grow_last(self, names: Sequence[str]) -> int:
        """Put a grown layer in the last one's place; how many outputs there are now."""
        place = self.last_layer
        layer = self.model.get_submodule(place)
        assert isinstance(layer, nn.Linear)
        total = len(self.classes) + len(names)
        replace(self.model, place, grown(layer, total, torch.Generator().manual_seed(len(self.classes))))
        return total

    def batch(self, samples: Sequence[Any], labels: Tensor | None) -> Any:
        """A batch for objectives: inputs and labels, or of a language model its own words as labels."""
        inputs = self.inputs(samples)
        if self.kind != "language":
            return inputs, labels
        words = inputs["input_ids"].clone()
        return {**inputs, "labels": words.masked_fill(inputs["attention_mask"] == 0, -100)}
