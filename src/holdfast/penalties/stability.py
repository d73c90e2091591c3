"""Weights that fly away, noticed: a penalty's gradient is added after the user's clipping, so nothing else holds it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FAR", "cause", "is_due", "is_far", "magnitude"]

FAR = 100.0  # what a weight may come to, in units of 1 + its anchor's largest: training ends long before
_RARELY = 256  # steps


def is_due(step: int) -> bool:
    """Whether to look at the weights before a step, which then waits for the device: soon at first, and now and then.

    Args:
        step: which step of a task it is, from 1.

    Example:
        >>> [step for step in range(1, 800) if is_due(step)]
        [2, 4, 8, 16, 32, 64, 128, 256, 512, 768]
    """
    return step % _RARELY == 0 or (1 < step < _RARELY and step & (step - 1) == 0)


@torch.no_grad()
def magnitude(tensor: Tensor) -> Tensor:
    """The largest magnitude of a tensor's entries, ``[]``, without a copy of it; not a number if one of them is none.

    Args:
        tensor: ``[*p]``; 0 for one without entries.
    """
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    if tensor.device.type == "cpu":  # there twenty times as fast as the norm
        low, high = torch.aminmax(tensor)
        return torch.maximum(-low, high)
    found: Tensor = torch.linalg.vector_norm(tensor, torch.inf)
    return found


def is_far(weight: Tensor, anchor: Tensor) -> Tensor:
    """Whether a weight is larger than any training makes it, or not finite; ``[]``, without waiting for the device.

    Args:
        weight: what is here of it, ``[*p]``.
        anchor: where it should stay, ``[*p]``, here or in the host's memory.
    """
    most, allowed = magnitude(weight).float(), FAR * (1 + magnitude(anchor).float())
    return ~(most <= allowed.to(most.device))


def cause(optimizer: str, strength: float, stiffness: float, borne: float) -> str | None:
    r"""Why weights flew away, if it is that a penalty is stiffer than a step bears; else ``None``.

    .. math:: \lambda \max_i s_i > \frac{2 (1 + \mu)}{\eta}

    Source: textbook (heavy-ball) gradient descent on a quadratic; beyond that it swings ever farther.

    Args:
        optimizer: its name.
        strength: λ.
        stiffness: :math:`\lambda \max_i s_i`, the penalty's largest second derivative, in loss / parameter².
        borne: the right-hand side: see :func:`holdfast.step_size.borne_stiffness`.
    """
    if not stiffness > borne:
        return None
    bearable = strength * borne / stiffness / 2
    return (
        f"at strength {strength:g} the penalty is stiffer than a step of {optimizer} bears at this learning rate, so "
        "the most important weights swing ever farther about their anchors, whatever was clipped; use "
        f"coupling='proximal', which is stable at any strength, or a strength of at most {bearable:.2g}"
    )
