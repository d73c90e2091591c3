r"""Which answers changed between two models, and whether that is more than chance.

A *flip* is an answer that was right and is wrong now (negative), or the reverse (positive). Two models of equal
accuracy may have many flips: equal accuracies do not mean that nothing was forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError

__all__ = ["Flips", "clustered_interval", "flips", "mcnemar", "wilson_interval"]


@dataclass(frozen=True)
class Flips:
    """Answers of two models to the same questions, counted.

    Attributes:
        count: N, how many questions.
        negative: right before, wrong now.
        positive: wrong before, right now.
        both_right: right before and now.
        between_wrong: wrong before and now, with another wrong answer.
    """

    count: int
    negative: int
    positive: int
    both_right: int
    between_wrong: int

    @property
    def negative_rate(self) -> float:
        """Share of all questions that were right and are wrong now."""
        return self.negative / self.count

    @property
    def positive_rate(self) -> float:
        """Share of all questions that were wrong and are right now."""
        return self.positive / self.count

    @property
    def accuracy_before(self) -> float:
        """Share that was right."""
        return (self.both_right + self.negative) / self.count

    @property
    def accuracy_after(self) -> float:
        """Share that is right."""
        return (self.both_right + self.positive) / self.count

    @property
    def relative_negative_rate(self) -> float | None:
        r"""Negative flips, in units of those that two independent models of these accuracies would have.

        .. math:: \frac{\mathrm{NFR}}{a_\text{before} (1 - a_\text{after})}

        Source: Yan et al. 2021, arXiv:2011.09161 (positive-congruent training). Differs: no.

        1: no more agreement than chance; 0: no negative flip. ``None`` where no such flip is possible.
        """
        expected = self.accuracy_before * (1 - self.accuracy_after)
        return self.negative_rate / expected if expected else None


def flips(before: Tensor, after: Tensor, targets: Tensor) -> Flips:
    """Count the flips between two models' answers.

    Args:
        before: the answers of the model before, integers ``[N]``.
        after: those of the model after, ``[N]``.
        targets: the right ones, ``[N]``.

    Returns:
        The counts.

    Raises:
        DataError: if there is no answer, or the shapes differ.

    Example:
        >>> found = flips(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 1]), torch.tensor([0, 1, 0]))
        >>> found.negative, found.positive, found.between_wrong
        (1, 0, 1)
    """
    if before.dim() != 1 or not before.shape == after.shape == targets.shape or not len(targets):
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in (before, after, targets))
        raise DataError(f"before, after and targets have shapes {shapes}; expected the same [N], N >= 1")
    was, is_now = before == targets, after == targets
    numbers = torch.stack(
        [(was & ~is_now).sum(), (~was & is_now).sum(), (was & is_now).sum(), (~was & ~is_now & (before != after)).sum()]
    )
    negative, positive, both, between = numbers.tolist()
    return Flips(len(targets), negative, positive, both, between)


def mcnemar(negative: int, positive: int) -> float:
    r"""How likely flips as unequal as these are, if neither direction were likelier: exact, two-sided.

    .. math:: p = \min\Bigl(1,\; 2 \sum_{i=0}^{\min(b, c)} \binom{b + c}{i} 2^{-(b + c)}\Bigr)

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions". Differs: the
    binomial distribution itself in place of its normal approximation.

    Args:
        negative: b, answers that were right and are wrong.
        positive: c, answers that were wrong and are right.

    Returns:
        A probability; 1 where there is no flip.

    Raises:
        DataError: if a count is below 0.

    Example:
        >>> round(mcnemar(8, 4), 4)
        0.3877
    """
    if negative < 0 or positive < 0:
        raise DataError(f"negative is {negative} and positive is {positive}; expected counts >= 0")
    n, smaller = negative + positive, min(negative, positive)
    if n == 0:
        return 1.0
    log_all = math.lgamma(n + 1) - n * math.log(2)
    terms = (math.exp(log_all - math.lgamma(i + 1) - math.lgamma(n - i + 1)) for i in range(smaller + 1))
    return min(1.0, 2 * math.fsum(terms))


def wilson_interval(right: int, count: int, level: float = 0.95) -> tuple[float, float]:
    r"""Where a share probably lies, given how many of how many were right; sound for few samples and near 0 and 1.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference". Differs: no.

    Args:
        right: how many.
        count: n, of how many, >= 1.
        level: two-sided probability, in (0, 1).

    Returns:
        Lower and upper bound, fractions.

    Raises:
        DataError: if the counts are not ``0 <= right <= count``, ``count >= 1``.
        ConfigurationError: if ``level`` is not between 0 and 1.

    Example:
        >>> [round(bound, 4) for bound in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    if not 0 <= right <= count or count < 1:
        raise DataError(f"right is {right} of {count}; expected 0 <= right <= count and count >= 1")
    z = _normal_quantile(level)
    p, shrink = right / count, 1 + z * z / count
    middle = (p + z * z / (2 * count)) / shrink
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / shrink
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered_interval(sums: Tensor, counts: Tensor, level: float = 0.95) -> tuple[float, float | None]:
    r"""A mean over parts (tokens, pixels) of samples that are drawn as a whole, and its half-width.

    .. math::
        r = \frac{\sum_i s_i}{\sum_i n_i}, \qquad
        z \, \frac{\sqrt{\frac{m}{m - 1} \sum_i (s_i - r n_i)^2}}{\sum_i n_i}

    Parts of one sample are alike, so that an interval that took each for itself would be too narrow. Where every sample
    has one part it is the usual one.

    Source: the ratio estimator over clusters, Cochran 1977, "Sampling Techniques", sec. 6.4. Differs: no.

    Args:
        sums: s, the sum over each sample's parts, ``[m]``.
        counts: n, how many parts each sample has, ``[m]``; samples with none are left out.
        level: two-sided probability, in (0, 1).

    Returns:
        The mean, and the half-width; the latter ``None`` for a single sample.

    Raises:
        DataError: if no sample has a part, or the shapes differ.
        ConfigurationError: if ``level`` is not between 0 and 1.
    """
    if sums.dim() != 1 or sums.shape != counts.shape:
        raise DataError(f"sums and counts have shapes {tuple(sums.shape)} and {tuple(counts.shape)}; expected one [m]")
    s, n = sums[counts > 0].double(), counts[counts > 0].double()
    if not len(n):
        raise DataError("no sample has a part; expected a count above 0")
    total = n.sum()
    mean = s.sum() / total
    z, m = _normal_quantile(level), len(n)
    if m == 1:
        return float(mean), None
    spread = (s - mean * n).square().sum() * (m / (m - 1))
    return float(mean), float(z * spread.sqrt() / total)


def _normal_quantile(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ConfigurationError(f"level is {level}; expected a probability between 0 and 1")
    return NormalDist().inv_cdf(0.5 + level / 2)
