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

__all__ = ["FAR", "check_near", "farthest", "is_due", "remedy"]

FAR = 1000.0
"""How far a weight may be from its anchor, in units of 1 + the largest anchor: training ends long before."""

_RARELY = 256  # steps


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
    name: str, held: Iterable[tuple[Tensor, Tensor]], like: Sequence[Tensor], steps: int, advice: Callable[[], str]
) -> None:
    """Refuse to go on where weights have flown away from their anchors: in all processes, or in none.

    Args:
        name: of the method.
        held: of each parameter what is here of it, and of its anchor.
        like: the anchors, whole or sharded.
        steps: how many have been taken.
        advice: what may help, asked only where it is needed.

    Raises:
        NumericsError: if one is not finite, or farther than ever training goes.
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
    if most > allowed:
        place = f"{most:.3g} from its anchor" if math.isfinite(most) else "not finite"
        raise NumericsError(
            f"{name} protects weights that have flown away: after {steps} steps one is {place}. {advice()}"
        )


def remedy(strength: float, stiffness: float, borne: float) -> str:
    r"""What may help: where the penalty is the cause, which strength a step would bear.

    .. math:: \lambda \max_i s_i > \frac{2 (1 + \mu)}{\eta}

    Source: textbook (heavy-ball) gradient descent on a quadratic; beyond that it swings ever farther. Differs: no.

    Args:
        strength: λ.
        stiffness: :math:`\max_i s_i`, the penalty's largest second derivative at strength 1, in loss / parameter².
        borne: the right-hand side: see :func:`holdfast.step_size.borne_stiffness`.
    """
    if strength * stiffness > borne:
        return (
            f"At strength {strength:g} and this learning rate the penalty, which is added after any clipping, swings "
            f"ever farther about the anchors: use coupling='proximal', stable at any strength, or at most strength "
            f"{borne / stiffness / 2:.2g}"
        )
    return "Lower the learning rate or the strength, or use coupling='proximal', which is stable at any strength"


def _or_nothing(pair: tuple[Tensor, Tensor] | None, place: int) -> Tensor:
    return torch.zeros(0) if pair is None else pair[place]
