"""Where in a text the answer to a question begins and ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from holdfast.errors import DataError
from holdfast.objectives.base import Batch
from holdfast.objectives.batches import field, found_targets
from holdfast.objectives.distributions import IGNORED, Categorical, Distribution
from holdfast.objectives.positions import Positions
from holdfast.objectives.shapes import fits, shown
from holdfast.objectives.units import Units

__all__ = ["QuestionAnswering"]

_KEYS = ("start_positions", "end_positions")


class QuestionAnswering(Positions):
    r"""The first and the last token of an answer: the mean of two cross-entropies over the tokens of a text.

    .. math:: \ell = -\tfrac12 \bigl(\log p_\text{start}(s \mid x) + \log p_\text{end}(e \mid x)\bigr)

    Outputs are ``[B, 2, T]``, from ``start_logits`` and ``end_logits`` or a tensor ``[B, T, 2]``; targets stand under
    ``start_positions`` and ``end_positions``, or are a tensor ``[B, 2]``. A place outside the text is none.

    Tokens that ``attention_mask`` says are padding do not compete: p is over the text alone, however long its row. The
    models' own loss in training lets them, so that it is larger by :math:`-\log(1 - q)`, with q the probability that
    it gives to padding (0 in a batch without); without a mask the two are the same.

    Args:
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    distribution: ClassVar[Distribution] = Categorical()
    saved_as: ClassVar[str] = "QuestionAnswering"
    withheld: ClassVar[frozenset[str]] = frozenset({"labels", *_KEYS})

    def select(self, raw: Any) -> Tensor:
        """Start and end, ``[B, 2, T]``."""
        if isinstance(raw, Tensor):
            if raw.dim() != 3 or raw.shape[2] != 2:
                raise DataError(
                    f"the outputs have shape {tuple(raw.shape)}; QuestionAnswering expects [B, T, 2] or an output with "
                    f"'start_logits' and 'end_logits': {fits(raw)}"
                )
            return raw.transpose(1, 2)
        found = [raw.get(key) for key in ("start_logits", "end_logits")] if isinstance(raw, Mapping) else []
        start, end = found if len(found) == 2 else (None, None)
        if not isinstance(start, Tensor) or not isinstance(end, Tensor):
            raise DataError(
                f"the model returned {type(raw).__name__}; QuestionAnswering expects 'start_logits' and 'end_logits', "
                "or a tensor [B, T, 2]: use another objective, or a forward= that gives them"
            )
        return torch.stack([start, end], 1)

    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse what is not ``[B, 2, T]``."""
        if outputs.dim() != 3 or outputs.shape[1] != 2:
            raise DataError(
                f"the outputs have shape {tuple(outputs.shape)}; QuestionAnswering expects [B, 2, T]: {fits(outputs)}"
            )

    def targets(self, batch: Batch) -> Tensor | None:
        """Start and end of each answer, ``[B, 2]``."""
        start, end = (field(batch, key) for key in _KEYS)
        if start is None or end is None:
            return found_targets(batch)
        return torch.stack([start.reshape(len(start)), end.reshape(len(end))], 1)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean of start and end, ``[B]``, in nats."""
        if self.targets(batch) is None:
            raise DataError(
                f"a batch of type {type(batch).__name__} has no answers; expected 'start_positions' and "
                "'end_positions', or a pair (inputs, [B, 2])"
            )
        return super().losses(outputs, batch)

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse what is not two whole numbers per text."""
        if targets.is_floating_point() or targets.shape != outputs.shape[:2]:
            raise DataError(
                f"targets have shape {shown(targets)}; QuestionAnswering expects integers ({len(outputs)}, 2), start "
                "and end, or both under 'start_positions' and 'end_positions'"
            )

    def positions(self, outputs: Tensor) -> Tensor:
        """Start and end, each with the tokens as its classes, ``[B, 2, T]``."""
        return outputs

    def at_positions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Their places, ``[B, 2]``; -100 outside the text."""
        return targets.masked_fill((targets < 0) | (targets >= outputs.shape[2]), IGNORED)

    def as_targets(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """Their places, ``[B, 2]``."""
        return drawn

    def relabelled(self, batch: Batch, targets: Any) -> Batch:
        """The batch with other answers."""
        if not isinstance(batch, Mapping):
            return (batch[0], targets)
        return {**batch, **dict(zip(_KEYS, targets.unbind(1), strict=True))}

    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """The places within the text; without answers, both."""
        targets = self.targets(batch)
        words = field(batch, "input_ids") if outputs is None else outputs
        text = None if words is None else _text(batch, len(words), words.shape[-1])
        if targets is not None and targets.dim() == 2 and targets.shape[1] == 2 and not targets.is_floating_point():
            valid = targets >= 0
            if words is not None:
                valid = valid & (targets < words.shape[-1])
                if text is not None and len(text) == len(targets):
                    valid = valid & text.gather(1, targets.clamp(0, words.shape[-1] - 1))
            return Units(valid, averaged=True)
        if outputs is None:
            raise DataError(f"a batch of type {type(batch).__name__} has no answers [B, 2]")
        valid = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
        return Units(valid if text is None else valid & text.any(1, keepdim=True), averaged=True)

    def open(self, outputs: Tensor, batch: Batch, fill: float = -torch.inf) -> Tensor:
        """Without the tokens of padding; a row that holds nothing else is as it is, and no sample."""
        text = _text(batch, len(outputs), outputs.shape[-1])
        if text is None or outputs.dim() != 3:
            return outputs
        return outputs.masked_fill((~text & text.any(1, keepdim=True))[:, None], fill)


def _text(batch: Batch, size: int, length: int) -> Tensor | None:
    """Which tokens are no padding, bool ``[B, T]``, if the batch says so."""
    mask = field(batch, "attention_mask")
    return mask > 0 if mask is not None and mask.shape == (size, length) else None
