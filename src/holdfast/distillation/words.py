"""Words that a teacher never learned: an embedding that has grown since must not end it in an index error."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import torch
from torch import Tensor, nn

from holdfast.names import canonical_modules

__all__ = ["PREFIX", "give_back_words", "lend_words"]

PREFIX = "words."


def _embeddings(model: nn.Module) -> Iterator[tuple[str, nn.Embedding]]:
    return ((name, module) for name, module in canonical_modules(model) if isinstance(module, nn.Embedding))


def _add(module: nn.Embedding, rows: Tensor) -> None:
    # A weight of its own: where it is tied to the output layer, the outputs stay those of the old words.
    module.weight = nn.Parameter(torch.cat([module.weight.detach(), rows.to(module.weight)]), requires_grad=False)


def lend_words(teacher: nn.Module, model: nn.Module, lent: MutableMapping[str, Tensor]) -> None:
    """Give a teacher's embeddings the rows that the model's have gained, as they are now.

    Args:
        teacher: a frozen copy of the model as it was; changed.
        model: the model.
        lent: ``"words."`` + canonical name of an embedding -> the rows it was lent so far, ``[n, d]``; added to.
    """
    live = dict(_embeddings(model))
    for name, module in _embeddings(teacher):
        known = len(module.weight)
        if name in live and len(live[name].weight) > known:
            rows = live[name].weight.detach()[known:].clone()
            _add(module, rows)
            lent[PREFIX + name] = torch.cat([lent[PREFIX + name], rows]) if PREFIX + name in lent else rows


def give_back_words(teacher: nn.Module, lent: MutableMapping[str, Tensor]) -> None:
    """Give a teacher that was just loaded what it had been lent.

    Args:
        teacher: as it was remembered; changed.
        lent: as :func:`lend_words` left it.
    """
    for name, module in _embeddings(teacher):
        if PREFIX + name in lent:
            _add(module, lent[PREFIX + name])
