"""One seed per run, one independent generator per purpose."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_seed", "generator"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed of its own for every purpose, so that drawing more for one never shifts what another draws.

    Args:
        seed: the run's seed.
        purpose: words and numbers that name what is drawn, as in `derive_seed(0, "validation", task)`.

    Returns:
        An integer in [0, 2^32), the same on every machine.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; see `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
