"""The diagonal of the Fisher information, in the four kinds that papers call by that name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, NumericsError
from holdfast.importance.engine import Counted, Terms, per_sample_sum
from holdfast.importance.estimate import check_arguments, choice, means, per_batch_sum, wanted_parameters
from holdfast.importance.statistic import SQUARE
from holdfast.importance.thinned import Thinned
from holdfast.objectives import Batch, Meaning, Objective, as_objective, meaning_of

__all__ = ["EXACT_OUTPUTS", "Kind", "fisher"]

Kind = Literal["auto", "exact", "sampled", "empirical", "batched"]

EXACT_OUTPUTS = 20
"""``"auto"`` is exact up to this many outputs, sampled beyond."""


def fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    kind: Kind = "auto",
    names: Iterable[str] | None = None,
    generator: torch.Generator | None = None,
    max_bytes: int | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    r"""Diagonal Fisher information, per sample, as a mean over samples.

    .. math::
        \text{exact: } F &= \mathbb E_x \sum_y p(y|x) \left(\partial_\theta \log p(y|x)\right)^2 \\
        \text{sampled: } F &= \mathbb E_x \left(\partial_\theta \log p(y|x)\right)^2, \quad y \sim p(y|x) \\
        \text{empirical: } F &= \mathbb E_{x,y} \left(\partial_\theta \log p(y|x)\right)^2, \quad y = \text{the label}

    ``batched`` is the mean over batches of the squared batch-mean gradient. It is not a Fisher information: it
    shrinks as batches grow. It is here because many releases use it.

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796 (the use); van de Ven 2025, arXiv:2502.11756 (the kinds).
    Differs: no.

    Args:
        model: any module; it is left exactly as it was. Estimated in evaluation mode.
        batches: the data, each batch once, on the model's device.
        objective: what a batch means; a callable and :class:`ModelLoss` give losses only; ``None`` is what a
            Transformers model's class says, classification for any other.
        kind: ``"auto"`` is exact up to 20 outputs (of all positions together), sampled beyond, empirical for what
            gives losses only. Where it is exact, which takes a backward pass for each output, it looks at all of the
            first 256 samples, and of more at fewer and fewer, each with the weight of those left out: an estimate
            without bias, of the same data always the same. ``"exact"`` looks at all.
        names: canonical names of the parameters wanted (default: all trainable ones).
        generator: for the targets of the sampled kind.
        max_bytes: how much memory per-sample gradients may take at once, though one sample's at least, and what is
            kept from one term to the next as much again (default 256 MiB).
        dtype: of the result: bfloat16, float32 or float64 (default: the parameter's own, but at least float32).

    Returns:
        canonical name -> importance ``[*p]``, >= 0, in loss^2 / parameter^2; zeros where there is no gradient.
        Independent of batch size (but for ``batched``) and of the number of samples.

    Raises:
        ConfigurationError: if an argument is wrong, the kind unknown, or the objective cannot give it.
        DataError: if there is no batch, or ``batches`` is no iterable.
        NumericsError: if an importance is not finite (the message names the parameter), or the outputs to draw
            targets from are not.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> batch = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> fisher(model, [batch])["weight"].shape
        torch.Size([2, 3])
    """
    check_arguments(model, batches, max_bytes, dtype, generator)
    choice("kind", kind, ("auto", "exact", "sampled", "empirical", "batched"))
    meaning = meaning_of(as_objective(objective, model))
    if meaning.losses_only and kind in ("exact", "sampled"):
        raise ConfigurationError(
            f"kind is {kind!r}, but the objective is {meaning.named}, which gives losses only; expected 'empirical'"
        )
    parameters = wanted_parameters(model, names)
    thinned = Thinned(batches) if kind == "auto" and not meaning.losses_only else None
    if kind == "batched":
        sums, number = per_batch_sum(
            model,
            batches,
            root=meaning.root,
            terms=_terms(meaning, kind, None),
            counted=meaning.count,
            value=lambda gradient, size, weight: (gradient / size).square(),
            parameters=parameters,
        )
        return means(sums, number, dtype)
    sums, samples = per_sample_sum(
        model,
        batches if thinned is None else thinned,
        root=meaning.root,
        terms=_terms(meaning, "empirical" if meaning.losses_only else kind, generator, thinned),
        counted=meaning.count if thinned is None else _standing_for(meaning, thinned),
        statistic=SQUARE,
        parameters=parameters,
        max_bytes=max_bytes,
    )
    return means(sums, samples, dtype)


def _standing_for(meaning: Meaning, thinned: Thinned) -> Counted:
    """How many samples a batch counts as, those among them that were left out for it."""
    return lambda batch, outputs: thinned.weight(batch) * meaning.count(batch, outputs)


def _terms(meaning: Meaning, kind: Kind, generator: torch.Generator | None, thinned: Thinned | None = None) -> Terms:
    """What each sample's gradient is taken of; squared, it has the batch's weight."""

    def terms(root: Tensor, batch: Batch) -> Iterator[Tensor]:
        if kind == "batched":
            yield meaning.losses_from(root, batch)
            return
        if kind == "empirical":
            yield meaning.scores_from(root, batch)
            return
        meaning.check(root, batch)
        outputs = meaning.exact_outputs(root) if kind == "auto" else None
        if kind == "exact":
            yield from meaning.exact(root, batch)
        elif outputs is not None and outputs <= EXACT_OUTPUTS:
            assert thinned is not None
            thinned.costly = True
            weight = thinned.weight(batch)
            yield from (term if weight == 1 else term * weight**0.5 for term in meaning.exact(root, batch))
        else:
            if bool((root.isnan() | root.isposinf()).any()):  # on a GPU the draw itself would kill the process
                raise NumericsError("the model's outputs are not finite, so that no targets can be drawn from them")
            yield meaning.scores_from(root, meaning.draw(root, batch, generator))

    return terms
