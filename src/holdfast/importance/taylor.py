"""ANPyC's importance: how much an output would change if a weight were doubled, or removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.importance.engine import per_sample_sum
from holdfast.importance.estimate import check_arguments, choice, means, per_batch_sum, wanted_parameters
from holdfast.importance.statistic import Statistic
from holdfast.objectives import Batch, Objective, as_objective, meaning_of

__all__ = ["taylor"]


def taylor(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    output: Literal["entropy", "l2"] = "entropy",
    reduction: Literal["sample", "batch"] = "sample",
    sign: Literal["released", "removal"] = "released",
    order: Literal[1, 2] = 2,
    names: Iterable[str] | None = None,
    max_bytes: int | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    r"""Positive part of a Taylor estimate of the change of an output, per sample or per batch; no labels are needed.

    .. math::
        \Omega = \mathbb E \max\left(0,\ \pm g\theta + \tfrac12 g^2\theta^2\right), \qquad g = \partial_\theta I

    with I the entropy of the softmax output, :math:`-\sum p \log p`, or its :math:`\sum p^2`.

    Source: Peng et al. 2021, arXiv:1912.09091. Differs: per sample by default, where the release adds g over a batch
    first (``reduction="batch"``; a strength does not carry over from one to the other). The release's sign ``+`` is
    first order that of doubling the weight; ``sign="removal"`` has the minus of setting it to 0. In both, g squared
    stands where a second-order expansion has the Hessian.

    Args:
        model: any module; it is left exactly as it was. Estimated in evaluation mode.
        batches: the data, each batch once, on the model's device. Labels, where a batch has some, say which positions
            count and must be the objective's; leave them out where there are none.
        objective: which outputs a batch has; ``None`` is what a Transformers model's class says, classification for
            any other.
        output: what is made of the softmax of a sample's outputs.
        reduction: ``"sample"``: the mean over samples of the positive part of each; ``"batch"``: the mean over
            batches of the positive part of the summed gradient, which depends on the batch size.
        sign: ``"released"`` (plus) or ``"removal"`` (minus), of the first-order part.
        order: 2, or 1 without the squared part.
        names: canonical names of the parameters wanted (default: all trainable ones).
        max_bytes: how much memory per-sample gradients may take at once, though one sample's at least, and what is
            kept from one term to the next as much again (default 256 MiB).
        dtype: of the result: bfloat16, float32 or float64 (default: the parameter's own, but at least float32).

    Returns:
        canonical name -> importance ``[*p]``, >= 0, in units of I.

    Raises:
        ConfigurationError: if an argument is wrong, or an option unknown.
        DataError: if there is no batch, ``batches`` is no iterable, or outputs or labels are not the objective's.
        NumericsError: if an importance is not finite; the message names the parameter.

    Example:
        >>> taylor(nn.Linear(3, 2), [(torch.ones(8, 3), None)])["bias"].shape
        torch.Size([2])
    """
    check_arguments(model, batches, max_bytes, dtype)
    choice("output", output, ("entropy", "l2"))
    choice("reduction", reduction, ("sample", "batch"))
    choice("sign", sign, ("released", "removal"))
    if order not in (1, 2):
        raise ConfigurationError(f"order is {order!r}; expected 1 or 2")

    meaning = meaning_of(as_objective(objective, model))

    def terms(outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        meaning.check(outputs, batch)
        yield meaning.spreads(outputs, batch, output)

    signed = 1.0 if sign == "released" else -1.0

    def change(gradient: Tensor, weight: Tensor) -> Tensor:
        u = gradient * (signed * weight)
        return (u if order == 1 else torch.addcmul(u, u, u, value=0.5)).clamp_(min=0)

    def outer(left: Tensor, right: Tensor, weight: Tensor) -> Tensor | None:
        return _outer(left, right, signed * weight, second=order == 2)

    parameters = wanted_parameters(model, names)
    if reduction == "batch":
        sums, number = per_batch_sum(
            model,
            batches,
            root=meaning.answers,
            terms=terms,
            counted=meaning.count,
            value=lambda gradient, size, weight: change(gradient, weight),
            parameters=parameters,
        )
    else:
        sums, number = per_sample_sum(
            model,
            batches,
            root=meaning.answers,
            terms=terms,
            counted=meaning.count,
            statistic=Statistic(change, outer=outer),
            parameters=parameters,
            max_bytes=max_bytes,
        )
    return means(sums, number, dtype)


def _outer(left: Tensor, right: Tensor, weight: Tensor, second: bool) -> Tensor | None:
    r"""The sum over samples of :math:`\max(0, u + \tfrac12 u^2)` for :math:`u = l r w`, by matrix products.

    Between -2 and 0 the parabola is negative, so while no u lies below -2 only positive u count. Which are positive
    is a question of three signs: split the factors by theirs and every product is a sum of positive numbers.

    Args:
        left: ``[n, O]``.
        right: ``[n, I]``.
        weight: ``[O, I]``.
        second: whether the squared part is there.

    Returns:
        The sum ``[O, I]``, or ``None`` if some u may lie below -2.
    """
    if second and not bool((left.abs().amax(1) * right.abs().amax(1)).amax() * weight.abs().amax() <= 2):
        return None
    l_up, l_down = left.clamp(min=0), (-left).clamp(min=0)
    r_up, r_down = right.clamp(min=0), (-right).clamp(min=0)
    if bool(r_down.any()):
        l_both, r_same, r_other = torch.cat([l_up, l_down]), torch.cat([r_up, r_down]), torch.cat([r_down, r_up])
        above, below = (l_both, r_same), (l_both, r_other)
    else:  # the usual case: the layer follows a ReLU
        above, below = (l_up, r_up), (l_down, r_up)

    def summed(power: int) -> Tensor:
        up, down = (a.pow(power).T @ b.pow(power) for a, b in (above, below))
        return torch.where(weight > 0, up, down).mul_(weight.abs().pow(power))

    return summed(1).add_(summed(2), alpha=0.5) if second else summed(1)
