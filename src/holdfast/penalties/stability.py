"""A pull that a step does not bear, noticed: the gradient form is added after the user's clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.errors import NumericsError
from holdfast.sharding import largest, local

__all__ = ["FAR", "check_near", "is_due", "too_stiff"]

FAR = 100.0  # how far a weight may get from its anchor, in units of 1 + the largest anchor: training ends long before
_RARELY = 256  # steps


def is_due(step: int) -> bool:
    """Whether to look at numbers in a step, which then waits for the device: in the first few, and now and then.

    Args:
        step: which step of a task it is, from 1.

    Example:
        >>> [step for step in range(1, 800) if is_due(step)]
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768]
    """
    return step % _RARELY == 0 or (step < _RARELY and step & (step - 1) == 0)


def too_stiff(name: str, strength: float, stiffness: float, borne: float) -> str | None:
    r"""What is wrong with a penalty whose gradient is added to a step that does not bear it.

    .. math:: \lambda \max_i s_i > \frac{2 (1 + \mu)}{\eta}

    Source: textbook (heavy-ball) gradient descent on a quadratic; beyond that it swings ever farther.

    Args:
        name: of the method.
        strength: λ.
        stiffness: :math:`\lambda \max_i s_i`, the penalty's largest second derivative, in loss / parameter².
        borne: the right-hand side: see :func:`holdfast.step_size.borne_stiffness`.
    """
    if not stiffness > borne:
        return None
    return (
        f"{name} pulls harder than a step of this optimizer bears: at strength {strength:g} and this learning rate the "
        "most important weights swing ever farther about their anchors, whatever was clipped; use coupling='proximal', "
        f"which is stable at any strength, or a strength of at most {strength * borne / stiffness / 2:.2g}"
    )


@torch.no_grad()
def check_near(name: str, weights: Sequence[Tensor], anchors: Sequence[Tensor], steps: int) -> None:
    """Refuse to go on where weights have flown away from their anchors.

    Args:
        name: of the method.
        weights: what is here of each, ``[*p]``.
        anchors: of each, ``[*p]``, whole or sharded.
        steps: how many have been taken since there were anchors.

    Raises:
        NumericsError: if one is not finite, or farther than ever training goes.
    """
    here = [local(anchor).to(w.device) for w, anchor in zip(weights, anchors, strict=True)]
    # Not finite counts as far, also where a maximum leaves it out.
    far = [torch.nan_to_num((w.to(a.dtype) - a).abs(), math.inf, math.inf) for w, a in zip(weights, here, strict=True)]
    farthest = largest(far, anchors)
    allowed = FAR * (1 + largest([a.abs() for a in here], anchors))
    if farthest > allowed:
        found = f"{farthest:.3g} from its anchor" if math.isfinite(farthest) else "not finite"
        raise NumericsError(
            f"{name} protects weights that have flown away: after {steps} steps one is {found}; lower the learning "
            "rate or the strength, or use coupling='proximal'"
        )
