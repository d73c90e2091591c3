"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward
from holdfast.objectives.batches import found_targets
from holdfast.objectives.classification import check_classes
from holdfast.objectives.distributions import IGNORED, Categorical, Distribution
from holdfast.objectives.positions import Positions
from holdfast.objectives.shapes import fits, shown
from holdfast.objectives.units import Units

__all__ = ["Segmentation"]

_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


class Segmentation(Positions):
    r"""A class for each pixel: ``[B, K, H, W]`` against labels ``[B, H, W]``; also lines and volumes.

    .. math:: \ell = -\frac1{|P|} \sum_{p \in P} \log p(y_p \mid x), \qquad P \text{ the labelled pixels of an image}

    Outputs of another size than the labels are resized to it, linearly. A sample is an image, its loss the mean
    over its labelled pixels. A teacher is compared at the size that the model itself gives.

    Args:
        ignored: labels that are none.
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.

    Example:
        >>> labels = torch.tensor([[[0, 1], [1, 255]]])
        >>> Segmentation().losses(torch.zeros(1, 2, 2, 2), {"labels": labels})
        tensor([0.6931])
    """

    distribution: ClassVar[Distribution] = Categorical()
    saved_as: ClassVar[str] = "Segmentation"

    def __init__(self, *, ignored: Sequence[int] = (255, IGNORED), forward: Forward | None = None) -> None:
        super().__init__(forward)
        if isinstance(ignored, str) or not all(isinstance(value, int) for value in ignored):
            raise ConfigurationError(f"ignored is {ignored!r}; expected labels that are none, such as (255, -100)")
        self.ignored: tuple[int, ...] = tuple(ignored)

    def __repr__(self) -> str:
        return f"Segmentation(ignored={self.ignored})"

    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse what is not ``[B, K, ...]`` with at least two classes."""
        if outputs.dim() not in _MODES or outputs.shape[1] < 2:
            raise DataError(
                f"the outputs have shape {tuple(outputs.shape)}; Segmentation expects [B, K, H, W] (or another number "
                f"of places) with at least two classes: {fits(outputs)}"
            )

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse what is no whole number per pixel."""
        if not self._ours(outputs, targets) or len(targets) != len(outputs):
            wanted = ", ".join([str(len(outputs)), *(["…"] * (outputs.dim() - 2))])
            raise DataError(
                f"labels have shape {shown(targets)}; Segmentation expects integers ({wanted}) for outputs "
                f"{tuple(outputs.shape)}: {fits(outputs, targets)}"
            )

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass, ``[B, K, H, W]``: at the labels' size, where there are labels."""
        return self.resized(super().outputs(model, batch), batch)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the labelled pixels of each image, ``[B]``, in nats."""
        return super().losses(self.resized(outputs, batch), batch)

    def resized(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Outputs at the labels' size."""
        targets = found_targets(batch)
        if targets is None or not self._ours(outputs, targets) or targets.shape[1:] == outputs.shape[2:]:
            return outputs
        return F.interpolate(outputs, size=targets.shape[1:], mode=_MODES[outputs.dim()], align_corners=False)

    def positions(self, outputs: Tensor) -> Tensor:
        """Pixels in a row, ``[B, H·W, K]``."""
        return outputs.flatten(2).transpose(1, 2)

    def at_positions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Labels in a row, ``[B, H·W]``."""
        check_classes(targets, outputs.shape[1], self.ignored)
        flat = targets.flatten(1).long()
        return flat.masked_fill(~self._labelled(flat), IGNORED)

    def as_targets(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """Labels, ``[B, H, W]``."""
        return drawn.view(len(drawn), *outputs.shape[2:])

    def units(self, batch: Batch, outputs: Tensor | None = None) -> Units:
        """The labelled pixels of each image; without labels, all."""
        targets = found_targets(batch)
        if targets is not None and (outputs is None or self._ours(outputs, targets)):
            return Units(self._labelled(targets.flatten(1)), averaged=True)
        if outputs is None:
            raise DataError(f"a batch of type {type(batch).__name__} has no labels [B, H, W]")
        valid = torch.ones(len(outputs), outputs[0, 0].numel(), dtype=torch.bool, device=outputs.device)
        return Units(valid, averaged=True)

    def shares(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Of each place of the model's own outputs, how much is labelled, ``[B, P]`` in [0, 1].

        Raises:
            DataError: for whole numbers that can be nothing but labels of places, of another shape.
        """
        targets = found_targets(batch)
        if targets is not None and self._meant(outputs, targets):
            self.check_targets(outputs, targets)
        if targets is None or not self._ours(outputs, targets) or targets.shape[1:] == outputs.shape[2:]:
            return self.units(batch, outputs).valid
        labelled = self._labelled(targets)[:, None].to(torch.promote_types(outputs.dtype, torch.float32))
        return F.interpolate(labelled, size=outputs.shape[2:], mode="area").flatten(1)

    def _ours(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether the labels are of pixels at all, and not another task's, or of tokens before their classes."""
        if targets.is_floating_point() or outputs.dim() not in _MODES or targets.dim() != outputs.dim() - 1:
            return False
        return outputs.dim() > 3 or not targets.shape[1] == outputs.shape[1] != outputs.shape[2]

    def _meant(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether labels can be nothing but labels of places, be their shape wrong: not another task's."""
        if targets.is_floating_point():
            return False
        one = targets.dim() == outputs.dim() and targets.shape[1] == 1  # a dimension of channels too many
        return one or targets.dim() == outputs.dim() - 1

    def _labelled(self, targets: Tensor) -> Tensor:
        found = targets >= 0
        for value in self.ignored:
            found &= targets != value
        return found

    def _arguments(self) -> dict[str, Any]:
        return {"ignored": list(self.ignored)}
