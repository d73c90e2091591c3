"""Texts that a run's model writes itself, as memory in place of a task's data."""

from __future__ import annotations

import torch
from torch import nn

from holdfast.bench.data import language
from holdfast.bench.data.tasks import Stream
from holdfast.generating import Generations, generations

__all__ = ["TEXTS", "write"]

TEXTS = 600
"""How many are written after each task."""

_BATCH = 16  # of which one is asked about in each step
_AT_ONCE = 200  # are written: which texts they are does not depend on it


def write(model: nn.Module, stream: Stream, generator: torch.Generator, samples: int = TEXTS) -> Generations:
    """Texts of a model as it is, each as long as a row of the stream's.

    Args:
        model: of the run.
        stream: whose words these are.
        generator: on the CPU.
        samples: how many.
    """
    assert stream.tokenizer is not None
    start, length = language.end_of(stream.tokenizer), stream.input_shape[0] - 1
    texts = generations(model, start, samples=samples, length=length, generator=generator, batch_size=_AT_ONCE)
    return texts.batched(_BATCH)
