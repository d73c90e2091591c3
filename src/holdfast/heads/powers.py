"""Tukey's power, which makes features after a ReLU more alike to a normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import DataError

__all__ = ["tukey_power"]


def tukey_power(features: Tensor, power: float, head: str, *, shift: float = 0.0) -> Tensor:
    r"""Features to a power.

    .. math:: \tilde z = (z + \sigma)^\beta, \qquad \tilde z = \log (z + \sigma) \text{ for } \beta = 0

    Args:
        features: z, ``[B, D]``, >= 0 unless the power is 1.
        power: β.
        head: who takes the power, for the sentence.
        shift: σ, which keeps a logarithm finite.

    Raises:
        DataError: for a negative feature.
    """
    if power == 1:
        return features + shift if shift else features
    if bool((features < 0).any()):
        taken = f"to the power {power:g}" if power else "to their logarithm"
        raise DataError(
            f"{head} takes features {taken}, and one is {float(features.min()):.3g}; expected features after a ReLU, "
            "or tukey=1"
        )
    return (features + shift) ** power if power else torch.log(features + shift)
