"""The next word: of a text that goes on, or of one made from another."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.errors import DataError
from holdfast.objectives.base import Batch
from holdfast.objectives.batches import field, found_targets
from holdfast.objectives.classification import check_classes
from holdfast.objectives.distributions import IGNORED
from holdfast.objectives.packing import sequences
from holdfast.objectives.tokens import Tokens, words_of
from holdfast.objectives.units import Units

__all__ = ["CausalLM", "Seq2SeqLM"]

_BEYOND_REACH = "it would take a backward pass for every word and position"


class CausalLM(Tokens):
    r"""The next token given those before it.

    .. math:: \ell_{t} = -\log p(x_{t+1} \mid x_{\le t})

    Labels are the words themselves, shifted here, as Transformers has them; -100 is none. The first word behind
    padding, or behind another sequence in the same row, is predicted from nothing, and does not count.

    Args:
        per: what a sample is: ``"token"`` (each token's gradient is squared for itself, the mean is over
            tokens) or ``"sequence"`` (the gradients of a sequence's tokens are added before they are squared,
            the mean is over sequences). The two differ, so the choice has no default.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    saved_as: ClassVar[str] = "CausalLM"
    no_exact: ClassVar[str] = _BEYOND_REACH

    def check(self, outputs: Tensor, batch: Batch) -> None:
        """Refuse labels of another shape, and such as are not the words."""
        super().check(outputs, batch)
        _check_words(batch)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy ``[B, T-1]`` per token, or ``[B]`` per sequence (``[B, S]`` if packed); 0 without a label."""
        _check_words(batch)
        return super().losses(outputs, batch)

    def positions(self, outputs: Tensor) -> Tensor:
        """All tokens that another follows, ``[B, T-1, V]``."""
        return outputs[:, :-1]

    def at_positions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The token that follows, ``[B, T-1]``."""
        check_classes(targets[:, 1:], outputs.shape[-1])
        return targets[:, 1:]

    def as_targets(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """Labels ``[B, T]``, of which nothing predicts the first."""
        return torch.cat([torch.full_like(drawn[:, :1], IGNORED), drawn], 1)

    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """Tokens, none of padding, whose next one has a label and is of the same sequence."""
        labelled = self._counting(batch, outputs)
        if labelled.device.type == "cpu":  # elsewhere training would wait
            _check_words(batch)
        valid = labelled[:, 1:]
        mask = field(batch, self.mask_key)
        if mask is not None and mask.shape == labelled.shape:
            valid = valid & (mask[:, :-1] > 0)
        ids = sequences(batch, (labelled.shape[0], labelled.shape[1]))
        if ids is None:
            return self._units(valid, None)
        return self._units(valid & (ids[:, 1:] == ids[:, :-1]), ids[:, 1:])


class Seq2SeqLM(Tokens):
    r"""The next token of a second text, given those before it and the first text (T5, BART, Whisper).

    .. math:: \ell_{t} = -\log p(y_{t} \mid y_{< t}, x)

    Labels ``[B, T]`` stand where the decoder's outputs do; -100 is none. They stay in the batch that the model is
    given, which makes the decoder's inputs out of them.

    Args:
        per: what a sample is: ``"token"`` or ``"sequence"``, as for :class:`CausalLM`.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    saved_as: ClassVar[str] = "Seq2SeqLM"
    no_exact: ClassVar[str] = _BEYOND_REACH
    mask_key: ClassVar[str] = "decoder_attention_mask"
    withheld: ClassVar[frozenset[str]] = frozenset()

    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """Tokens of the decoder with a label; without labels, all but padding."""
        return self._units(self._counting(batch, outputs), None)


def _check_words(batch: Batch) -> None:
    """Refuse labels that are not the words of the text: shifted by one they would stand at the wrong tokens.

    Raises:
        DataError: naming the objectives for labels that are.
    """
    words, labels = words_of(batch), found_targets(batch)
    if words is None or labels is None or words.shape != labels.shape:
        return
    labelled = labels != IGNORED
    differ, number = int(((labels != words) & labelled).sum()), int(labelled.sum())
    if 2 * differ > number:
        raise DataError(
            f"{differ} of {number} labels are not the words at their places, but CausalLM shifts the labels itself: "
            "use TokenClassification where each token has a label, MaskedLM for masked words, or the words as labels"
        )
