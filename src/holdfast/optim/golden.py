r"""SGD with the golden ratio's learning rate and momentum: a preset; and cross-entropy taken apart."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.optimizer import ParamsT

from holdfast.errors import DataError

__all__ = ["GOLDEN_LR", "GOLDEN_MOMENTUM", "GoldenSGD", "KLAndEntropy", "kl_and_entropy"]

GOLDEN_MOMENTUM = math.sqrt(2) * (math.sqrt(5) - 1) / 2  # the closed forms lose digits to cancellation
GOLDEN_LR = (1 - GOLDEN_MOMENTUM) ** 2


class GoldenSGD(SGD):
    r"""SGD at a rate and a momentum that follow from the golden ratio, without anything to tune.

    .. math:: \Delta\theta_t = -\eta\, g_t + \alpha\, \Delta\theta_{t-1}, \qquad
        \alpha = \sqrt{3 - \sqrt 5} \approx 0.874, \quad \eta = (1 - \alpha)^2 = 4 - \sqrt 5 - \sqrt{10} + \sqrt 2
        \approx 0.0159

    It is a preset: the derivation knows neither the model nor the scale of its loss, and a constant rate is meant. Set
    against a rate of one's own; it is no method of continual learning.

    Source: Jaeger 2020, arXiv:2006.04751, whose constants are taken from the author's later arXiv:2410.12984, eqs. 24
    to 34, for its own text could not be read. Differs: no.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: η.
        momentum: α.
        weight_decay: as ``torch.optim.SGD`` has it.
        foreach: as ``torch.optim.SGD`` has it.
        fused: as ``torch.optim.SGD`` has it.

    Raises:
        ValueError: for a negative value, as from ``torch.optim.SGD``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = GOLDEN_LR,
        *,
        momentum: float = GOLDEN_MOMENTUM,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, foreach=foreach, fused=fused)


class KLAndEntropy(NamedTuple):
    """What cross-entropy is the sum of, sample by sample, in nats.

    Args:
        cross_entropy: CE(t, q) = KL(t ‖ q) + H(t), ``[B]``: what is minimised.
        kl: KL(t ‖ q), ``[B]``, >= 0: all of it that a model can change.
        target_entropy: H(t), ``[B]``; 0 for labels.
        output_entropy: H(q), ``[B]``: how undecided the model is.
    """

    cross_entropy: Tensor
    kl: Tensor
    target_entropy: Tensor
    output_entropy: Tensor


@torch.no_grad()
def kl_and_entropy(outputs: Tensor, targets: Tensor) -> KLAndEntropy:
    r"""Cross-entropy, the divergence and the entropies that it is made of: numbers to follow, no loss.

    .. math:: \mathrm{CE}(t, q) = \mathrm{KL}(t \,\|\, q) + H(t), \qquad q = \mathrm{softmax}(z)

    Source: the author's abstracts name a loss of a divergence and its dual entropy (arXiv:2104.13277), whose formula
    could not be read. Differs: these are its terms as they are defined everywhere; none is trained on.

    Args:
        outputs: z, ``[B, K]``.
        targets: classes ``[B]``, or distributions t ``[B, K]`` (each row >= 0, of sum 1).

    Raises:
        DataError: for other shapes, a class that there is not, or rows that are no distributions.

    Example:
        >>> found = kl_and_entropy(torch.zeros(1, 2), torch.tensor([1]))
        >>> [round(float(value), 4) for value in found]
        [0.6931, 0.6931, 0.0, 0.6931]
    """
    if outputs.dim() != 2 or targets.shape not in (outputs.shape, outputs.shape[:1]):
        raise DataError(
            f"outputs are {tuple(outputs.shape)} and targets {tuple(targets.shape)}; expected [B, K], and classes [B] "
            "or distributions [B, K]"
        )
    log_q = F.log_softmax(outputs, dim=1)
    if targets.dim() == 1:
        if targets.is_floating_point() or not bool(((targets >= 0) & (targets < outputs.shape[1])).all()):
            raise DataError(f"targets hold something else than the classes 0 to {outputs.shape[1] - 1} of the outputs")
        t = F.one_hot(targets.long(), outputs.shape[1]).to(log_q)
    else:
        t = targets.to(log_q)
        if not bool((t >= 0).all()) or not torch.allclose(t.sum(1), t.new_ones(()), atol=1e-4):
            raise DataError("targets are no distributions; expected rows that are >= 0 and sum to 1")
    target_entropy = torch.special.entr(t).sum(1)
    cross_entropy = -torch.where(t > 0, t * log_q, 0.0).sum(1)
    output_entropy = torch.special.entr(log_q.exp()).sum(1)
    return KLAndEntropy(cross_entropy, cross_entropy - target_entropy, target_entropy, output_entropy)
