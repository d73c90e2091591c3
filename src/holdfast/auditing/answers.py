"""What two models answered to one batch: position by position, padding left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.auditing.calibration import brier_score, forward_kl
from holdfast.auditing.record import Part
from holdfast.errors import DataError
from holdfast.objectives import Batch, CausalLM, Classification, MaskedLM, Segmentation, Seq2SeqLM
from holdfast.objectives.batches import targets_of
from holdfast.objectives.distributions import Categorical
from holdfast.objectives.positions import Positions
from holdfast.objectives.tokens import Tokens

__all__ = ["Answers", "Side", "answers_of", "has_answers", "is_language", "part_of"]

_ENTRIES = 1 << 24  # of outputs looked at at once


@dataclass(frozen=True)
class Side:
    """One model's answers, ``[N]`` each.

    Attributes:
        answer: the class that it gives.
        confidence: the probability that it gives to that class.
        right: the probability that it gives to the right class; 0 where it has none such.
        loss: -log of that, in nats; infinite where it has none such.
        brier: Brier score.
    """

    answer: Tensor
    confidence: Tensor
    right: Tensor
    loss: Tensor
    brier: Tensor


@dataclass(frozen=True)
class Answers:
    """Both models' answers to a batch.

    Attributes:
        rows: B, how many samples the batch has.
        row: to which of them an answer belongs, ``[N]``.
        target: the right answers, ``[N]``.
        before: of the model before.
        after: of the model after.
        kl: KL(before ‖ after), in nats, ``[N]``.
        outputs: how many classes compete in the wider of the two models.
    """

    rows: int
    row: Tensor
    target: Tensor
    before: Side
    after: Side
    kl: Tensor
    outputs: int


def has_answers(objective: object) -> bool:
    """Whether an objective's answers are right or wrong: one class of several at each position."""
    return isinstance(objective, Positions) and isinstance(objective.distribution, Categorical)


def is_language(objective: object) -> bool:
    """Whether its classes are words, so that a perplexity means something."""
    return isinstance(objective, CausalLM | Seq2SeqLM | MaskedLM)


def part_of(objective: object) -> Part:
    """What one answer is given to."""
    if isinstance(objective, Tokens):
        return "token"
    if isinstance(objective, Segmentation):
        return "pixel"
    return "answer" if has_answers(objective) and not isinstance(objective, Classification) else "sample"


def answers_of(objective: Positions, before: Tensor, after: Tensor, batch: Batch) -> Answers:
    """Two models' answers, out of their outputs.

    Args:
        objective: what the outputs mean; one with answers (see :func:`has_answers`).
        before: outputs of the model before, as the objective has them.
        after: outputs of the model after; it may have more classes, or fewer where no target is one of the others.
        batch: where the targets are.

    Returns:
        The answers at the positions that have a target.

    Raises:
        DataError: if the outputs do not fit each other, the targets or the objective.
    """
    for outputs in (before, after):
        objective.check_outputs(outputs)
    old, new = (objective.positions(objective.open(outputs, batch)) for outputs in (before, after))
    if old.shape[:2] != new.shape[:2]:
        raise DataError(
            f"the model before gives outputs {tuple(before.shape)} and the model after {tuple(after.shape)}; expected "
            "the same but for the number of classes"
        )
    wider = after if new.shape[-1] >= old.shape[-1] else before
    targets = objective.targets(batch)
    if targets is None:
        targets = targets_of(batch)
    objective.check_targets(wider, targets)
    places = objective.at_positions(wider, targets)
    valid = objective.units(batch, wider).valid & (places >= 0)
    row = torch.arange(len(valid), device=valid.device)[:, None].expand_as(valid)[valid]
    old, new, places = old[valid], new[valid], places[valid]
    width = max(old.shape[-1], new.shape[-1])
    step = max(1, _ENTRIES // max(1, width))
    cut = [slice(start, start + step) for start in range(0, len(places), step)] or [slice(0, 0)]
    return Answers(
        rows=len(valid),
        row=row,
        target=places,
        before=_joined([_side(old[piece], places[piece]) for piece in cut]),
        after=_joined([_side(new[piece], places[piece]) for piece in cut]),
        kl=torch.cat([forward_kl(_wide(old[piece]), _wide(new[piece])) for piece in cut]),
        outputs=width,
    )


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _side(rows: Tensor, targets: Tensor) -> Side:
    log_p = _wide(rows).log_softmax(-1)
    best, answer = log_p.max(-1)
    known = targets < rows.shape[-1]
    at = log_p.gather(1, targets.clamp(max=rows.shape[-1] - 1)[:, None])[:, 0]
    loss = torch.where(known, -at, torch.inf)
    return Side(answer, best.exp(), (-loss).exp(), loss, brier_score(log_p.exp(), targets))


def _joined(sides: list[Side]) -> Side:
    return Side(*(torch.cat([getattr(side, name) for side in sides]) for name in Side.__dataclass_fields__))
