"""What a rule is checked by: a term's gradients, weights that tell samples apart, and a verdict."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from holdfast.importance.capture import Layer
from holdfast.importance.fallback import close
from holdfast.importance.sites import Site

__all__ = ["Pull", "followed", "negligible", "scaled", "shapes_of", "verdict", "weights"]

# Relative to the largest gradient of all: below it is rounding.
_NOTHING = {torch.float64: 1e-10, torch.float32: 1e-5}


def weights(term: Tensor) -> Tensor:
    """Weights in [1/2, 3/2) that all differ, the same in every run: ``[B]``."""
    index = torch.arange(1, term.shape[0] + 1, device=term.device, dtype=torch.float64)
    return ((index * 0.6180339887498949) % 1 + 0.5).to(term.dtype)


def scaled(v: Tensor, rows: Tensor) -> Tensor:
    """Each row times its weight."""
    return rows * v.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1))


def verdict(
    found: Tensor, expected: Tensor, noise: Tensor | None, largest: float
) -> Literal["nothing", "right", "noise", "unsure", "wrong"]:
    """What a rule's sum beside autograd's says of the rule."""
    size = max(float(torch.linalg.vector_norm(found)), float(torch.linalg.vector_norm(expected)))
    if size == 0:
        return "nothing"
    found = found.to(expected.dtype)
    if close(found, expected):
        return "right"
    if noise is not None and close(found, expected, noise):
        return "noise"
    return "unsure" if negligible(size, largest, expected.dtype) else "wrong"


def negligible(size: float, largest: float, dtype: torch.dtype) -> bool:
    """Whether a gradient's norm is as small as rounding errors beside the largest of all."""
    return size <= _NOTHING.get(dtype, 1e-3) * largest


def shapes_of(value: object) -> Hashable:
    """The shapes of all tensors in a batch."""
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, Mapping):
        return tuple((key, shapes_of(item)) for key, item in value.items())
    return tuple(map(shapes_of, value)) if isinstance(value, tuple | list) else None


def followed(terms: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each term, and whether another follows."""
    before = None
    for term in terms:
        if before is not None:
            yield before, True
        before = term
    if before is not None:
        yield before, False


class Pull:
    """One term's gradient at the outputs, and from there at the output of each layer that has a rule."""

    outputs: Tensor
    leaf: Tensor
    term: Tensor
    fast: list[Site]
    cotangent: Tensor

    def __init__(self, outputs: Tensor, leaf: Tensor, term: Tensor, fast: list[Site]) -> None:
        self.outputs, self.leaf, self.term, self.fast = outputs, leaf, term, fast
        (self.cotangent,) = torch.autograd.grad(term.sum(), leaf, retain_graph=True)
        edges = [edge for site in fast for edge in site.edges]
        found = iter(
            torch.autograd.grad(outputs, edges, self.cotangent, retain_graph=True, allow_unused=True) if edges else ()
        )
        # Of each layer that has one, at the output of each of its modules.
        self.grads: dict[Layer, tuple[Tensor, ...]] = {}
        for site in fast:
            grads = list(islice(found, len(site.edges)))
            if any(grad is not None for grad in grads):
                self.grads[site.layer] = tuple(
                    outputs.new_zeros(edge.node._input_metadata[edge.output_nr].shape) if grad is None else grad
                    for grad, edge in zip(grads, site.edges, strict=True)
                )
