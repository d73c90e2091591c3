"""Streams without boundaries: every batch is answered first and learned then, so all of the stream is test data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast import metrics
from holdfast.checks import check_interval
from holdfast.errors import ConfigurationError, DataError
from holdfast.heads import Head
from holdfast.objectives import Batch, Classification
from holdfast.objectives.batches import targets_of
from holdfast.objectives.distributions import IGNORED

__all__ = ["Prequential", "evaluate"]


@dataclass(frozen=True)
class Prequential:
    """How a stream went, beside "the same label as the last".

    Attributes:
        hits: whether each answer was right, in the order of the stream: bool ``[N]``.
        labels: y, int64 ``[N]``.
        window: over how many samples the sliding accuracies are taken.
    """

    hits: Tensor
    labels: Tensor
    window: int

    @property
    def accuracy(self) -> float:
        """The share of right answers over the whole stream."""
        return int(self.hits.sum()) / len(self.hits)

    @property
    def baseline(self) -> float:
        """What repeating the last label would have got over the whole stream."""
        return sum(metrics.no_change(self.labels)) / len(self.labels)

    @property
    def kappa(self) -> float | None:
        """:func:`holdfast.metrics.temporal_kappa`: 0 where the learner is worth no more than the last label."""
        return metrics.temporal_kappa(self.accuracy, self.baseline)

    @property
    def sliding(self) -> list[float]:
        """The accuracy over the window that ends with each sample: ``[N]``."""
        return metrics.prequential_accuracy(self.hits, self.window)

    @property
    def sliding_baseline(self) -> list[float]:
        """The same of repeating the last label: ``[N]``."""
        return metrics.prequential_accuracy(metrics.no_change(self.labels), self.window)

    @property
    def worst(self) -> float:
        """The worst accuracy of a whole window (of all samples, where there are fewer than one)."""
        return min(self.sliding[min(self.window, len(self.hits)) - 1 :])

    def __str__(self) -> str:
        """A sentence with the figure, its baseline, and a warning where the first says less than it seems to."""
        said = (
            f"{100 * self.accuracy:.2f} % of {len(self.hits):,} samples right before they were learned (the last "
            f"{min(self.window, len(self.hits)):,}: {100 * self.sliding[-1]:.2f} %, the worst such window: "
            f"{100 * self.worst:.2f} %); repeating the last label gets {100 * self.baseline:.2f} %"
        )
        if self.baseline >= self.accuracy:
            said += ", so these answers show nothing: the stream comes class by class"
        return said


def evaluate(
    learner: Head | nn.Module,
    stream: Iterable[Batch],
    *,
    optimizer: Optimizer | None = None,
    objective: Classification | None = None,
    learn: Callable[[Batch], object] | None = None,
    window: int = 1000,
) -> Prequential:
    """Test a learner on each batch of a stream, and train it on that batch then.

    Nothing is set apart and nothing is seen twice. What a learner has not met yet it gets wrong, so the figure is that
    of learning, too. Methods that are attached to the optimizer protect these steps as any others.

    Args:
        learner: a head of :mod:`holdfast.heads`, which is consolidated with each batch; or a model, whose answers are
            taken in evaluation mode and which takes one step on each batch in training mode.
        stream: batches, pairs ``(x, y)`` or dicts with ``labels``; of one sample or of many. A label of -100 is none.
        optimizer: of a model; its step is that of the mean cross-entropy.
        objective: how a batch goes through a model, and which outputs compete.
        learn: how a batch is learned, in the place of all that: for a loss of one's own, ``keep.penalty`` in it, or
            ``keep.consolidate`` every so many batches.
        window: of the sliding accuracies, in samples.

    Returns:
        The hits and labels, and what follows from them.

    Raises:
        ConfigurationError: for a model without an optimizer, or a head with one.
        DataError: if the stream holds no labelled sample.

    Example:
        >>> from holdfast.heads import NCM
        >>> stream = [(torch.tensor([[float(y)]]), torch.tensor([y])) for y in (0, 0, 1, 0, 1, 1)]
        >>> evaluate(NCM(), stream, window=2).sliding
        [0.0, 0.5, 0.5, 0.5, 1.0, 1.0]
    """
    check_interval("window", window)
    answers, learns = _parts(learner, optimizer, objective or Classification(), learn)
    hits, labels = [], []
    for batch in stream:
        wanted = targets_of(batch)
        if wanted.dim() != 1 or wanted.is_floating_point():
            raise DataError(f"targets have shape {tuple(wanted.shape)} and dtype {wanted.dtype}; expected integers [B]")
        found = answers(batch)
        labelled = wanted != IGNORED
        right = torch.zeros_like(labelled) if found is None else found.to(wanted.device) == wanted
        hits.append(right[labelled].cpu())
        labels.append(wanted[labelled].cpu().long())
        if bool(labelled.any()):
            learns(batch)
    if not sum(map(len, labels)):
        raise DataError("the stream held no sample with a label, so there is nothing to judge by")
    return Prequential(torch.cat(hits), torch.cat(labels), window)


def _parts(
    learner: Head | nn.Module,
    optimizer: Optimizer | None,
    objective: Classification,
    learn: Callable[[Batch], object] | None,
) -> tuple[Callable[[Batch], Tensor | None], Callable[[Batch], object]]:
    """How a learner answers a batch (``None``: it knows nothing yet), and how it learns one."""
    if isinstance(learner, Head):
        head = learner
        if optimizer is not None:
            raise ConfigurationError(
                f"optimizer is given, but {type(head).__name__} is computed, not trained; leave it out"
            )

        def answer_of_head(batch: Batch) -> Tensor | None:
            inputs = {k: v for k, v in batch.items() if k != "labels"} if isinstance(batch, Mapping) else batch[0]
            return head.predict(inputs) if head.num_tasks else None

        return answer_of_head, learn or (lambda batch: head.consolidate([batch]))
    if not isinstance(learner, nn.Module):
        raise ConfigurationError(f"learner is a {type(learner).__name__}; expected a model or a head of holdfast.heads")
    if optimizer is None and learn is None:
        raise ConfigurationError(f"optimizer is None; {type(learner).__name__} learns by its steps, or by learn=")
    model = learner

    @torch.no_grad()
    def answer(batch: Batch) -> Tensor:
        training = model.training
        model.eval()
        try:
            columns = objective.outputs(model, batch).argmax(1)
        finally:
            model.train(training)
        return columns if objective.classes is None else torch.tensor(objective.classes, device=columns.device)[columns]

    def step(batch: Batch) -> None:
        assert optimizer is not None
        model.train()
        losses = objective.losses(objective.outputs(model, batch), batch)
        optimizer.zero_grad()
        torch.autograd.backward(losses.sum() / objective.count(batch))
        optimizer.step()

    return answer, learn or step
