"""Models by name, with seeded weights: the protocols' networks, two residual networks, and anyone's own.

A model is a trunk and a head, or one head per task. With one head it returns ``[B, K]``; with several, the outputs
of each head in a list, all computed from the same features: a task's loss then reaches its own head only.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.bench.models import residual
from holdfast.bench.models import transformer as text_models
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError

__all__ = ["Heads", "build", "names"]


class Heads(nn.Module):
    """A trunk, and one linear head per task on its features.

    Args:
        trunk: gives features ``[B, F]``.
        features: F.
        outputs: K for a single head, which gives ``[B, K]``; a sequence of K for a list of such outputs.
    """

    def __init__(self, trunk: nn.Module, features: int, outputs: int | Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.single = isinstance(outputs, int)
        widths = [outputs] if isinstance(outputs, int) else outputs
        self.heads = nn.ModuleList(nn.Linear(features, width) for width in widths)

    def forward(self, inputs: Tensor) -> Tensor | list[Tensor]:
        """Outputs of the only head, or of every head in the order of the tasks."""
        features = self.trunk(inputs)
        outputs = [head(features) for head in self.heads]
        return outputs[0] if self.single else outputs


def names(*, text: bool = False) -> dict[str, str]:
    """Model name -> what it is, in a line: for images, or for texts."""
    if text:
        return {"transformer": "one encoder layer, width 600, 30 heads, dropout .1, for numbered words"}
    return {
        "mlp": "two hidden layers of 400; any mlp-A-B-… has hidden layers of A, B, …",
        "cnn-anastrophic": "two 3x3 convolutions (16, 32), each pooled; one hidden layer of 128",
        "cnn-classp": "two 3x3 convolutions (32, 64), pooled once; one hidden layer of 128; dropout .25 and .5",
        "resnet-small": "20 layers, widths 16, 32, 64, GroupNorm; 0.27 M parameters, for images of 28 to 32 pixels",
        "resnet18": "18 layers, widths 64 to 512, BatchNorm, the standard stem for large images; 11.7 M parameters",
    }


def build(
    name: str,
    input_shape: Sequence[int],
    outputs: int | Sequence[int],
    *,
    seed: int,
    dropout: float | None = None,
    text: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model with its weights drawn from a seed.

    Weights are drawn on the CPU from the default generator, which is seeded for that moment and put back as it was:
    the caller's random state does not change, nor does the result depend on it.

    Args:
        name: one of `names()`; `mlp-A-B-…` with hidden widths; or ``package.module:factory``, which is called as
            ``factory(input_shape=…, outputs=…)`` and returns the module.
        input_shape: of one sample, as in `Stream.input_shape`.
        outputs: a number of outputs, or one number per head, as in `Stream.outputs`.
        seed: of the weights.
        dropout: replaces every dropout rate of the model; default the protocol's own: none in `mlp`,
            .25 and .5 in `cnn-classp`, .1 in `transformer`.
        text: for `transformer`: `vocabulary` (how many words), `mask` (of padding, on by default), `width`, `heads`.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        ConfigurationError: if the name is unknown, does not fit the input, or its factory cannot be called.
    """
    shape = tuple(input_shape)
    heads = outputs if isinstance(outputs, int) else tuple(outputs)
    widths_asked = (heads,) if isinstance(heads, int) else heads
    if not widths_asked or min(widths_asked) < 1:
        raise ConfigurationError(f"outputs is {outputs}; expected at least one head of at least 1 output")
    if dropout is not None and not 0 <= dropout < 1:
        raise ConfigurationError(f"dropout is {dropout}; expected at least 0 and less than 1")
    if ":" in name:
        if dropout is not None:
            raise ConfigurationError(f"dropout={dropout} does not apply to {name!r}, which builds itself")
        with _here_importable():
            factory = _import(name)
            with _seeded(seed):
                return _call(name, factory, shape, heads)
    if name in names(text=True):
        with _seeded(seed):
            return Heads(*_transformer(shape, dropout, dict(text or {})), heads)
    if text:
        raise ConfigurationError(f"text={text} does not apply to {name!r}, which takes images")
    family, widths = _parse(name)
    with _seeded(seed):
        if family == "mlp":
            trunk, features = _mlp(shape, widths, dropout or 0.0)
        elif family == "cnn-anastrophic":
            trunk, features = _cnn_anastrophic(_image(name, shape, 4), dropout or 0.0)
        elif family == "cnn-classp":
            rates = (0.25, 0.5) if dropout is None else (dropout, dropout)
            trunk, features = _cnn_classp(_image(name, shape, 6), rates)
        else:
            if dropout:
                raise ConfigurationError(f"dropout={dropout} does not apply to {name!r}, which has none")
            make = residual.small if family == "resnet-small" else residual.standard18
            trunk, features = make(_image(name, shape, 8)[0])
        return Heads(trunk, features, heads)


