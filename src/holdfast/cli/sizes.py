"""``holdfast methods --model``: what every method would hold in memory for a model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from holdfast.bench.models import named as models
from holdfast.bench.models.configured import configured
from holdfast.bench.study.footprint import Footprint, footprint, has_importances, part_bytes
from holdfast.errors import ConfigurationError
from holdfast.registry import Entry

__all__ = ["Asked", "parse_shape", "show"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_OPTIMIZERS = {"AdamW": 2, "SGD with momentum": 1}  # tensors per parameter
_WIDE = 240  # columns, where the output is no terminal: a table in a file should not be folded


@dataclass(frozen=True)
class Asked:
    """What the estimate is of.

    Args:
        model: a name that `models.build` knows, or a configuration of Transformers: a folder or an id on the Hub.
        shape: of one sample; ``None`` for the model's usual. Of one of our models only, as `outputs`.
        outputs: of the model; ``None`` for the usual number.
        importance_dtype: ``float32`` or ``bfloat16``; ``None`` for both.
        weights: ``float32`` or ``bfloat16``; ``None`` for what the configuration says, or float32.
        processes: over how many the model is sharded.
        offloaded: whether penalties keep their state in the host's memory.
    """

    model: str
    shape: str | None = None
    outputs: int | None = None
    importance_dtype: str | None = None
    weights: str | None = None
    processes: int = 1
    offloaded: bool = False


def parse_shape(text: str) -> tuple[int, ...]:
    """A shape from ``3,224,224``.

    Raises:
        ConfigurationError: for anything else.
    """
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigurationError(f"--input is {text!r}; expected sizes such as 3,224,224")
    return tuple(map(int, parts))


def show(entries: Iterable[Entry], asked: Asked) -> None:
    """Print the estimate for a model that is built without memory of its own, unless it is the user's.

    Args:
        entries: the methods.
        asked: the model, and what is to be known.

    Raises:
        ConfigurationError: for an unknown name, shape or precision, or options that exclude each other.
    """
    if asked.importance_dtype not in (None, *_DTYPES):
        raise ConfigurationError(f"--importance-dtype is {asked.importance_dtype!r}; expected {' or '.join(_DTYPES)}")
    if asked.weights not in (None, *_DTYPES):
        raise ConfigurationError(f"--weights is {asked.weights!r}; expected {' or '.join(_DTYPES)}")
    if asked.offloaded and asked.processes > 1:
        raise ConfigurationError(
            "--offload is for a model in one process; a sharded one's state is where its parameters are: FSDP2's "
            "CPUOffloadPolicy keeps both on the host"
        )
    built = _built(asked)
    table, refusals = _table(list(entries), built, asked)
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    for sentence in _heading(built, asked):
        console.print(Text(sentence))
    console.print(table)
    for sentence in refusals:
        console.print(Text(sentence))


def _built(asked: Asked) -> nn.Module:
    weights = None if asked.weights is None else _DTYPES[asked.weights]
    if not models.known(asked.model):
        if asked.shape is not None or asked.outputs is not None:
            raise ConfigurationError(f"--input and --outputs are for models of ours; {asked.model} says both itself")
        return configured(asked.model, weights)
    image, classes = ((3, 224, 224), 1000) if asked.model == "resnet18" else ((1, 28, 28), 10)
    size = image if asked.shape is None else parse_shape(asked.shape)
    with nullcontext() if ":" in asked.model else torch.device("meta"):
        built = models.build(asked.model, size, classes if asked.outputs is None else asked.outputs, seed=0)
    return built if weights is None else built.to(weights)


def _heading(model: nn.Module, asked: Asked) -> list[str]:
    parameters = list(model.parameters())
    weights = part_bytes(parameters, asked.processes)
    trained = part_bytes([p for p in parameters if p.requires_grad], asked.processes)
    precisions = " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters}))
    optimizers = ", ".join(f"{name} {_mib(count * trained)}" for name, count in _OPTIMIZERS.items())
    shared = f", in each of {asked.processes} processes" if asked.processes > 1 else ""
    return [
        f"{asked.model}: {sum(p.numel() for p in parameters):,} parameters in {precisions}{shared}: weights "
        f"{_mib(weights)}, gradients {_mib(trained)}, an optimizer's state: {optimizers}. Beyond these:"
    ]


def _table(entries: Sequence[Entry], model: nn.Module, asked: Asked) -> tuple[Table, list[str]]:
    dtypes = list(_DTYPES) if asked.importance_dtype is None else [asked.importance_dtype]
    rough = "bfloat16" in dtypes
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("Method", no_wrap=True)
    headers = [f"State{', importances in bfloat16' if dtype == 'bfloat16' else ''}" for dtype in dtypes]
    if asked.offloaded:
        headers = [f"{header}, on the host" for header in headers] + ["State on the device"]
    for header in (*headers, "Also in training", "Also at a task's end, up to"):
        table.add_column(header, justify="right", no_wrap=not rough, overflow="fold")
    refusals = []
    for entry in entries:
        try:
            found = [_of(entry, copy.deepcopy(model), asked, dtype) for dtype in dtypes]  # some change what they are of
        except ConfigurationError as error:
            if len(entries) == 1:
                raise
            refusals.append(f"{entry.name} does not suit {asked.model}: {error}")
            continue
        kept = [each.host_bytes if asked.offloaded else each.state_bytes for each in found]
        rest = [found[0].state_bytes] if asked.offloaded else []
        also = [found[0].training_bytes + found[0].stepping_bytes, max(each.consolidating_bytes for each in found)]
        table.add_row(Text(entry.name), *map(_mib, [*kept, *rest, *also]))
    return table, refusals


def _of(entry: Entry, model: nn.Module, asked: Asked, dtype: str) -> Footprint:
    return footprint(
        entry,
        model,
        _DTYPES[dtype] if has_importances(entry) else None,
        processes=asked.processes,
        offloaded=asked.offloaded,
    )


def _mib(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB"
