"""Samples of one's own data as batches for one's own model: which label means which output, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from holdfast.adapt.opened import Opened
from holdfast.bench.data.parts import Part, joined
from holdfast.errors import ConfigurationError, DataError, Option
from holdfast.objectives.batches import to_device

__all__ = ["Part", "batches_of", "columns_of", "joined", "order"]


def columns_of(opened: Opened, part: Part, what: str) -> torch.Tensor:
    """The output that each label means, ``[N]``; of a language model none.

    Args:
        opened: the model.
        part: its labels are names, or numbers of outputs.
        what: what the data are called, for errors.

    Raises:
        ConfigurationError: if names of the data meet a model whose outputs have none.
        DataError: if the model lacks a label.
    """
    if opened.kind == "language":
        return torch.empty(0, dtype=torch.int64)
    place = {name: column for column, name in enumerate(opened.classes)}
    missing = sorted(set(part.labels) - set(place))
    if missing and not opened.named:
        raise ConfigurationError(
            f"{what} has classes {_shown(missing)}, but the outputs of {opened.source} have no names: say them in "
            "order with ", Option("classes"),
        )  # fmt: skip
    if missing:
        raise DataError(
            f"{what} has classes {_shown(missing)} that {opened.source} lacks; it has {_shown(list(opened.classes))}"
        )
    return torch.tensor([place[label] for label in part.labels], dtype=torch.int64)


def _shown(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def order(count: int, epoch: int, seed: int) -> list[int]:
    """Every sample once, shuffled by the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()


def batches_of(
    opened: Opened,
    part: Part,
    columns: torch.Tensor,
    size: int,
    device: torch.device | str = "cpu",
    *,
    places: Sequence[int] | None = None,
) -> Iterator[Any]:
    """A part as batches.

    Args:
        opened: makes inputs of samples.
        part: the samples.
        columns: of :func:`columns_of`.
        size: samples per batch.
        device: where the batches go.
        places: which samples, in which order; default: all as they come.
    """
    chosen = range(len(part)) if places is None else places
    for start in range(0, len(chosen), size):
        now = [chosen[k] for k in range(start, min(start + size, len(chosen)))]
        labels = columns[now] if len(columns) else None
        yield to_device(opened.batch([part.samples[k] for k in now], labels), device)
