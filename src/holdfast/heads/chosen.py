r"""Heads with a regularisation that is a number, or chosen without keeping a sample and without test data."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError
from holdfast.heads.head import Head
from holdfast.heads.moments import Moments, Summary, mirror, summary
from holdfast.heads.representation import digests
from holdfast.heads.solve import NotPositiveError, choose

__all__ = ["Amount", "ChosenHead", "held_error"]

Amount: TypeAlias = "float | Literal['auto']"

_EVERY = 5  # one sample in so many is held out
_FALLBACK = 1e-3  # of the mean variance, where there are too few samples to choose by


def held_error(weight: Tensor, offset: Tensor, held: Moments, classes: tuple[int, ...]) -> float:
    r"""The mean squared error of a linear predictor of one-hot labels on samples of which the sums alone are known.

    .. math:: \tfrac1N \sum_i \lVert V^\top z_i + b - e_{y_i} \rVert^2 = \tfrac1N \bigl( \operatorname{tr} V^\top G V
        + 2\, (V b)^\top \textstyle\sum_c S_c + N \lVert b \rVert^2
        - 2 \sum_c (S_c^\top V_{\cdot c} + n_c b_c) + N \bigr)

    Args:
        weight: V, ``[D, C]``.
        offset: b, ``[C]``.
        held: n, S and G of the samples.
        classes: the labels of V's columns; a sample of another class counts as one that is like none of them.
    """
    assert held.sums is not None and held.gram is not None
    weight = weight.double()
    number = float(held.counts.sum())
    product = held.gram @ weight.to(held.gram.dtype)
    quadratic = float((product.double() * weight).sum())
    cross = 2 * float(held.sums.sum(0) @ (weight @ offset)) + number * float(offset.square().sum())
    hits = 0.0
    for row, label in enumerate(held.labels):
        if label in classes:
            column = classes.index(label)
            hits += float(held.sums[row] @ weight[:, column] + held.counts[row] * offset[column])
    return (quadratic + cross - 2 * hits) / number + 1


class ChosenHead(Head):
    """A head with an amount of regularisation: a number, or chosen relative to the mean variance.

    ``"auto"`` sets one training sample in five apart, by a hash of its inputs: whatever the order of the stream, these
    are the same. Their sums are kept apart, for they are enough to know a linear predictor's squared error on them; the
    amount with the least error is then used on all sums together. Nothing else is kept, and no test data are seen.

    A subclass names its amount (:attr:`called`) and fills :meth:`_fit` and :meth:`_error`.
    """

    called: ClassVar[str]
    amount: Amount = "auto"
    relative: bool = False

    @classmethod
    def _checked_amount(cls, value: Any) -> Amount:
        if value == "auto":
            return "auto"
        if isinstance(value, str):
            raise ConfigurationError(f"{cls.called} is {value!r}; expected a finite number >= 0, or 'auto'")
        return check_not_negative(cls.called, value)

    def _solve(self) -> dict[str, Tensor]:
        everything = summary(*self._moments.values())
        amount = self._share(self._chosen()) if self.amount == "auto" else self.amount
        relative = self.relative or self.amount == "auto"
        try:
            return self._fit(everything, amount, relative=relative)
        except NotPositiveError as error:
            asked = f"{type(self).__name__}({self.called}={amount:g}{', relative=True' * relative})"
            raise NotPositiveError(f"{asked}: {error}; expected a larger {self.called}") from error

    def _share(self, ratio: float) -> float:
        """The relative amount that stands to the rest in a ratio: the ratio itself, unless told otherwise."""
        return ratio

    @abc.abstractmethod
    def _fit(self, sums: Summary, amount: float, *, relative: bool) -> dict[str, Tensor]:
        """What is derived from the sums, with an amount of regularisation that may be relative to the mean variance."""

    def _parts(self) -> dict[str, Moments]:
        names = ("fit", "held") if self.amount == "auto" else ("all",)
        return {name: Moments("shared", dtype=self.dtype) for name in names}

    def _shares(self, inputs: Any, features: Tensor) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        if self.amount != "auto":
            yield "all", features, None
            return
        chosen = [number % _EVERY == 0 for number in digests(inputs, len(features))]
        held = torch.tensor(chosen, dtype=torch.bool, device=features.device)
        yield "held", features, held
        yield "fit", features, ~held

    def _chosen(self) -> float:
        """The amount with the least error on the part held out, relative to the mean variance."""
        fit, held = self._moments["fit"], self._moments["held"]
        if not len(fit) or not len(held):
            return _FALLBACK
        found = summary(fit)
        held.settle()
        assert held.gram is not None
        mirror(held.gram)
        return choose(lambda amount: self._error(amount, found, held))

    @abc.abstractmethod
    def _error(self, amount: float, fit: Summary, held: Moments) -> float:
        """The error on some samples of what is fitted to others, with an amount as a ratio to their mean variance."""
