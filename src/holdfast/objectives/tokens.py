"""A target at every token: its class, or the word that was masked there."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward
from holdfast.objectives.batches import field, found_targets, is_pair
from holdfast.objectives.classification import check_classes
from holdfast.objectives.distributions import Categorical, Distribution
from holdfast.objectives.packing import sequences
from holdfast.objectives.positions import Positions
from holdfast.objectives.shapes import fits, shown
from holdfast.objectives.units import Units, compressed
from holdfast.objectives.walked import Unfinished, walked_divergence

__all__ = ["MaskedLM", "Per", "TokenClassification", "Tokens", "words_of"]

Per: TypeAlias = Literal["token", "sequence"]


def words_of(batch: Batch) -> Tensor | None:
    """The words that a model reads, as whole numbers, if the batch has them."""
    found = field(batch, "input_ids")
    if found is None and is_pair(batch) and isinstance(batch[0], Tensor):
        found = batch[0]
    return None if found is None or found.is_floating_point() else found


class Tokens(Positions):
    """``[B, T, K]`` against ``[B, T]``: one class per token.

    Args:
        per: what a sample is: ``"token"`` (each token's gradient is squared for itself, the mean is over tokens) or
            ``"sequence"`` (the gradients of a sequence's tokens are added before they are squared, the mean is over
            sequences). Sequences packed in one row count one by one.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    distribution: ClassVar[Distribution] = Categorical()
    mask_key: ClassVar[str] = "attention_mask"  # where padding is read from without labels

    def __init__(self, *, per: Per, forward: Forward | None = None) -> None:
        super().__init__(forward)
        if per not in ("token", "sequence"):
            raise ConfigurationError(f"per is {per!r}; expected 'token' or 'sequence'")
        self.per = per

    def __repr__(self) -> str:
        return f"{type(self).__name__}(per={self.per!r})"

    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse what is not ``[B, T, K]`` with at least two classes."""
        if outputs.dim() != 3 or outputs.shape[2] < 2:
            raise DataError(
                f"the outputs have shape {tuple(outputs.shape)}; {type(self).__name__} expects [B, T, K] with at least "
                f"two classes: {fits(outputs)}"
            )

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse what is no whole number per token."""
        if targets.is_floating_point() or targets.shape != outputs.shape[:2]:
            raise DataError(
                f"labels have shape {shown(targets)}; {type(self).__name__} expects integers "
                f"{tuple(outputs.shape[:2])}: {fits(outputs, targets)}"
            )

    def positions(self, outputs: Tensor) -> Tensor:
        """Every token, ``[B, T, K]``."""
        return outputs

    def at_positions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The labels, ``[B, T]``."""
        check_classes(targets, outputs.shape[-1])
        return targets

    def as_targets(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """Labels, ``[B, T]``."""
        return drawn

    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """Tokens with a label; without labels, all but padding."""
        shown = self._counting(batch, outputs)
        return self._units(shown, sequences(batch, (shown.shape[0], shown.shape[1])))

    def _counting(self, batch: Batch, outputs: Tensor | None) -> Tensor:
        """Whether a token has a label, or is one at all where there are no labels, ``[B, T]``.

        Raises:
            DataError: if the batch has labels of another length, or neither it nor the outputs say how many tokens.
        """
        size = None if outputs is None else outputs.shape[:2]
        labels = found_targets(batch)
        if labels is not None and labels.dim() == 2 and not labels.is_floating_point():  # else another task's
            if outputs is not None:
                self.check_targets(outputs, labels)
            return labels >= 0  # -100 or whatever a collator fills up with: none is a class
        mask = field(batch, self.mask_key)
        if mask is not None and mask.dim() == 2 and size in (None, mask.shape):
            return mask > 0
        if outputs is None or size is None:
            raise DataError(
                f"a batch of type {type(batch).__name__} has no labels [B, T]; expected a pair (inputs, labels) or a "
                f"dict with 'labels' or {self.mask_key!r}"
            )
        return torch.ones(size, dtype=torch.bool, device=outputs.device)

    def _units(self, valid: Tensor, ids: Tensor | None) -> Units:
        """Positions that count, and the sequence of each."""
        if self.per == "token":
            return Units(valid, each=True)
        if ids is None:
            return Units(valid)
        numbered, number = compressed(ids, valid)
        return Units(valid, numbered, number)

    def distance(
        self, student: Tensor, teacher: Tensor | Unfinished, batch: Batch, *, temperature: float, factor: float
    ) -> Tensor:
        """As for any positions, but walked piece by piece: see :mod:`holdfast.objectives.walked`."""
        self.check_outputs(student)
        if student.shape[:2] != teacher.shape[:2] or student.shape[2] < teacher.shape[2]:
            raise DataError(
                f"the old outputs have shape {tuple(teacher.shape)}, but the model now gives {tuple(student.shape)}"
            )
        view = self.positions(student)
        if isinstance(teacher, Tensor) and view.untyped_storage().data_ptr() != student.untyped_storage().data_ptr():
            return super().distance(student, teacher, batch, temperature=temperature, factor=factor)
        valid = self.units(batch, student).valid
        return walked_divergence(student, teacher, valid, temperature, self.positions, weight=factor)

    def _arguments(self) -> dict[str, Any]:
        return {"per": self.per}


class TokenClassification(Tokens):
    r"""A class for each token: ``[B, T, K]`` against labels ``[B, T]``, aligned; -100 is none.

    .. math:: \ell = -\sum_t \log p(y_t \mid x)

    Args:
        per: what a sample is: ``"sequence"`` adds up its labelled tokens, ``"token"`` takes each for itself.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.

    Example:
        >>> objective = TokenClassification()
        >>> objective.losses(torch.zeros(1, 3, 2), {"labels": torch.tensor([[0, 1, -100]])})
        tensor([1.3863])
    """

    saved_as: ClassVar[str] = "TokenClassification"

    def __init__(self, *, per: Per = "sequence", forward: Forward | None = None) -> None:
        super().__init__(per=per, forward=forward)


class MaskedLM(Tokens):
    r"""The words that were masked: ``[B, T, V]`` against labels ``[B, T]``, aligned; -100 where nothing was.

    .. math:: \ell = -\sum_t \log p(x_t \mid \tilde x)

    Args:
        per: what a sample is: ``"sequence"`` adds up its labelled tokens, ``"token"`` takes each for itself.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    saved_as: ClassVar[str] = "MaskedLM"
    no_exact: ClassVar[str] = "it would take a backward pass for every word and position"

    def __init__(self, *, per: Per = "sequence", forward: Forward | None = None) -> None:
        super().__init__(per=per, forward=forward)
