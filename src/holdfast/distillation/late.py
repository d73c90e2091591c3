"""A teacher's last layer, left out of its forward pass where its outputs would be large."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from holdfast.objectives import Batch
from holdfast.objectives.tokens import Tokens
from holdfast.objectives.walked import Scratch, Unfinished
from holdfast.sharding import is_sharded

__all__ = ["LastLayer"]


class LastLayer:
    """Finds the linear layer whose outputs are a model's, and then has it work on one token instead of all.

    It is known by its result alone: in the first forward pass, and again in each that follows, the model's outputs have
    to be the very tensor that the layer returned. A model that does anything to them (a cap, a bias of its own) is
    asked for the whole.
    """

    def __init__(self) -> None:
        self._layer: nn.Linear | None = None
        self._sought = False
        self._scratch = Scratch()

    def outputs(self, objective: Tokens, model: nn.Module, batch: Batch) -> Tensor | Unfinished:
        """A forward pass, unfinished where that is worth it.

        Args:
            objective: whose outputs are wanted.
            model: under ``no_grad``.
            batch: one batch.
        """
        if self._layer is not None:
            found = self._unfinished(objective, model, batch, self._layer)
            if found is not None:
                return found
            self._layer = None  # the model does otherwise by now
        whole, layer = _made_by(objective, model, batch, sought=not self._sought)
        # The labels of a batch that the model is given are as many as its outputs: these cannot be cut short.
        if layer is not None and layer.out_features > layer.in_features and "labels" in objective.withheld:
            self._layer = layer
        self._sought = True
        return whole

    def _unfinished(self, objective: Tokens, model: nn.Module, batch: Batch, layer: nn.Linear) -> Unfinished | None:
        seen: dict[str, Tensor] = {}

        def first_token(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            (seen["hidden"],) = args
            return (seen["hidden"][:, :1].contiguous(),)  # else it is a product for each row, 20 times as slow

        def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            seen["output"] = output

        handles = [layer.register_forward_pre_hook(first_token), layer.register_forward_hook(note)]
        try:
            found = objective.select(objective.forward(model, batch))
        finally:
            for handle in handles:
                handle.remove()
        if "output" not in seen or seen["hidden"].dim() != 3 or not _same(found, seen["output"]):
            return None
        bias = None if layer.bias is None else layer.bias.detach()
        return Unfinished(seen["hidden"], layer.weight.detach(), bias, self._scratch)


def _made_by(objective: Tokens, model: nn.Module, batch: Batch, *, sought: bool) -> tuple[Tensor, nn.Linear | None]:
    """The outputs, and the layer that returned them, if it is sought."""
    returned: list[tuple[nn.Linear, Tensor]] = []

    def note(module: nn.Linear, args: tuple[Any, ...], output: Tensor) -> None:
        returned.append((module, output))

    layers = [m for m in model.modules() if type(m) is nn.Linear and not is_sharded(m.weight)] if sought else []
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        found = objective.select(objective.forward(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    return found, next((layer for layer, output in reversed(returned) if _same(found, output)), None)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
