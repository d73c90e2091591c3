"""Small language models: each word is told from those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SIZES", "GPT"]


class _Size(NamedTuple):
    layers: int
    width: int
    heads: int


SIZES: Mapping[str, _Size] = {"gpt-tiny": _Size(2, 64, 2), "gpt-small": _Size(4, 128, 4)}
"""Name -> layers, width and heads of the attention."""


class _Block(nn.Module):
    """Attention to what came before, and two linear layers; each normalises what it is given and adds to it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor) -> Tensor:
        batch, length, width = words.shape
        parts = self.queries_keys_values(self.first(words)).view(batch, length, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        words = words + self.dropout(self.joined(mixed.transpose(1, 2).reshape(batch, length, width)))
        inner: Tensor = words + self.dropout(self.down(functional.gelu(self.up(self.second(words)))))
        return inner


class GPT(nn.Module):
    """Word numbers ``[B, T]`` -> features ``[B, T, width]``, each of a word and those before it.

    Args:
        vocabulary: how many different words.
        length: T at most.
        size: layers, width and heads.
        dropout: after each part of a block, and of the sum of word and place.
    """

    words: nn.Embedding
    places: nn.Embedding
    dropout: nn.Dropout
    blocks: nn.Sequential
    norm: nn.LayerNorm

    def __init__(self, vocabulary: int, length: int, size: _Size, dropout: float = 0.0) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, size.width), nn.Embedding(length, size.width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(size.width, size.heads, dropout) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, words: Tensor) -> Tensor:
        """Features ``[B, T, width]``."""
        places = torch.arange(words.shape[1], device=words.device)
        features: Tensor = self.norm(self.blocks(self.dropout(self.words(words) + self.places(places))))
        return features
