"""A small Transformer encoder for texts: the network of CLASSP's experiment on sentences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.bench.data.text import PADDING
from holdfast.errors import ConfigurationError

__all__ = ["TextEncoder", "build"]

_WIDTH = 600
_HEADS = 30
_HIDDEN = 2048


class _Block(nn.Module):
    """Self-attention and two linear layers, each added to its input and normalised."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, there: Tensor | None) -> Tensor:
        batch, length, width = words.shape
        parts = self.queries_keys_values(words).view(batch, length, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        seen = None if there is None else there[:, None, None, :]
        rate = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, dropout_p=rate)
        mixed = self.joined(mixed.transpose(1, 2).reshape(batch, length, width))
        words = self.first(words + self.dropout(mixed))
        inner = self.down(self.dropout(functional.relu(self.up(words))))
        normed: Tensor = self.second(words + self.dropout(inner))
        return normed


class TextEncoder(nn.Module):
    """Word numbers ``[B, T]`` -> features ``[B, width]`` of the last position.

    Args:
        vocabulary: how many different words.
        width: of the embedding.
        heads: of the attention.
        hidden: width of the layer inside the block.
        dropout: rate.
        mask: nobody attends to padding, and the last position is that of the last word; without it (the release's way)
            padding is a word like others.
    """

    embedding: nn.Embedding
    before: nn.LayerNorm
    after: nn.LayerNorm
    block: _Block

    def __init__(self, vocabulary: int, width: int, heads: int, hidden: int, dropout: float, mask: bool) -> None:
        super().__init__()
        self.mask = mask
        self.embedding = nn.Embedding(vocabulary, width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.block = _Block(width, heads, hidden, dropout)

    def forward(self, words: Tensor) -> Tensor:
        """Features of the last position."""
        there = None
        last = torch.full((len(words),), words.shape[1] - 1, device=words.device)
        if self.mask:
            # An empty text keeps its first position: attention to nothing would be no number.
            there = words != PADDING
            there = there | (torch.arange(words.shape[1], device=words.device) == 0)
            last = there.sum(1) - 1
        features: Tensor = self.after(self.block(self.before(self.embedding(words)), there))
        return features[torch.arange(len(words), device=words.device), last]


def build(
    vocabulary: int, dropout: float | None, *, mask: bool, width: int = _WIDTH, heads: int = _HEADS
) -> tuple[nn.Module, int]:
    """The trunk and the number of its features.

    Raises:
        ConfigurationError: if the heads do not divide the width.
    """
    if width % heads:
        raise ConfigurationError(f"width is {width}; expected a multiple of heads={heads}")
    if vocabulary < 3:
        raise ConfigurationError(f"vocabulary is {vocabulary}; expected at least 3 words")
    rate = 0.1 if dropout is None else dropout
    return TextEncoder(vocabulary, width, heads, _HIDDEN, rate, mask), width
