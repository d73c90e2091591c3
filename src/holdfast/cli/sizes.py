"""``holdfast methods --model``: what every method would hold in memory for a model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.bench.models import named as models
from holdfast.bench.study.footprint import footprint, has_importances
from holdfast.errors import ConfigurationError
from holdfast.registry import Entry

__all__ = ["parse_shape", "show"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WIDE = 240  # columns, where the output is no terminal: a table in a file should not be folded


def parse_shape(text: str) -> tuple[int, ...]:
    """A shape from ``3,224,224``.

    Raises:
        ConfigurationError: for anything else.
    """
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigurationError(f"--input is {text!r}; expected sizes such as 3,224,224")
    return tuple(map(int, parts))


def show(entries: Iterable[Entry], model: str, shape: str | None, outputs: int | None, importance_dtype: str) -> None:
    """Print the estimate for a model that is built without memory of its own, unless it is the user's.

    Args:
        entries: the methods.
        model: a name that `models.build` knows.
        shape: of one sample; ``None`` for the model's usual.
        outputs: of the model; ``None`` for the usual number.
        importance_dtype: ``float32`` or ``bfloat16``.

    Raises:
        ConfigurationError: for an unknown name, shape or precision.
    """
    if importance_dtype not in _DTYPES:
        raise ConfigurationError(f"--importance-dtype is {importance_dtype!r}; expected {' or '.join(_DTYPES)}")
    image, classes = ((3, 224, 224), 1000) if model == "resnet18" else ((1, 28, 28), 10)
    size = image if shape is None else parse_shape(shape)
    with nullcontext() if ":" in model else torch.device("meta"):
        built = models.build(model, size, classes if outputs is None else outputs, seed=0)
    count = sum(p.numel() for p in built.parameters())
    table = Table(show_edge=False, pad_edge=False)
    for header in ("Method", "State", "Also in training", "Also at a task's end, up to"):
        table.add_column(header, justify="left" if header == "Method" else "right", no_wrap=True)
    asked, refusals = list(entries), []
    for entry in asked:
        try:
            found = footprint(entry, built, _DTYPES[importance_dtype] if has_importances(entry) else None)
        except ConfigurationError as error:
            if len(asked) == 1:
                raise
            refusals.append(f"{entry.name} does not suit {model}: {error}")
            continue
        sizes = (found.state_bytes, found.training_bytes, found.consolidating_bytes)
        table.add_row(Text(entry.name), *(_mib(number) for number in sizes))
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    weights = _mib(sum(p.nbytes for p in built.parameters()))
    console.print(Text(f"{model}: {count:,} parameters, {weights}. Beyond the model, its gradients and its optimizer:"))
    console.print(table)
    for sentence in refusals:
        console.print(Text(sentence))


def _mib(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB"
