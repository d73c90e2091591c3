r"""H-OT: few samples of a new class, calibrated by optimal transport from classes of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.checks import check_count, check_not_negative, check_positive
from holdfast.errors import ConfigurationError
from holdfast.heads.head import Head
from holdfast.heads.logistic import logistic_regression
from holdfast.heads.maps import FeatureMap
from holdfast.heads.moments import Moments, scatter, summary
from holdfast.heads.powers import tukey_power
from holdfast.heads.representation import digests
from holdfast.heads.samples import Samples
from holdfast.heads.transport import calibrated, certainties, cosine_costs, sinkhorn, transported_costs
from holdfast.objectives import Classification

__all__ = ["TransportCalibrated"]

_SHIFT = 1e-6  # of Tukey's power, as released
_ZERO = 1e-12  # an eigenvalue less than so much of the largest is rounding
_SEEDS = 2**63 - 1


class TransportCalibrated(Head):
    r"""Logistic regression on few samples and on many drawn around each (H-OT).

    A class of ``base_samples`` or more is a *base* class: its mean and covariance are its own. A class of fewer is
    *novel*: each of its samples gets a normal distribution, mostly of the base classes that optimal transport finds
    near it (:func:`~holdfast.heads.transport.calibrated`), and ``draws`` samples per class are drawn from these. A
    logistic regression then tells all classes apart; each class counts the same in it.

    Source: Guo et al. 2022, arXiv:2210.04144, and its release, for classes of one few-shot task. Differs: base classes
    answer too, with the features of theirs that are kept, after the same power; the support is that of all novel
    classes met so far, however many samples each has; transport goes on until it converges. Without a base class
    there is nothing to calibrate by, and the regression sees the samples alone.

    Which samples are kept, and what is drawn, depends on the samples' own inputs and ``seed``: whatever the order of
    the stream, it is the same head. It remembers a matrix for each class and ``keep`` features of each; base samples'
    features are needed, their inputs are not.

    Args:
        features: as for :class:`Head`; >= 0 unless ``tukey`` is 1: after a ReLU.
        tukey: β, the power of novel features and of what is asked; 0 for the logarithm. Base classes' means stay as
            they are, as in the release, so a power other than 1 is for novel classes that compete among themselves.
        share: λ in [0, 1]: how much of a calibrated mean is the sample's own.
        spread: α, >= 0, added to every entry of a calibrated covariance.
        levels: 2, transport between classes whose costs are transports between samples; 1, from class means.
        draws: samples that are drawn per novel class.
        base_samples: a class of at least so many is a base class.
        keep: features of each class that are kept, at most; at least ``base_samples``.
        epsilon: ε, > 0, of the transport.
        temperature: T, > 0: how little it matters how sure a classifier of the base classes is of a sample.
        strength: of the regression's penalty, > 0.
        released: stop transport as early as the release does, at a tolerance of 0.1.
        seed: of what is drawn.
        layer: as for :class:`Head`.
        expand: as for :class:`Head`.
        objective: as for :class:`Head`.
        dtype: as for :class:`Head`.

    Raises:
        ConfigurationError: for a wrong argument.
        DataError: in ``consolidate`` and ``forward``, for a negative feature while ``tukey`` is not 1.

    Example:
        >>> head = TransportCalibrated(base_samples=4, draws=20)
        >>> x = torch.tensor([[3.0, 0.1], [3.2, 0.3], [3.1, 0.0], [2.9, 0.2], [0.2, 3.0]])
        >>> head.consolidate([(x, torch.tensor([0, 0, 0, 0, 1]))])
        >>> head.novel, head.predict(torch.tensor([[0.1, 2.5]])).tolist()
        ((1,), [1])
    """

    tukey: float
    share: float
    spread: float
    epsilon: float
    temperature: float
    strength: float
    draws: int
    base_samples: int
    keep: int
    released: bool
    seed: int

    def __init__(
        self,
        features: nn.Module | Callable[..., Any] | None = None,
        *,
        tukey: float = 1.0,
        share: float = 0.3,
        spread: float = 0.21,
        levels: int = 2,
        draws: int = 750,
        base_samples: int = 25,
        keep: int = 200,
        epsilon: float = 0.01,
        temperature: float = 0.3,
        strength: float = 1.0,
        released: bool = False,
        seed: int = 0,
        layer: str | None = None,
        expand: FeatureMap | None = None,
        objective: Classification | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.tukey, self.share = check_not_negative("tukey", tukey), check_not_negative("share", share)
        self.spread, self.epsilon = check_not_negative("spread", spread), check_positive("epsilon", epsilon)
        self.temperature, self.strength = (
            check_positive("temperature", temperature),
            check_positive("strength", strength),
        )
        for name, value in (("draws", draws), ("base_samples", base_samples), ("keep", keep)):
            check_count(name, value)
        if levels not in (1, 2):
            raise ConfigurationError(f"levels is {levels!r}; expected 1 or 2")
        if self.share > 1:
            raise ConfigurationError(f"share is {share}; expected a number from 0 to 1")
        if base_samples < 2:
            raise ConfigurationError(f"base_samples is {base_samples}; a class needs 2 samples to have a covariance")
        if keep < base_samples:
            raise ConfigurationError(f"keep is {keep}; expected base_samples={base_samples} or more of each class")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"seed is {seed!r}; expected an integer")
        self.levels, self.draws, self.base_samples, self.keep = levels, draws, base_samples, keep
        self.released, self.seed = bool(released), seed
        super().__init__(features, layer=layer, expand=expand, objective=objective, dtype=dtype)

    @property
    def novel(self) -> tuple[int, ...]:
        """The labels of classes that are calibrated, ascending."""
        return tuple(label for label, number in self.counts.items() if number < self.base_samples)

    def _parts(self) -> dict[str, Moments]:
        return {"all": Samples(self.keep, dtype=self.dtype)}

    def _keys(self, inputs: Any, features: Tensor) -> Tensor:
        keys = [number >> 1 for number in digests(inputs, len(features))]  # 63 bits, which an int64 can hold
        return torch.tensor(keys, dtype=torch.int64, device=features.device)

    def _shares(self, inputs: Any, features: Tensor) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        features = features.double()
        self._power(features)  # refused now rather than at the first question
        yield "all", features, None

    def _work_bytes(self, size: int, classes: int) -> int:
        # Base covariances, and a calibrated one at a time with what its root takes; all rows in three copies, and what
        # the regression holds of each.
        rows = classes * (self.keep + self.draws)
        return 8 * (size * size * (classes + 6) + rows * (3 * size + 8 * classes))

    def _power(self, features: Tensor) -> Tensor:
        return tukey_power(features, self.tukey, "TransportCalibrated", shift=_SHIFT)

    def _settings(self) -> dict[str, float]:
        if self.released:
            return {"epsilon": self.epsilon, "tolerance": 0.1, "iterations": 200, "floor": 1e-8}
        return {"epsilon": self.epsilon}

    def _solve(self) -> dict[str, Tensor]:
        part = self._moments["all"]
        assert isinstance(part, Samples)
        everything = summary(part)
        assert part.rows is not None
        columns = torch.searchsorted(torch.tensor(part.labels, device=part.owners.device), part.owners)
        rows, classes = self._power(part.rows.double()), len(part.labels)
        is_novel = everything.counts < self.base_samples
        here = is_novel[columns]
        if bool(here.any()) and not bool(is_novel.all()):
            drawn = self._drawn(part, rows[here], columns, is_novel, everything.means)
            targets = torch.cat([columns, columns[here].repeat_interleave(self._numbers(columns, here))])
            rows = torch.cat([rows, drawn])
        else:
            targets = columns
        sizes = torch.bincount(targets, minlength=classes).double()
        weights = (len(targets) / (classes * sizes))[targets]
        weight, offset = logistic_regression(rows, targets, classes, strength=self.strength, weights=weights)
        return {"weight": weight, "offset": offset}

    def _numbers(self, columns: Tensor, here: Tensor) -> Tensor:
        """How many samples are drawn around each support sample, ``[M]``."""
        shots = torch.bincount(columns)[columns[here]]
        return (self.draws / shots).round().long().clamp_min(1)

    def _drawn(self, part: Samples, support: Tensor, columns: Tensor, is_novel: Tensor, means: Tensor) -> Tensor:
        """Samples around each support sample, one sample's after the other's."""
        here = is_novel[columns]
        covariances = torch.stack(
            [scatter(part, row) / (int(part.counts[row]) - 1) for row in (~is_novel).nonzero()[:, 0].tolist()]
        )
        shares = self._transport(part, support, columns, is_novel, means[~is_novel])
        found = []
        numbers = self._numbers(columns, here).tolist()
        for place, key in enumerate(part.keys[here].tolist()):
            at = slice(place, place + 1)
            mean, covariance = calibrated(
                support[at], shares[:, at], means[~is_novel], covariances, share=self.share, spread=self.spread
            )
            # A generator of the sample's own, so that no other sample and no order changes what is drawn around it.
            draw = torch.Generator().manual_seed((self.seed ^ key) & _SEEDS)
            noise = torch.randn(numbers[place], support.shape[1], generator=draw, dtype=torch.float64)
            found.append(mean + noise.to(mean.device) @ _root(covariance[0]))
        return torch.cat(found)

    def _transport(self, part: Samples, support: Tensor, columns: Tensor, is_novel: Tensor, means: Tensor) -> Tensor:
        """w, ``[B, M]``: how much of each base class is in each support sample."""
        assert part.rows is not None
        if self.levels == 1:
            costs = cosine_costs(means, support)
        else:
            base = ~is_novel[columns]
            rows, owners = part.rows.double()[base], (~is_novel).cumsum(0)[columns[base]] - 1
            sure = rows.new_ones(len(rows))
            if len(means) > 1:
                weight, offset = logistic_regression(rows, owners, len(means), strength=self.strength)
                sure = torch.softmax(rows @ weight + offset, 1).gather(1, owners[:, None])[:, 0]
            sizes = torch.bincount(owners).tolist()
            weights = [certainties(each, self.temperature) for each in torch.split(sure, sizes)]
            costs = transported_costs(torch.split(rows, sizes), weights, support, **self._settings())
        source = costs.new_full((len(means),), 1 / len(means))
        target = costs.new_full((len(support),), 1 / len(support))
        plan = sinkhorn(costs, source, target, **self._settings())  # type: ignore[arg-type]  # mypy takes every setting for a float
        return plan * len(support)

    def _score(self, features: Tensor, solved: Mapping[str, Tensor]) -> Tensor:
        return self._power(features) @ solved["weight"] + solved["offset"]


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root, which is unique and exists for any covariance; Cholesky's wants a positive definite one."""
    values, vectors = torch.linalg.eigh(covariance)
    values = torch.where(values > _ZERO * values.max(), values, 0.0)
    root: Tensor = (vectors * values.sqrt()) @ vectors.T
    return root
