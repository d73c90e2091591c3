"""The shared half of the built-in objectives: how a batch goes through the model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward
from holdfast.objectives.batches import call

__all__ = ["Plain", "logits_of"]


def logits_of(raw: Any) -> Tensor:
    """A tensor, or the ``logits`` of a Transformers output.

    Raises:
        DataError: if it is neither, naming the objective that would do.
    """
    found = raw if isinstance(raw, Tensor) else raw.get("logits") if isinstance(raw, Mapping) else None
    found = getattr(raw, "logits", None) if found is None else found
    if not isinstance(found, Tensor):
        parts = list(raw) if isinstance(raw, Mapping) else []
        if "start_logits" in parts:
            fits = "use QuestionAnswering()"
        elif isinstance(raw, tuple | list) or (parts and all(isinstance(raw[key], Tensor) for key in parts)):
            fits = "for several heads use Classification(head=…), for a loss of the model's own ModelLoss()"
        else:
            fits = "use ModelLoss() for a loss of the model's own, or a callable (outputs, batch) -> [B]"
        named = f" with {', '.join(map(repr, parts))}" if parts else ""
        raise DataError(
            f"the model returned {type(raw).__name__}{named}; expected a tensor or an output with 'logits': {fits}"
        )
    return found


class Plain:
    """How a batch goes through the model.

    Args:
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    withheld: ClassVar[frozenset[str]] = frozenset({"labels"})  # keys of a dict that the model is not given

    def __init__(self, forward: Forward | None = None) -> None:
        if forward is not None and not callable(forward):
            raise ConfigurationError(f"forward is {forward!r}; expected a function (model, batch) -> outputs")
        self._forward = forward

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model returns for this batch."""
        return call(model, batch, self.withheld) if self._forward is None else self._forward(model, batch)

    def select(self, raw: Any) -> Tensor:
        """This task's outputs, out of what the model returned."""
        return logits_of(raw)

    @property
    def own_forward(self) -> Forward | None:
        """The function given for the forward pass, if any."""
        return self._forward

    @property
    def shared_key(self) -> Hashable:
        """Objectives with equal keys may share one forward pass."""
        return (self._forward, self.withheld)
