"""The loss that a model computes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward
from holdfast.objectives.batches import leading_size, one
from holdfast.objectives.loss import LossesOnly

__all__ = ["ModelLoss"]


class ModelLoss(LossesOnly):
    """Whatever the model itself returns as ``loss``: detection, CTC, forecasting, diffusion, autoencoders.

    A dict batch is given to the model whole, its labels too. Where the model gives one loss for a batch, it is asked
    about one sample at a time, so what a whole batch is normalised by (the number of boxes) is each sample's own.

    A loss that compares the samples of a batch with each other (contrastive image-text) is not a sum over samples:
    nothing is learned from one of them alone. ``per="batch"`` takes each batch as one sample; its importance depends on
    how large batches are, so keep them as large as in training.

    Args:
        per: what a sample is: ``"sample"``, or the whole ``"batch"``.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.

    Example:
        >>> class Halves(torch.nn.Linear):
        ...     def forward(self, x): return {"loss": super().forward(x).square().mean()}
        >>> ModelLoss().outputs(Halves(2, 1), (torch.ones(3, 2), None)).shape
        torch.Size([3])
    """

    withheld: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, per: Literal["sample", "batch"] = "sample", forward: Forward | None = None) -> None:
        super().__init__(forward)
        if per not in ("sample", "batch"):
            raise ConfigurationError(f"per is {per!r}; expected 'sample' or 'batch'")
        self.per = per

    def __repr__(self) -> str:
        return f"ModelLoss(per={self.per!r})"

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """One loss per sample, ``[B]``; of a batch that is one sample, ``[1]``.

        Raises:
            DataError: if the model gives no loss, or none to samples by themselves.
        """
        if self.per == "batch":
            return self._loss(model, batch).mean().reshape(1)
        size = leading_size(batch)
        first = self._loss(model, one(batch, 0, size))
        if first.dim() == 1:  # it tells samples apart itself
            return first if size == 1 else self._each(self._loss(model, batch), size)
        alone = [first, *(self._loss(model, one(batch, n, size)) for n in range(1, size))]
        losses = torch.stack([loss.reshape(()) for loss in alone])
        if size > 1 and not bool(losses.detach().any()) and bool(self._loss(model, batch).detach().any()):
            raise DataError(
                "the model's loss compares the samples of a batch with each other: each of them alone has the loss 0; "
                "use ModelLoss(per='batch'), of which a batch is one sample"
            )
        return losses

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The same."""
        return outputs

    def answers(self, model: nn.Module, batch: Batch) -> Tensor:
        """Refused: which of the model's outputs count is not known."""
        raise ConfigurationError(
            "ModelLoss knows the model's loss and none of its outputs, so MAS and ANPyC have nothing to measure: use a "
            "method that needs losses alone (EWC, SI), or another objective, with a forward= that gives [B, K]"
        )

    def _each(self, losses: Tensor, size: int) -> Tensor:
        if losses.shape != (size,):
            raise DataError(f"the model's loss has shape {tuple(losses.shape)}; expected ({size},), one per sample")
        return losses

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's loss for a batch: a single number, or ``[B]``."""
        raw = self.forward(model, batch)
        found = _found(raw)
        if not isinstance(found, Tensor) or found.dim() > 1 or not found.is_floating_point():
            parts = f" with {', '.join(map(repr, raw))}" if isinstance(raw, Mapping) else ""
            raise DataError(
                f"the model returned a {type(raw).__name__}{parts}; ModelLoss expects a 'loss', a number or [B]: put "
                "what it is made from (labels, return_loss=True) into the batch, or use a callable (outputs, batch)"
            )
        return found


def _found(raw: Any) -> Any:
    """The loss in what a model returned: itself, its ``loss``, or the first of a tuple."""
    if isinstance(raw, Tensor):
        return raw
    if isinstance(raw, Mapping):
        return raw.get("loss")
    return raw[0] if type(raw) is tuple and raw else getattr(raw, "loss", None)
