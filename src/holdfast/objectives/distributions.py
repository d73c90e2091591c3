r"""What the outputs at one position say of its target: one class of several, a real value, yes or no.

Everything here goes position by position: ``[..., K]`` in, ``[...]`` out.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "IGNORED",
    "Bernoulli",
    "Categorical",
    "Distribution",
    "Gaussian",
    "sigmoid_divergence",
    "softmax_divergence",
    "spread",
]

IGNORED = -100  # PyTorch's and Transformers' label for "no loss here"


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""How surprised the student is by the teacher's softened answer.

    .. math:: \mathrm{KL}(p^* \Vert p) = \sum_k p^*_k (\log p^*_k - \log p_k), \qquad p = \mathrm{softmax}(f / T)

    Source: Hinton et al. 2015, arXiv:1503.02531, sec. 2. Differs: less the teacher's entropy, a constant.

    Args:
        student: outputs ``[..., K]``.
        teacher: outputs ``[..., K]``; where one is minus infinity, that answer plays no part.
        temperature: T, > 0.

    Returns:
        ``[...]``, in nats, >= 0; without the factor T².
    """
    log_p = (student / temperature).log_softmax(-1)
    log_q = (teacher / temperature).log_softmax(-1)
    closed = log_q.isneginf()
    log_p, log_r = log_p.masked_fill(closed, 0), log_q.masked_fill(closed, 0)
    return (log_q.exp() * (log_r - log_p)).sum(-1)


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""The same for independent yes/no answers, each its own.

    .. math:: q \log\frac{q}{p} + (1 - q) \log\frac{1 - q}{1 - p}, \qquad p = \sigma(f / T)

    Args:
        student: outputs ``[...]``.
        teacher: outputs ``[...]``.
        temperature: T, > 0.

    Returns:
        ``[...]``, in nats, >= 0; without the factor T².
    """
    f, g = student / temperature, teacher / temperature
    yes = g.sigmoid() * (F.logsigmoid(g) - F.logsigmoid(f))
    no = (-g).sigmoid() * (F.logsigmoid(-g) - F.logsigmoid(-f))
    return yes + no


def spread(rows: Tensor, measure: str) -> Tensor:
    r"""The entropy of the softmax, :math:`-\sum p \log p`, or its :math:`\sum p^2`: ``[..., K]`` -> ``[...]``.

    Args:
        rows: outputs; one of minus infinity plays no part.
        measure: ``"entropy"`` or ``"l2"``.
    """
    log_p = rows.log_softmax(-1)
    if measure == "l2":
        return (2 * log_p).exp().sum(-1)
    return -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0)).sum(-1)


class Distribution(abc.ABC):
    """How targets are distributed, given the outputs.

    Attributes:
        softened: whether a temperature plays a part in the distance from a teacher.
    """

    softened: bool = True

    @abc.abstractmethod
    def losses(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Minus the log of the probability (density, less its constant), ``[..., K]`` -> ``[...]``."""

    @abc.abstractmethod
    def draw(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Targets drawn from the distribution; the graph is not followed."""

    @abc.abstractmethod
    def factors(self, rows: Tensor) -> Iterator[Tensor]:
        """Terms ``[...]`` whose squared gradients add up to the Fisher information of the outputs."""

    @abc.abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far a student is from a teacher, ``[..., K]`` twice -> ``[...]``."""


class Categorical(Distribution):
    r"""One of K classes: softmax and cross-entropy; the target -100 is none, its loss 0."""

    def losses(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        flat = F.cross_entropy(
            rows.reshape(-1, rows.shape[-1]), targets.reshape(-1), ignore_index=IGNORED, reduction="none"
        )
        return flat.view(targets.shape)

    def draw(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Classes, ``[...]``."""
        p = rows.detach().softmax(-1).reshape(-1, rows.shape[-1])
        # On the generator's device, so one seed means one draw anywhere.
        source = p if generator is None else p.to(generator.device)
        return torch.multinomial(source, 1, generator=generator)[:, 0].to(rows.device).view(rows.shape[:-1])

    def factors(self, rows: Tensor) -> Iterator[Tensor]:
        r"""K − 1 terms :math:`\sum_j L_{jk} z_j`, with the logits z and L held constant.

        L is the Cholesky factor of the Fisher information of the logits, :math:`\operatorname{diag}(p) - p p^\top`,
        whose rank is K − 1: with :math:`s_k = \sum_{j > k} p_j`,

        .. math:: L_{kk} = \sqrt{p_k s_k / (p_k + s_k)}, \qquad L_{jk} = -L_{kk}\, p_j / s_k \quad (j > k)

        So it takes one backward pass less than there are classes: for two classes, one. Nothing is subtracted, so it
        stays accurate where the model is all but sure.
        """
        p = rows.detach().to(torch.promote_types(rows.dtype, torch.float32)).softmax(-1)
        rest = p.flip(-1).cumsum(-1).flip(-1)  # p_k + s_k
        tiny = torch.finfo(p.dtype).tiny
        for k in range(rows.shape[-1] - 1):
            diagonal = (p[..., k] * (rest[..., k + 1] / rest[..., k].clamp_min(tiny))).sqrt()
            # The quotient first: the product of two small numbers would be 0.
            below = -diagonal[..., None] * (p[..., k + 1 :] / rest[..., k + 1, None].clamp_min(tiny))
            column = torch.cat([diagonal[..., None], below], -1)
            # Where L is 0, an output may be minus infinity.
            yield torch.where(column == 0, 0.0, column * rows[..., k:]).sum(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """That of the softened softmax."""
        return softmax_divergence(student, teacher, temperature)


class Gaussian(Distribution):
    """K real values with noise of variance 1: half the squared error, summed."""

    softened = False

    def losses(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Half the squared error."""
        return 0.5 * (rows - targets).square().sum(-1)

    def draw(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Real values, ``[..., K]``."""
        device = rows.device if generator is None else generator.device
        noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype, device=device)
        return rows.detach() + noise.to(rows.device)

    def factors(self, rows: Tensor) -> Iterator[Tensor]:
        """Each output itself."""
        yield from rows.unbind(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Half the squared distance: no temperature plays a part."""
        return 0.5 * (student - teacher).square().sum(-1)


class Bernoulli(Distribution):
    """K independent yes/no answers: a sigmoid and a binary cross-entropy each, summed."""

    def losses(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(rows, targets.to(rows.dtype), reduction="none").sum(-1)

    def draw(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Zeros and ones, ``[..., K]``."""
        p = rows.detach().sigmoid()
        device = p.device if generator is None else generator.device
        uniform = torch.rand(p.shape, generator=generator, dtype=p.dtype, device=device).to(p.device)
        return (uniform < p).to(p.dtype)

    def factors(self, rows: Tensor) -> Iterator[Tensor]:
        r"""Each logit times :math:`\sqrt{p(1-p)}`, the root held constant."""
        p = rows.detach().sigmoid()
        yield from ((p * (1 - p)).sqrt() * rows).unbind(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """That of the softened sigmoids."""
        return sigmoid_divergence(student, teacher, temperature).sum(-1)
