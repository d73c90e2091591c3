"""Models by name, with seeded weights: the protocols' networks, two residual networks, and anyone's own.

A model is a trunk and a head, or one head per task. With one head it returns ``[B, K]``; with several, the outputs
of each head in a list, all computed from the same features: a task's loss then reaches its own head only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from holdfast.bench.data import pretrained as pretrained_data
from holdfast.bench.models import gpt, own, pretrained, residual, transformer
from holdfast.bench.models.heads import Heads
from holdfast.bench.models.small import cnn_anastrophic, cnn_classp, mlp
from holdfast.checks import unknown_name
from holdfast.errors import ConfigurationError

__all__ = ["build", "known", "names", "seeded"]


def names(*, text: bool = False) -> dict[str, str]:
    """Model name -> what it is, in a line: for images, or for texts."""
    if text:
        return {
            "transformer": "one encoder layer, width 600, 30 heads, dropout .1, for numbered words",
            **{
                name: f"{size.layers} layers, width {size.width}, {size.heads} heads, for texts to be continued"
                for name, size in gpt.SIZES.items()
            },
        }
    return {
        "mlp": "two hidden layers of 400; any mlp-A-B-… has hidden layers of A, B, …",
        "cnn-anastrophic": "two 3x3 convolutions (16, 32), each pooled; one hidden layer of 128",
        "cnn-classp": "two 3x3 convolutions (32, 64), pooled once; one hidden layer of 128; dropout .25 and .5",
        "resnet-small": "20 layers, widths 16, 32, 64, GroupNorm; 0.27 M parameters, for images of 28 to 32 pixels",
        "resnet18": "18 layers, widths 64 to 512, BatchNorm, the standard stem for large images; 11.7 M parameters",
    }


def known(name: str) -> bool:
    """Whether a model of that name is built here: one of ours, or the user's own ``package.module:factory``."""
    return ":" in name or name.startswith("mlp-") or name in {**names(), **names(text=True)}


def build(
    name: str,
    input_shape: Sequence[int],
    outputs: int | Sequence[int],
    *,
    seed: int,
    dropout: float | None = None,
    text: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> nn.Module:
    """A model with its weights drawn from a seed.

    Weights are drawn on the CPU from the default generator, which is seeded for that moment and put back as it was:
    the caller's random state does not change, nor does the result depend on it.

    Args:
        name: one of `names()`; `mlp-A-B-…` with hidden widths; ``package.module:factory``, which is called as
            ``factory(input_shape=…, outputs=…)`` and returns the module; or a causal language model of Transformers, a
            folder or an id of the Hub, with its own weights.
        input_shape: of one sample, as in `Stream.input_shape`.
        outputs: a number of outputs, or one number per head, as in `Stream.outputs`.
        seed: of the weights.
        dropout: replaces every dropout rate of the model; default the protocol's own: none in `mlp`,
            .25 and .5 in `cnn-classp`, .1 in `transformer`.
        text: for `transformer`: `vocabulary` (how many words), `mask` (of padding, on by default), `width`, `heads`.
        digest: for a model of Transformers: what its files must be, as `pretrained.digest` says it.

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
    if pretrained_data.is_pretrained(name):
        for option, value in (("dropout", dropout), ("text", text)):
            if value:
                raise ConfigurationError(f"{option}={value} does not apply to {name!r}, which is what its folder says")
        with seeded(seed):
            return pretrained.build(name, shape, heads, digest=digest)
    if ":" in name:
        if dropout is not None:
            raise ConfigurationError(f"dropout={dropout} does not apply to {name!r}, which builds itself")
        with own.here_importable():
            factory = own.find(name)
            with seeded(seed):
                return own.call(name, factory, shape, heads)
    if name in gpt.SIZES:
        if len(shape) != 1 or not isinstance(heads, int):
            raise ConfigurationError(f"the model {name!r} needs texts to be continued, got samples {shape}")
        with seeded(seed):
            return Heads(gpt.GPT(heads, shape[0], gpt.SIZES[name], dropout or 0.0), gpt.SIZES[name].width, heads)
    if name in names(text=True):
        with seeded(seed):
            return Heads(*_transformer(shape, dropout, dict(text or {})), heads)
    if text:
        raise ConfigurationError(f"text={text} does not apply to {name!r}, which takes images")
    family, widths = _parse(name)
    with seeded(seed):
        if family == "mlp":
            trunk, features = mlp(shape, widths, dropout or 0.0)
        elif family == "cnn-anastrophic":
            trunk, features = cnn_anastrophic(_image(name, shape, 4), dropout or 0.0)
        elif family == "cnn-classp":
            rates = (0.25, 0.5) if dropout is None else (dropout, dropout)
            trunk, features = cnn_classp(_image(name, shape, 6), rates)
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
    return transformer.build(dropout=dropout, **{"mask": True, **options})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it PyTorch's own generator of the CPU begins with a seed; after it, it is as it was."""
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
