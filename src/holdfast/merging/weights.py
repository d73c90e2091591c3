r"""Merges of state dicts that share a beginning: no training, no data, a dial that can be turned afterwards.

What all have in common: numbers are merged in float32 at least and returned in the type of the first state dict; whole
numbers (such as BatchNorm's count of batches) are not merged but taken from the last state dict given. Running
statistics are merged like weights, although those of a merged network are others: estimate them anew with
``torch.optim.swa_utils.update_bn``. State dicts with other names or shapes are refused; heads of different tasks must
not be merged, so leave them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, NumericsError, StateError

__all__ = [
    "State",
    "average",
    "check_density",
    "fisher_average",
    "fisher_mean",
    "least_kept",
    "magmax",
    "task_arithmetic",
    "ties",
    "wise_ft",
]

State: TypeAlias = Mapping[str, Tensor]


def wise_ft(before: State, after: State, weight: float) -> dict[str, Tensor]:
    r"""On the line between two states.

    .. math:: (1 - \alpha)\, \theta_0 + \alpha\, \theta_1

    Source: Wortsman et al. 2022 (WiSE-FT), arXiv:2109.01903. Differs: no.

    Args:
        before: θ₀, name -> tensor.
        after: θ₁, with the same names and shapes.
        weight: α; 0 gives ``before``, 1 gives ``after``.

    Returns:
        name -> tensor, new ones.

    Raises:
        ConfigurationError: if α is not finite.
        StateError: if names or shapes differ.
        NumericsError: if the result is not finite.

    Example:
        >>> wise_ft({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.25)["w"]
        tensor([0.2500, 0.2500])
    """
    _check_number("weight", weight)
    return _merged([before, after], lambda name, values: (1 - weight) * values[0] + weight * values[1])


def average(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    r"""The mean of states.

    .. math:: \sum_k w_k \theta_k \Big/ \sum_k w_k

    Source: Wortsman et al. 2022 (model soups), arXiv:2203.05482. Differs: no.

    Args:
        states: θ_k, at least one.
        weights: w, >= 0, one for each; ``None`` for equal ones.

    Raises:
        ConfigurationError: for weights that are negative, all 0 or of another number.
        StateError: if names or shapes differ, or there is no state.
        NumericsError: if the result is not finite.
    """
    shares = [1.0] * len(states) if weights is None else list(weights)
    if len(shares) != len(states) or any(not math.isfinite(w) or w < 0 for w in shares) or (states and not sum(shares)):
        raise ConfigurationError(f"weights is {weights!r}; expected {len(states)} numbers >= 0, not all of them 0")
    total = sum(shares)
    return _merged(states, lambda name, values: _sum(v * (w / total) for v, w in zip(values, shares, strict=True)))


def task_arithmetic(base: State, tuned: Sequence[State], weight: float = 1.0) -> dict[str, Tensor]:
    r"""All that several trainings from one beginning have changed, added up.

    .. math:: \theta_0 + \lambda \sum_k (\theta_k - \theta_0)

    Source: Ilharco et al. 2023, arXiv:2212.04089. Differs: no.

    Args:
        base: θ₀.
        tuned: θ_k, at least one.
        weight: λ; negative to take away.

    Raises:
        ConfigurationError: if λ is not finite.
        StateError: if names or shapes differ, or there is no tuned state.
        NumericsError: if the result is not finite.
    """
    _check_number("weight", weight)
    return _merged_changes(base, tuned, weight, lambda name, changes: _sum(changes))


def ties(base: State, tuned: Sequence[State], density: float = 0.2, weight: float = 1.0) -> dict[str, Tensor]:
    r"""Trim, elect a sign, and average what agrees with it.

    Of each training's changes the largest share stays, over all weights together; each weight gets the sign of the sum;
    the mean is of those changes that have that sign.

    Source: Yadav et al. 2023 (TIES), arXiv:2306.01708, algorithm 1, and its release (where a sum is 0, the sign of the
    majority of all weights is taken). Differs: no.

    Args:
        base: θ₀.
        tuned: θ_k, at least one.
        density: the share that stays, more than 0 and at most 1.
        weight: λ, what the mean is multiplied by.

    Raises:
        ConfigurationError: for a density that is no share, or a λ that is not finite.
        StateError: if names or shapes differ, or there is no tuned state.
        NumericsError: if the result is not finite.
    """
    _check_number("weight", weight)
    check_density(density)
    least = [_least_kept(base, state, density) for state in _checked(base, tuned)]

    def trimmed(changes: Sequence[Tensor]) -> list[Tensor]:
        return [torch.where(d.abs() >= at.to(d), d, 0.0) for d, at in zip(changes, least, strict=True)]

    balance = 0.0
    for name, value in base.items():
        if value.is_floating_point():
            balance += float(_sum(trimmed(_changes(name, base, tuned))).sign().sum())
    majority = (balance > 0) - (balance < 0)

    def merged(name: str, changes: Sequence[Tensor]) -> Tensor:
        kept = trimmed(changes)
        sign = _sum(kept).sign()
        sign = torch.where(sign == 0, float(majority), sign)
        agreeing = [torch.where((d.sign() == sign) & (d != 0), d, 0.0) for d in kept]
        number = _sum((d != 0).to(d.dtype) for d in agreeing)
        return _sum(agreeing) / number.clamp_min(1)

    return _merged_changes(base, tuned, weight, merged)


def magmax(base: State, tuned: Sequence[State], weight: float = 1.0) -> dict[str, Tensor]:
    r"""Of each weight the largest change that any training made.

    .. math:: \theta_0 + \lambda\, \tau_{k^*}, \qquad \tau_k = \theta_k - \theta_0, \quad k^* = \arg\max_k |\tau_k|

    Source: Marczak et al. 2024 (MagMax), arXiv:2407.06322. Differs: no; the paper trains one task after the other, and
        so
    should the states given.

    Args:
        base: θ₀.
        tuned: θ_k, at least one; of changes of the same size the first counts.
        weight: λ.

    Raises:
        ConfigurationError: if λ is not finite.
        StateError: if names or shapes differ, or there is no tuned state.
        NumericsError: if the result is not finite.
    """
    _check_number("weight", weight)

    def merged(name: str, changes: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(changes))
        return stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]

    return _merged_changes(base, tuned, weight, merged)


def fisher_mean(
    before: Tensor, after: Tensor, importance_before: Tensor, importance_after: Tensor, weight: float
) -> Tensor:
    r"""The mean of two tensors, each entry weighed by its importance; where both are 0, the plain mean.

    .. math:: \frac{(1 - \alpha) F_0 \theta_0 + \alpha F_1 \theta_1}{(1 - \alpha) F_0 + \alpha F_1}

    Source: Matena and Raffel 2022, arXiv:2111.09832; CoFiMA, Marouf et al. 2024, arXiv:2312.08977, eq. 6. Differs: 0/0,
        which
    is NaN in the release, is the plain mean.
    """
    shares = (1 - weight) * importance_before, weight * importance_after
    total = shares[0] + shares[1]
    # Each importance by its share of both first: a product of two small numbers would be 0.
    part = shares[1] / torch.where(total > 0, total, 1.0)
    part = torch.where(total > 0, part, weight)
    return (1 - part) * before + part * after


def fisher_average(
    before: State, after: State, importance_before: State, importance_after: State, weight: float = 0.5
) -> dict[str, Tensor]:
    r"""The mean of two states, weighed by importances: see :func:`fisher_mean`.

    Args:
        before: θ₀.
        after: θ₁.
        importance_before: F₀, >= 0; a tensor without an importance gets the plain mean.
        importance_after: F₁, of the same names.
        weight: α, from 0 to 1.

    Raises:
        ConfigurationError: for an α that is no share.
        StateError: if names or shapes differ, or an importance is of no tensor or negative.
        NumericsError: if the result is not finite.
    """
    if not 0 <= weight <= 1:
        raise ConfigurationError(f"weight is {weight!r}; expected a share, from 0 to 1")
    if importance_before.keys() != importance_after.keys():
        name = sorted(importance_before.keys() ^ importance_after.keys())[0]
        raise StateError(f"only one of the states has an importance of {name!r}; expected both")
    for found in (importance_before, importance_after):
        for name, importance in found.items():
            if name not in before or importance.shape != before[name].shape:
                raise StateError(f"an importance of {name!r} has shape {tuple(importance.shape)}; no tensor is like it")
            if bool((importance < 0).any()):
                raise StateError(f"the importance of {name!r} has a negative entry; expected >= 0")

    def merged(name: str, values: Sequence[Tensor]) -> Tensor:
        if name not in importance_before:
            return (1 - weight) * values[0] + weight * values[1]
        own = [found[name].to(values[0]) for found in (importance_before, importance_after)]
        return fisher_mean(values[0], values[1], own[0], own[1], weight)

    return _merged([before, after], merged)


def check_density(density: float) -> float:
    """A share that stays.

    Raises:
        ConfigurationError: if it is none.
    """
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise ConfigurationError(f"density is {density!r}; expected a share, more than 0 and at most 1")
    return float(density)


def least_kept(sizes: Sequence[Tensor], density: float) -> Tensor:
    """The smallest of these that belongs to the largest share of all of them together, ``[]``.

    Args:
        sizes: magnitudes, ``[n]`` each.
        density: the share.
    """
    everything = torch.cat(list(sizes))
    kept = max(1, round(density * everything.numel()))
    return everything.kthvalue(everything.numel() - kept + 1).values


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigurationError(f"{name} is {value!r}; expected a finite number")


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    total: Tensor | None = None
    for tensor in tensors:
        total = tensor if total is None else total + tensor
    assert total is not None
    return total


def _checked(first: State, others: Sequence[State]) -> Sequence[State]:
    """The others, if they have the names and shapes of the first."""
    if not others:
        raise StateError("there is no state to merge; expected at least one")
    for other in others:
        if first.keys() != other.keys():
            name = sorted(first.keys() ^ other.keys())[0]
            raise StateError(f"only one of the states has {name!r}; expected the same names (leave heads of tasks out)")
        for name, value in first.items():
            if value.shape != other[name].shape:
                raise StateError(
                    f"{name!r} has shapes {tuple(value.shape)} and {tuple(other[name].shape)}; expected one shape "
                    "(heads of different tasks must not be merged)"
                )
    return others


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least: small changes vanish in bfloat16."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _changes(name: str, base: State, tuned: Sequence[State]) -> list[Tensor]:
    start = _wide(base[name])
    return [_wide(state[name]).to(start) - start for state in tuned]


def _least_kept(base: State, state: State, density: float) -> Tensor:
    """The magnitude of the smallest change that stays."""
    sizes = [_changes(name, base, [state])[0].abs().flatten() for name, v in base.items() if v.is_floating_point()]
    return least_kept([size.to(sizes[0]) for size in sizes], density) if sizes else torch.zeros(())


def _merged(states: Sequence[State], merge: Callable[[str, Sequence[Tensor]], Tensor]) -> dict[str, Tensor]:
    """What ``merge`` makes of each tensor of floating-point numbers; of others the last state's."""
    first = states[0] if states else {}
    _checked(first, states)
    found = {}
    for name, value in first.items():
        if not value.is_floating_point():
            found[name] = states[-1][name].detach().clone()
            continue
        wide = _wide(value)
        merged = merge(name, [wide, *(_wide(state[name]).to(wide) for state in states[1:])]).to(value.dtype)
        if not bool(merged.isfinite().all()):
            raise NumericsError(f"{name!r} is not finite once merged; expected finite states")
        found[name] = merged
    return found


def _merged_changes(
    base: State, tuned: Sequence[State], weight: float, merge: Callable[[str, Sequence[Tensor]], Tensor]
) -> dict[str, Tensor]:
    """The base plus what ``merge`` makes of the changes."""
    _checked(base, tuned)
    return _merged(
        [base, *tuned],
        lambda name, values: values[0] + weight * merge(name, [value - values[0] for value in values[1:]]),
    )
