"""The importances as their equations read: one backward per sample and term. Slow, and what the engine must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from holdfast.objectives import Batch, Objective, count

__all__ = ["per_sample_sum_reference"]


def per_sample_sum_reference(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: Objective,
    terms: Callable[[Tensor, Batch], Iterator[Tensor]],
    statistic: Callable[[Tensor, Tensor], Tensor],
    parameters: Mapping[str, nn.Parameter],
) -> tuple[dict[str, Tensor], int]:
    r"""The sum over samples and terms of a function of each gradient, :math:`\sum_n \sum_r \varphi(g_{n,r}, \theta)`.

    Args:
        model: the model, already in evaluation mode.
        batches: the data.
        objective: what a batch means.
        terms: ``(outputs, batch) ->`` terms ``[B]`` or ``[B, T]``.
        statistic: ``(gradient [*p], weight [*p]) -> [*p]``.
        parameters: canonical name -> parameter.

    Returns:
        canonical name -> sum ``[*p]``, and the number of samples.
    """
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    samples = 0
    for batch in batches:
        samples += count(objective, batch)
        for term in terms(objective.outputs(model, batch), batch):
            for value in term.flatten().unbind():
                gradients = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
                for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
                    if gradient is not None:
                        sums[name] += statistic(gradient, p.detach())
    return sums, samples
