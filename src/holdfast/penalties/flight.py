"""Weights that fly away from their anchors, noticed within a few steps.

The gradient form of a penalty is added after the user's clipping, so nothing bounds it: where a step of SGD moves a
weight beyond its anchor by more than it was away, it swings ever farther.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from holdfast.errors import NumericsError
from holdfast.sharding import largest

__all__ = ["FAR", "check_near", "farthest", "is_due", "outweighing", "swinging"]

FAR = 1000.0
"""How far a weight may be from its anchor, in units of 1 + the largest anchor: training ends long before."""

_RARELY = 256  # steps
_NOT_MINE = "Nothing shows that it is the penalty's doing: look at the loss and its gradient, and at the learning rate"


def is_due(step: int) -> bool:
    """Whether to look at numbers in a step, which then waits for the device: in the first few, and now and then.

    Args:
        step: which step it is, from 1.

    Example:
        >>> [step for step in range(1, 800) if is_due(step)]
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768]
    """
    return step % _RARELY == 0 or (step < _RARELY and step & (step - 1) == 0)


@torch.no_grad()
def farthest(weight: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    r"""The largest :math:`|\theta_i - \theta_i^*|` and the largest :math:`|\theta_i^*|`.

    Args:
        weight: θ, ``[*p]``, with an entry at least.
        anchor: θ*, ``[*p]``.

    Returns:
        Two scalars ``[]``; NaN or infinite where a weight is.
    """
    away = torch.dist(weight.to(anchor.dtype), anchor, p=math.inf)  # without a temporary
    return away, torch.linalg.vector_norm(anchor, math.inf)


def check_near(
    name: str,
    held: Iterable[tuple[Tensor, Tensor]],
    like: Sequence[Tensor],
    steps: int,
    cause: Callable[[], str | None],
) -> None:
    """Refuse to go on where a penalty makes weights fly away from their anchors: in all processes, or in none.

    Where a loss wants weights far away that is its own business, as long as they are finite.

    Args:
        name: of the method.
        held: of each parameter what is here of it, and of its anchor.
        like: the anchors, whole or sharded.
        steps: how many have been taken.
        cause: how the penalty is the cause, and what to do; ``None`` where it is not. Asked only where some are far.

    Raises:
        NumericsError: if one is not finite, or the penalty drives one farther than ever training goes.
    """
    known = [
        (farthest(w, a) if w.numel() else None, tensor)
        for (w, a), tensor in zip(held, like, strict=True)
        if "meta" not in (w.device.type, a.device.type)
    ]
    tensors = [tensor for _, tensor in known]
    away = [_or_nothing(pair, 0) for pair, _ in known]
    most = largest([torch.nan_to_num(part, math.inf, math.inf) for part in away], tensors)
    allowed = FAR * (1 + largest([_or_nothing(pair, 1) for pair, _ in known], tensors))
    if most <= allowed:
        return
    why = cause()
    if math.isinf(most):
        raise NumericsError(
            f"{name} protects weights that have flown away: after {steps} steps one is not finite. {why or _NOT_MINE}"
        )
    if why is not None:
        raise NumericsError(
            f"{name} protects weights that have flown away: after {steps} steps one is {most:.3g} from its anchor. "
            f"{why}"
        )


def swinging(strength: float, stiffness: float, borne: float) -> str | None:
    r"""How a penalty drives weights away, where it is stiffer than a step bears; ``None`` where it is not.

    .. math:: \lambda \max_i s_i > \frac{2 (1 + \mu)}{\eta}

    Source: textbook (heavy-ball) gradient descent on a quadratic; beyond that it swings ever farther. Differs: no.

    Args:
        strength: λ.
        stiffness: :math:`\max_i s_i`, the penalty's largest second derivative at strength 1, in loss / parameter².
        borne: the right-hand side: see :func:`holdfast.step_size.borne_stiffness`.
    """
    if not strength * stiffness > borne:
        return None
    return (
        f"At strength {strength:g} and this learning rate the penalty, which is added after any clipping, swings "
        f"ever farther about the anchors: use coupling='proximal', stable at any strength, or at most strength "
        f"{borne / stiffness / 2:.2g}"
    )


def outweighing(optimizer: str, pull: float, gradient: float) -> str | None:
    """How a penalty drives weights away, where nobody knows which stiffness a step bears; ``None`` where it does not.

    What a loss drives away has the larger gradient on its way; a pull that is stable and larger brings it back.

    Args:
        optimizer: its name.
        pull: the norm of the penalty's gradient, in loss / parameter.
        gradient: the norm of the loss's.
    """
    if not pull > gradient:
        return None
    return (
        f"The penalty's gradient, which is added after any clipping, is {pull:.3g} there, the loss's {gradient:.3g}, "
        f"and the steps of {optimizer} do not bear it: lower the strength or the learning rate"
    )


def _or_nothing(pair: tuple[Tensor, Tensor] | None, place: int) -> Tensor:
    return torch.zeros(0) if pair is None else pair[place]
