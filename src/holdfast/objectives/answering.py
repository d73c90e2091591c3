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
    ``start_positions`` and ``end_positions``, or are a tensor ``[B, 2]``. A place outside the text is none. As in the
    models' own loss, tokens of padding compete with the others; no norm and no distance from a teacher sees them.

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
        size = None if outputs is None else outputs.shape[:2]
        if targets is not None and targets.dim() == 2 and targets.shape[1] == 2 and not targets.is_floating_point():
            length = field(batch, "input_ids") if outputs is None else outputs
            valid = targets >= 0
            return Units(valid if length is None else valid & (targets < length.shape[-1]), averaged=True)
        if size is None:
            raise DataError(f"a batch of type {type(batch).__name__} has no answers [B, 2]")
        assert outputs is not None
        return Units(torch.ones(size, dtype=torch.bool, device=outputs.device), averaged=True)

    def open(self, rows: Tensor, batch: Batch, fill: float) -> Tensor:
        """Without the tokens of padding."""
        mask = field(batch, "attention_mask")
        if mask is None or mask.dim() != 2 or mask.shape != (len(rows), rows.shape[-1]):
            return rows
        return rows.masked_fill((mask == 0)[:, None], fill)
