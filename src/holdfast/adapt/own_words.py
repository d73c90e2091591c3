"""What a language model writes by itself, in place of the texts that it was trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from holdfast.adapt.opened import Opened
from holdfast.generating import Generations, generations

__all__ = ["LENGTH", "SAMPLES", "own_words"]

SAMPLES = 256
LENGTH = 128


def own_words(opened: Opened, *, seed: int, batch_size: int, folder: Path) -> Generations:
    """Texts of the model as it is, the same for every candidate.

    Args:
        opened: a language model.
        seed: of the draws.
        batch_size: rows of a batch.
        folder: where they are kept for the next candidate.

    Raises:
        ConfigurationError: if nobody can say where a text begins.
    """
    return generations(
        opened.model,
        opened.start_of_text,
        samples=SAMPLES,
        length=min(LENGTH, opened.length) - 1,
        generator=torch.Generator().manual_seed(seed),
        batch_size=batch_size,
        cache=folder,
    )