def _transformer(shape: tuple[int, ...], dropout: float | None, options: dict[str, Any]) -> tuple[nn.Module, int]:
    if len(shape) != 1:
        raise ConfigurationError(f"the model 'transformer' needs rows of numbered words, got samples {shape}")
    unknown = sorted(set(options) - {"vocabulary", "mask", "width", "heads"})
    if unknown or "vocabulary" not in options:
        raise ConfigurationError(
            f"text has no {unknown[0]!r}; expected vocabulary, mask, width or heads"
            if unknown
            else "the model 'transformer' needs text.vocabulary, the number of words"
        )
    return text_models.build(dropout=dropout, **{"mask": True, **options})


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # manual_seed of the CPU's generator alone: torch.manual_seed would also reseed every accelerator.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _parse(name: str) -> tuple[str, tuple[int, ...]]:
    if name == "mlp":
        return "mlp", (400, 400)
    if name.startswith("mlp-"):
        widths = name.split("-")[1:]
        if not all(width.isdecimal() and int(width) > 0 for width in widths):
            raise ConfigurationError(f"the model {name!r} must read mlp-A-B-… with hidden widths of at least 1")
        return "mlp", tuple(map(int, widths))
    if name not in names():
        raise unknown_name("model", name, [*names(), *names(text=True)])
    return name, ()


def _image(name: str, shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ConfigurationError(f"the model {name!r} needs images [C, H, W] of {least} pixels or more, got {shape}")
    channels, height, width = shape
    return channels, height, width


def _mlp(shape: tuple[int, ...], widths: Sequence[int], dropout: float) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = [nn.Flatten()]
    features = torch.Size(shape).numel()
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = width
    return nn.Sequential(*layers), features


def _cnn_anastrophic(shape: tuple[int, int, int], dropout: float) -> tuple[nn.Module, int]:
    """The network of the Anastrophic release's two-task Split-MNIST."""
    channels, height, width = shape
    flat = 32 * (height // 4) * (width // 4)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 128),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else [])), 128


def _cnn_classp(shape: tuple[int, int, int], rates: tuple[float, float]) -> tuple[nn.Module, int]:
    """The network of the CLASSP release's MNIST then Fashion-MNIST.

    Its second dropout is the plain one: the release uses the channel-wise one on features ``[B, 128]``, which have no
    channels; PyTorch warns there, and drops single features as plain dropout does.
    """
    channels, height, width = shape
    flat = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    trunk = nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(rates[0]),
        nn.Flatten(),
        nn.Linear(flat, 128),
        nn.ReLU(),
        nn.Dropout(rates[1]),
    )
    return trunk, 128


@contextmanager
def _here_importable() -> Iterator[None]:
    """The working folder among those that modules are found in, as for ``python -m``: a command leaves it out."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _import(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"the model {name!r} must read package.module:factory")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's own code, which may raise anything
        raise ConfigurationError(
            f"the model {name!r} could not be imported: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"the model {name!r} was not found: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigurationError(f"the model {name!r} is a {type(found).__name__}; expected a function or a class")
    factory: Callable[..., Any] = found
    return factory


def _call(name: str, factory: Callable[..., Any], shape: tuple[int, ...], outputs: int | tuple[int, ...]) -> nn.Module:
    try:
        model = factory(input_shape=shape, outputs=outputs)
    except Exception as error:  # the user's own code, which may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(
            f"the model {name!r} could not be called as factory(input_shape={shape}, outputs={outputs}): {reason}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"the model {name!r} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model
