"""A trunk, and one linear head per task on its features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["Heads"]


class Heads(nn.Module):
    """A trunk, and one linear head per task on its features.

    Args:
        trunk: gives features ``[B, F]``, or ``[B, T, F]``.
        features: F.
        outputs: K for a single head, which gives ``[B, K]`` (``[B, T, K]``); several K for a list of such.
    """

    heads: nn.ModuleList

    def __init__(self, trunk: nn.Module, features: int, outputs: int | Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.single: bool = isinstance(outputs, int)
        widths = [outputs] if isinstance(outputs, int) else outputs
        self.heads = nn.ModuleList(nn.Linear(features, width) for width in widths)

    def forward(self, inputs: Tensor) -> Tensor | list[Tensor]:
        """Outputs of the only head, or of every head in the order of the tasks."""
        features = self.trunk(inputs)
        outputs = [head(features) for head in self.heads]
        return outputs[0] if self.single else outputs
