"""The fixed features that a closed-form head stands on: ``--backbone``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from holdfast.bench.models.heads import Heads
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError, Option
from holdfast.heads import FeatureMap, RandomFourier, RandomPatches, RandomProjection

__all__ = ["Representation", "names", "parse"]

_NAMES = {
    "random-patches": "random filters on whitened patches of images: nothing is trained",
    "first-task": "the model's last features, trained on the first task alone and then fixed",
    "random": "the model's last features, as it was initialised",
    "given": "the outputs of a model of one's own (--model package.module:factory), as it comes",
    "pixels": "the inputs themselves",
}
_MAPS = {"relu": RandomProjection, "fourier": RandomFourier}
_SMALL = 16  # pixels: a side below which there is less to see, in smaller patches


@dataclass(frozen=True)
class Representation:
    """A backbone's name, taken apart.

    Attributes:
        name: one of :func:`names`.
        expand: a feature map over it and its size, such as ``("relu", 2000)``; ``None`` for none.
    """

    name: str
    expand: tuple[str, int] | None = None

    @property
    def trains_first(self) -> bool:
        """Whether the model is trained on the first task."""
        return self.name == "first-task"

    def build(self, model: nn.Module, model_name: str, input_shape: Sequence[int], seed: int) -> dict[str, Any]:
        """What a head's constructor is given: ``features`` and ``expand``.

        Args:
            model: of the run.
            model_name: what it was built from.
            input_shape: of one sample.
            seed: of what is drawn.

        Raises:
            ConfigurationError: if the representation does not fit the model or the samples.
        """
        expand: FeatureMap | None = None if self.expand is None else _MAPS[self.expand[0]](self.expand[1], seed=seed)
        if self.name == "pixels":
            return {"expand": expand}
        if self.name == "random-patches":
            return {"expand": _patches(input_shape, seed)}
        own = ":" in model_name
        if own != (self.name == "given") and not (own and self.trains_first):
            wanted = "a model of your own, package.module:factory" if self.name == "given" else "a named model"
            raise ConfigurationError(
                Option("backbone", (self.name,)), f" takes {wanted}; got ", Option("model", (model_name,))
            )
        return {"features": model.trunk if isinstance(model, Heads) else model, "expand": expand}


def _patches(shape: Sequence[int], seed: int) -> RandomPatches:
    if len(shape) != 3 or min(shape[1:]) < 8:
        raise ConfigurationError(
            Option("backbone", ("random-patches",)),
            f" takes images of 8 pixels or more a side; samples of shape {tuple(shape)} want first-task",
        )
    if min(shape[1:]) < _SMALL:
        return RandomPatches(100, patch=3, seed=seed)
    if shape[0] == 1:
        return RandomPatches(seed=seed)
    return RandomPatches(600, pool=2, seed=seed)  # in colour more filters tell more apart than more places


def names() -> dict[str, str]:
    """Name -> what it is, in a line. Over each but ``random-patches`` may stand ``+relu-SIZE`` or ``+fourier-SIZE``."""
    return dict(_NAMES)


def parse(text: str) -> Representation:
    """``NAME`` or ``NAME+MAP-SIZE``, such as ``first-task+relu-2000``.

    Raises:
        ConfigurationError: for anything else.

    Example:
        >>> parse("pixels+fourier-2000")
        Representation(name='pixels', expand=('fourier', 2000))
    """
    name, plus, rest = text.partition("+")
    if name not in _NAMES:
        raise unknown_name("backbone", name, list(_NAMES))
    if not plus:
        return Representation(name)
    kind, _, size = rest.partition("-")
    if kind not in _MAPS or not size.isdecimal() or int(size) < 1:
        raise ConfigurationError(
            f"the backbone {text!r} must read NAME+relu-SIZE or NAME+fourier-SIZE, such as +relu-2000"
        )
    if name == "random-patches":
        raise ConfigurationError(f"the backbone {text!r} puts a feature map over one; expected random-patches alone")
    return Representation(name, (kind, int(size)))
