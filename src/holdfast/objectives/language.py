"""The next token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward, Plain, multinomial, targets_of

__all__ = ["CausalLM"]

_IGNORED = -100  # PyTorch's and Transformers' label for "no loss here"


class CausalLM(Plain):
    r"""The next token given those before it.

    .. math:: \ell_{t} = -\log p(x_{t+1} \mid x_{\le t})

    Args:
        per: what a sample is: ``"token"`` (each token's gradient is squared for itself, the mean is over
            tokens) or ``"sequence"`` (the gradients of a sequence's tokens are added before they are squared,
            the mean is over sequences). The two differ, so the choice has no default.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    def __init__(self, *, per: Literal["token", "sequence"], forward: Forward | None = None) -> None:
        super().__init__(forward)
        if per not in ("token", "sequence"):
            raise ConfigurationError(f"per is {per!r}; expected 'token' or 'sequence'")
        self.per = per

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy ``[B, T-1]`` per token, or ``[B]`` per sequence; 0 where the label is -100."""
        labels = targets_of(batch)
        if labels.shape != outputs.shape[:2]:
            raise DataError(f"labels have shape {tuple(labels.shape)}; CausalLM expects {tuple(outputs.shape[:2])}")
        targets = labels[:, 1:]
        each = F.cross_entropy(outputs[:, :-1].transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none")
        return each if self.per == "token" else each.sum(1)

    def count(self, batch: Batch) -> int:
        """How many samples a batch holds: tokens with a label, or sequences."""
        labels = targets_of(batch)
        return int((labels[:, 1:] != _IGNORED).sum()) if self.per == "token" else labels.shape[0]

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """Each next token drawn from the model, given the true ones before it."""
        batch, length, vocabulary = outputs.shape
        flat = outputs.detach().reshape(-1, vocabulary).softmax(-1)
        drawn = multinomial(flat, generator).reshape(batch, length)
        return (None, torch.cat([drawn[:, :1], drawn[:, :-1]], dim=1))  # position t is predicted from t-1

    def mask(self, sampled: Batch, batch: Batch) -> Batch:
        """Padding stays padding."""
        return (None, targets_of(sampled).masked_fill(targets_of(batch) == _IGNORED, _IGNORED))

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """Refused: a term for every word and position is out of reach."""
        raise ConfigurationError("CausalLM has no exact Fisher: choose fisher='sampled' or fisher='empirical'")
