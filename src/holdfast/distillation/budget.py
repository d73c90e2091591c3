r"""A strength that rises while a model is farther from its teacher than it may be."""

from __future__ import annotations

from torch import Tensor

__all__ = ["RATE", "adapted_factor"]

RATE = 0.1


def adapted_factor(factor: Tensor, divergence: Tensor, budget: float) -> Tensor:
    r"""What a strength is multiplied by next.

    .. math:: m \leftarrow \max\Bigl(1,\; m \exp\bigl(0.1 \operatorname{clip}(\tfrac{d - b}{b}, -1, 1)\bigr)\Bigr)

    Source: Ziegler et al. 2019, arXiv:1909.08593, sec. 2.2. Differs: 10 % a step at most in place of 2 %, for
    fine-tuning is short; never below the strength that was given.

    Args:
        factor: m, ``[]``, >= 1.
        divergence: d, ``[]``, in nats; one that is not finite changes nothing.
        budget: b, in nats, > 0.

    Returns:
        m, ``[]``, >= 1.

    Example:
        >>> import torch
        >>> adapted_factor(torch.tensor(2.0), torch.tensor(0.5), 0.25)
        tensor(2.2103)
        >>> adapted_factor(torch.tensor(1.0), torch.tensor(0.1), 0.25)
        tensor(1.)
    """
    error = ((divergence.to(factor) - budget) / budget).nan_to_num(nan=0.0).clamp(-1, 1)
    return (factor * (RATE * error).exp()).clamp(min=1)
