"""Whether a model's confidence is worth believing, and how far two models' answers lie apart."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.checks import check_interval
from holdfast.errors import DataError

__all__ = ["brier_score", "calibration_error", "forward_kl"]


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    r"""How far confidence and accuracy lie apart: the expected calibration error (ECE).

    .. math:: \sum_b \frac{n_b}{N} \bigl| \overline{\text{confidence}}_b - \text{accuracy}_b \bigr|

    over bins of equal width of the confidence. It is biased upwards where samples are few: chance alone opens a gap in
    every bin, and no gap is below 0.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3. Differs: a bin holds its lower edge, not its upper one.

    Args:
        confidence: the largest probability of each answer, ``[N]``, in [0, 1].
        right: whether it is right, bool ``[N]``.
        bins: how many, >= 1.

    Returns:
        A fraction.

    Raises:
        DataError: if there is no answer, or the shapes differ.
        ConfigurationError: if ``bins`` is no whole number >= 1.
    """
    check_interval("bins", bins)
    if confidence.dim() != 1 or confidence.shape != right.shape or not len(right):
        raise DataError(
            f"confidence and right have shapes {tuple(confidence.shape)} and {tuple(right.shape)}; expected one [N]"
        )
    place = (confidence.double() * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, place, confidence.double() - right.double())
    return float(gaps.abs().sum() / len(right))


def brier_score(probabilities: Tensor, targets: Tensor) -> Tensor:
    r"""Squared distance of each answer's probabilities from the truth.

    .. math:: \sum_k (p_k - [k = y])^2

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability", eq. 2. Differs: no.

    Args:
        probabilities: ``[N, K]``.
        targets: y, integers ``[N]``; one that is no column counts as a probability of 0.

    Returns:
        ``[N]``, from 0 (certain and right) to 2 (certain and wrong).
    """
    known = (targets >= 0) & (targets < probabilities.shape[-1])
    at = probabilities.gather(1, targets.clamp(0, probabilities.shape[-1] - 1)[:, None])[:, 0]
    return probabilities.square().sum(1) + 1 - 2 * torch.where(known, at, 0)


def forward_kl(before: Tensor, after: Tensor) -> Tensor:
    r"""How surprised the model before's own answers would find the model after, in nats.

    .. math:: \mathrm{KL}(p \Vert q) = \sum_k p_k (\log p_k - \log q_k), \qquad p, q = \mathrm{softmax}

    Over the classes that the model before had: of a model that grew, the new ones are left out.

    Args:
        before: outputs of the model before, ``[N, K]``.
        after: outputs of the model after, ``[N, K]`` or more columns.

    Returns:
        ``[N]``, >= 0.

    Raises:
        DataError: if the model after has fewer outputs.
    """
    if after.shape[-1] < before.shape[-1] or len(after) != len(before):
        raise DataError(
            f"the outputs have shapes {tuple(before.shape)} and {tuple(after.shape)}; expected the model after to have "
            "at least the outputs of the model before"
        )
    p, q = before.log_softmax(-1), after[:, : before.shape[-1]].log_softmax(-1)
    closed = p.isneginf()  # an answer that plays no part
    return (p.exp() * (p.masked_fill(closed, 0) - q.masked_fill(closed, 0))).sum(-1)
