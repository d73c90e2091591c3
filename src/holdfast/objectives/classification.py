"""One class out of several."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward, Objective
from holdfast.objectives.batches import found_targets, leading_size, targets_of
from holdfast.objectives.distributions import IGNORED, Categorical, Distribution
from holdfast.objectives.meaning import Meaning
from holdfast.objectives.plain import logits_of
from holdfast.objectives.positions import Positions
from holdfast.objectives.shapes import fits, shown
from holdfast.objectives.units import Units

__all__ = ["Classification", "check_classes"]


class Classification(Positions):
    r"""One class out of ``K`` per sample: softmax and cross-entropy.

    .. math:: \ell = -\log p(y \mid x), \qquad p = \mathrm{softmax}(f(x))

    Args:
        classes: the columns of the model's outputs that compete, when not all do. Targets are column
            numbers of the model's full outputs; -100 is none.
        head: which of several outputs to use, when the model returns a sequence or a dict of them.
            Targets count within the head.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.

    Example:
        >>> objective = Classification(classes=(2, 3))
        >>> batch = (torch.eye(4)[:2], torch.tensor([2, 3]))
        >>> objective.losses(objective.outputs(torch.nn.Identity(), batch), batch).shape
        torch.Size([2])
    """

    classes: tuple[int, ...] | None
    distribution: ClassVar[Distribution] = Categorical()
    saved_as: ClassVar[str] = "Classification"

    def __init__(
        self,
        classes: Sequence[int] | None = None,
        *,
        head: int | str | None = None,
        forward: Forward | None = None,
    ) -> None:
        super().__init__(forward)
        self.classes = None if classes is None else _columns_of(classes)
        self.head = head
        self._tables: dict[torch.device, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tables": {}}  # what can be made again is not saved, least of all on a device

    def __repr__(self) -> str:
        return f"Classification(classes={self.classes}, head={self.head!r})"

    def select(self, raw: Any) -> Tensor:
        """The columns ``classes`` of the head ``head``, ``[B, K]``."""
        if self.head is not None:
            try:
                raw = raw[self.head]
            except (KeyError, IndexError, TypeError) as error:
                raise DataError(f"the model's outputs have no head {self.head!r}: {error}") from error
        logits = logits_of(raw)
        if self.classes is None:
            return logits
        if max(self.classes) >= logits.shape[-1]:
            raise DataError(f"classes={self.classes} needs more than the model's {logits.shape[-1]} outputs")
        first, last = self.classes[0], self.classes[-1]
        if self.classes == tuple(range(first, last + 1)):
            return logits[:, first : last + 1]
        return logits[:, self._table(logits.device)]

    def _table(self, device: torch.device) -> Tensor:
        """The columns ``classes`` as a tensor, ``[K]``: copied to a device once, for each copy would wait."""
        found = self._tables.get(device)
        if found is None:
            assert self.classes is not None
            with torch.inference_mode(False):  # a tensor from inference mode could not be used in training
                found = torch.tensor(self.classes, device=device)
            # One made within a transformation (vmap, tracing) must not outlive it.
            if type(found) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(found):
                self._tables[device] = found
        return found

    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse a class that stands alone, too: its softmax is 1 whatever the weights, and nothing is protected."""
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            raise DataError(
                f"the outputs have shape {tuple(outputs.shape)}; Classification expects [B, K] with at least two "
                f"classes: {fits(outputs)}"
            )

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse what is no whole number per sample."""
        if targets.is_floating_point() or targets.shape != outputs.shape[:1]:
            raise DataError(
                f"targets have shape {shown(targets)}; Classification expects integers ({len(outputs)},): "
                f"{fits(outputs, targets)}"
            )

    def positions(self, outputs: Tensor) -> Tensor:
        """One position, ``[B, 1, K]``."""
        return outputs.reshape(len(outputs), 1, -1)

    def at_positions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Targets as positions among the K outputs used, ``[B, 1]``."""
        return self._columns(targets, outputs.shape[1])[:, None]

    def as_targets(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """Columns of the model's full outputs, ``[B]``."""
        drawn = drawn[:, 0]
        if self.classes is None:
            return drawn
        return torch.where(drawn == IGNORED, IGNORED, self._table(drawn.device)[drawn.clamp(min=0)])

    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """Every row, but those labelled -100."""
        targets = found_targets(batch)
        size = leading_size(batch) if outputs is None else len(outputs)
        if targets is not None and targets.shape == (size,):
            return Units((targets != IGNORED)[:, None])
        device = None if outputs is None else outputs.device
        return Units(torch.ones(size, 1, dtype=torch.bool, device=device))

    def _columns(self, targets: Tensor, number: int) -> Tensor:
        """Targets as positions among the ``number`` outputs used, ``[B]``."""
        if self.classes is None:
            check_classes(targets, number)
            return targets
        table = self._table(targets.device)
        hit = targets[:, None] == table
        none = targets == IGNORED
        if targets.device.type == "cpu" and not bool((hit.any(1) | none).all()):
            missing = int(targets[~(hit.any(1) | none)][0])
            raise DataError(f"target {missing} is not among classes={self.classes}")
        return hit.to(torch.int8).argmax(1).masked_fill(none, IGNORED)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy per sample, ``[B]``, in nats."""
        targets = targets_of(batch)
        self.check_outputs(outputs)
        self.check_targets(outputs, targets)
        # As in the base class, without its detours: this one is asked at every step of training.
        return F.cross_entropy(outputs, self._columns(targets, outputs.shape[1]), reduction="none")

    def covers(self, other: Objective | Meaning) -> bool:
        """Whether the other's classes of the same head are among this one's."""
        if self is other or self == other:
            return True
        if not super().covers(other) or not isinstance(other, Classification) or self.head != other.head:
            return False
        return self.classes is None or (other.classes is not None and set(other.classes) <= set(self.classes))

    def _arguments(self) -> dict[str, Any]:
        return {"classes": None if self.classes is None else list(self.classes), "head": self.head}


def check_classes(targets: Tensor, number: int, none: Sequence[int] = (IGNORED,)) -> None:
    """Refuse a target that has no output, on a CPU: on another device the check would have to wait.

    Raises:
        DataError: naming the target.
    """
    if targets.device.type != "cpu" or not targets.numel() or _within(targets, number):
        return
    wrong = (targets >= number) | (targets < 0)
    for ignored in none:
        wrong &= targets != ignored
    if bool(wrong.any()):
        raise DataError(f"target {int(targets[wrong][0])} is not among the model's {number} outputs, from 0")


def _within(targets: Tensor, number: int) -> bool:
    """Whether all are from 0 to ``number`` - 1: one pass, for it is asked at every step."""
    low, high = torch.aminmax(targets)
    return int(low) >= 0 and int(high) < number


def _columns_of(classes: Sequence[int]) -> tuple[int, ...]:
    """Columns as plain numbers.

    Raises:
        ConfigurationError: if they are none, twice the same, negative or no whole numbers.
    """
    try:
        found = tuple(operator.index(c) for c in classes)
    except TypeError:
        found = ()
    if not found or min(found) < 0 or len(set(found)) != len(found):
        raise ConfigurationError(
            f"classes is {classes!r}; expected column numbers from 0, at least one, none of them twice"
        )
    return found
