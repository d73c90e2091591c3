"""Which objective outputs and targets of some shape are for: what an error names."""

from __future__ import annotations

from torch import Tensor

__all__ = ["fits", "shown"]


def shown(tensor: Tensor) -> str:
    """Shape and dtype in words."""
    return f"{tuple(tensor.shape)} ({str(tensor.dtype).removeprefix('torch.')})"


def fits(outputs: Tensor, targets: Tensor | None = None) -> str:
    """The objectives that take such outputs and targets, as the end of a sentence."""
    dims = outputs.dim()
    real = targets is not None and targets.is_floating_point()
    if real or (targets is not None and targets.shape == outputs.shape):
        return "use Regression for real values, MultiLabel for yes/no answers, or a callable of your own"
    if dims == 2 and targets is not None and targets.dim() == 2:
        return "use an objective for one label per sample, or a forward= that gives outputs at each labelled position"
    if dims >= 4:
        return (
            "use Segmentation where each pixel of [B, K, H, W] has a label, Regression for real values, or a "
            "forward= that gives what is expected"
        )
    if dims == 3:
        if targets is not None and targets.dim() == 2 and targets.shape[1] == outputs.shape[2] != outputs.shape[1]:
            return "use Segmentation for classes in dimension 1"
        return (
            "use TokenClassification where each position has a label, MaskedLM or Seq2SeqLM for words at labelled "
            "positions, CausalLM for the next word, or a forward= that gives what is expected"
        )
    if dims == 2 and outputs.shape[1] > 1:
        return "use Classification for one class of several, or a forward= that gives what is expected"
    return (
        "use MultiLabel for yes/no outputs, Regression for real ones, or a forward= that gives [B, K]; ModelLoss for a "
        "loss of the model's own"
    )
