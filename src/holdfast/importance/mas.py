"""Memory aware synapses: how much each weight moves the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.importance.engine import per_sample_sum
from holdfast.importance.estimate import check_arguments, choice, means, wanted_parameters
from holdfast.importance.statistic import ABSOLUTE
from holdfast.objectives import Batch, Objective, as_objective, meaning_of

__all__ = ["mas"]


def mas(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    form: Literal["squared_norm", "norm"] = "squared_norm",
    names: Iterable[str] | None = None,
    max_bytes: int | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    r"""Sensitivity of the outputs to each weight, per sample; no labels are needed.

    .. math::
        \Omega = \mathbb E_x \left| \partial_\theta \lVert f(x) \rVert^2 \right|
        \quad\text{or}\quad \mathbb E_x \left| \partial_\theta \lVert f(x) \rVert \right|

    with f the logits of the objective.

    Source: Aljundi et al. 2018, arXiv:1711.09601, section 4. Differs: no; the absolute value is inside the expectation,
    as the paper has it, where several releases take it after adding over a batch.

    Args:
        model: any module; it is left exactly as it was. Estimated in evaluation mode.
        batches: the data, each batch once, on the model's device. Labels, where a batch has some, say which positions
            count and must be the objective's; leave them out where there are none.
        objective: which outputs a batch has; ``None`` is what a Transformers model's class says, classification for
            any other.
        form: the squared Euclidean norm of a sample's outputs, or the norm itself.
        names: canonical names of the parameters wanted (default: all trainable ones).
        max_bytes: how much memory per-sample gradients may take at once, though one sample's at least, and what is
            kept from one term to the next as much again (default 256 MiB).
        dtype: of the result: bfloat16, float32 or float64 (default: the parameter's own, but at least float32).

    Returns:
        canonical name -> importance ``[*p]``, >= 0, in output^2 (or output) / parameter; a mean over the objective's
        samples, independent of batch size and padding. What a sample's positions have is added up, of pixels averaged.

    Raises:
        ConfigurationError: if an argument is wrong, or the form unknown.
        DataError: if there is no batch, ``batches`` is no iterable, or outputs or labels are not the objective's.
        NumericsError: if an importance is not finite; the message names the parameter.

    Example:
        >>> mas(nn.Linear(3, 2), [(torch.ones(8, 3), None)])["bias"].shape
        torch.Size([2])
    """
    check_arguments(model, batches, max_bytes, dtype)
    choice("form", form, ("squared_norm", "norm"))

    meaning = meaning_of(as_objective(objective, model))

    def terms(outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        meaning.check(outputs, batch)
        squares = meaning.squares(outputs, batch)
        if form == "squared_norm":
            yield squares
        else:  # at 0 the root has no gradient, the norm has the subgradient 0
            yield torch.where(squares > 0, squares, 1).sqrt().mul(squares > 0)

    sums, samples = per_sample_sum(
        model,
        batches,
        root=meaning.answers,
        terms=terms,
        counted=meaning.count,
        statistic=ABSOLUTE,
        parameters=wanted_parameters(model, names),
        max_bytes=max_bytes,
    )
    return means(sums, samples, dtype)
