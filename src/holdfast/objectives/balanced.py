"""One class out of several, of which some are rare: each class counts as if all were alike in number."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives.base import Batch, Forward
from holdfast.objectives.batches import targets_of
from holdfast.objectives.classification import Classification

__all__ = ["ClassBalanced", "class_balanced_weights"]


def class_balanced_weights(counts: Sequence[int] | Tensor, *, beta: float = 0.9999) -> Tensor:
    r"""How much a sample of each class counts, so that rare classes are heard.

    .. math:: a_k \propto \frac{1 - \beta}{1 - \beta^{n_k}}, \qquad \sum_k a_k = K

    Source: Cui et al. 2019, arXiv:1901.05555, eq. 4, scaled as in the code of Alshammari et al. 2022, arXiv:2203.14197.
    Differs: no; ``beta=1`` is the limit, :math:`1 / n_k`.

    Args:
        counts: :math:`n_k`, training samples of each class, at least 1, ``[K]``.
        beta: β, from 0 (every class counts 1) to 1 (in inverse proportion to its number).

    Returns:
        ``[K]``, float64.

    Raises:
        ConfigurationError: for a class without samples, or β out of range.

    Example:
        >>> class_balanced_weights([30, 10], beta=1.0)
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    numbers = _counts_of(counts)
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= 1:
        raise ConfigurationError(f"beta is {beta!r}; expected a number from 0 to 1")
    n = torch.tensor(numbers, dtype=torch.float64)
    if beta == 0:
        return torch.ones_like(n)
    effective = n if beta == 1 else -torch.expm1(n * math.log(beta)) / (1 - beta)  # of few samples nothing cancels
    found: Tensor = len(numbers) / (1 / effective).sum() / effective
    return found


class ClassBalanced(Classification):
    r"""One class out of ``K`` per sample, each class weighted by how rare it is.

    .. math:: \ell = -a_y \log p(y \mid x), \qquad a_k \propto \frac{1 - \beta}{1 - \beta^{n_k}}, \quad \sum_k a_k = K

    The loss of a batch is the plain mean over its samples, :math:`\frac 1 N \sum_i \ell_i`; ``weight=`` of PyTorch's
    cross-entropy divides by :math:`\sum_i a_{y_i}` instead. In a Fisher information each outcome counts as much as in
    the loss, once and not squared: :math:`\mathbb E_x \sum_y p(y|x)\, a_y\, (\partial_\theta \log p(y|x))^2`, which is
    the mean over a data set with as many samples of each class. MAS, ANPyC and teachers look at outputs, not at
    labels, and weigh nothing.

    Source: Cui et al. 2019, arXiv:1901.05555; Alshammari et al. 2022, arXiv:2203.14197, sec. 4.3. Differs: the latter's
    release computes a binary cross-entropy of the softmax under this name, over N·K entries.

    Args:
        counts: training samples of each class, at least 1: of each of ``classes``, or of each of the outputs.
        beta: β, from 0 (as :class:`Classification`) to 1.
        classes: as for :class:`Classification`.
        head: likewise.
        forward: likewise.

    Raises:
        ConfigurationError: for a class without samples, β out of range, or other numbers of counts and classes.

    Example:
        >>> objective = ClassBalanced([30, 10], beta=1.0)
        >>> batch = (torch.zeros(2, 2), torch.tensor([0, 1]))
        >>> objective.losses(objective.outputs(torch.nn.Identity(), batch), batch)
        tensor([0.3466, 1.0397])
    """

    counts: tuple[int, ...]
    beta: float
    saved_as: ClassVar[str] = "ClassBalanced"

    def __init__(
        self,
        counts: Sequence[int] | Tensor,
        *,
        beta: float = 0.9999,
        classes: Sequence[int] | None = None,
        head: int | str | None = None,
        forward: Forward | None = None,
    ) -> None:
        super().__init__(classes, head=head, forward=forward)
        self.weights: Tensor = class_balanced_weights(counts, beta=beta)
        self.counts, self.beta = _counts_of(counts), float(beta)
        if self.classes is not None and len(self.classes) != len(self.counts):
            raise ConfigurationError(
                f"counts are {len(self.counts)} numbers, and classes names {len(self.classes)}; expected one for each"
            )
        self._moved: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_moved": {}}

    def __repr__(self) -> str:
        return f"ClassBalanced({list(self.counts)}, beta={self.beta}, classes={self.classes}, head={self.head!r})"

    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse another number of outputs than of counts, too."""
        super().check_outputs(outputs)
        if outputs.shape[1] != len(self.counts):
            raise DataError(
                f"the outputs have {outputs.shape[1]} classes, and ClassBalanced has counts of {len(self.counts)}; "
                "expected one for each (classes= names those that it is about)"
            )

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Weighted cross-entropy per sample, ``[B]``, in nats."""
        return super().losses(outputs, batch) * self._of(outputs, batch, self._table_of_weights(outputs))

    def scores_from(self, root: Tensor, batch: Batch) -> Tensor:
        r"""Cross-entropy times :math:`\sqrt{a_y}`: its square is to count :math:`a_y`."""
        return super().losses(root, batch) * self._of(root, batch, self._table_of_weights(root).sqrt())

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        r"""K terms :math:`\sqrt{p_k a_k}\,(-\log p_k)`, the root held constant."""
        self.check_outputs(outputs)
        log_p = outputs.log_softmax(1)
        p = log_p.detach().exp()
        for k, weight in enumerate(self._table_of_weights(outputs).unbind()):
            # An output of minus infinity is an outcome that never comes.
            yield torch.where(p[:, k] > 0, -(p[:, k] * weight).sqrt() * log_p[:, k], 0.0)

    def _table_of_weights(self, outputs: Tensor) -> Tensor:
        key = (outputs.device, torch.promote_types(outputs.dtype, torch.float32))
        found = self._moved.get(key)
        if found is None:
            with torch.inference_mode(False):
                found = self.weights.to(*key)
            if type(found) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(found):
                self._moved[key] = found
        return found

    def _of(self, outputs: Tensor, batch: Batch, weights: Tensor) -> Tensor:
        """The weight of each sample, ``[B]``; any of one that is labelled -100, whose loss is 0."""
        return weights[self._columns(targets_of(batch), outputs.shape[1]).clamp(min=0)].to(outputs.dtype)

    def _arguments(self) -> dict[str, Any]:
        return {"counts": list(self.counts), "beta": self.beta, **super()._arguments()}


def _counts_of(counts: Sequence[int] | Tensor) -> tuple[int, ...]:
    given = counts.tolist() if isinstance(counts, Tensor) else counts
    try:
        found = tuple(operator.index(number) for number in given)
    except TypeError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigurationError(f"counts is {counts!r}; expected a number of samples for each class, at least 1")
    return found
