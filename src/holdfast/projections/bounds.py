r"""FixNorm and MaxNorm: after each step, weights go back to the norm, or within the ball, that is theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.optim import Optimizer

from holdfast.attaching import Attached
from holdfast.checks import check_positive
from holdfast.dispatch import Dispatcher, Step
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.method import Method
from holdfast.names import Select, canonical_modules, owners, selected
from holdfast.objectives import Batch, Objective
from holdfast.projections.following import final_weights, followed_weights, traced
from holdfast.projections.norms import bounded_radius, fix_norm, max_norm, norms, row_norms
from holdfast.sharding import anywhere, is_flat, local
from holdfast.state import finiteness

__all__ = ["FixNorm", "MaxNorm", "Norm"]

Norm: TypeAlias = Literal["initial", "sqrt_out"]

_NORM, _RADIUS = "norm.", "radius."


class Bounds(Method):
    """A method that says how long some weights may be, whatever they are: of each a number in ``buffers``."""

    on_shards: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    puts_back: ClassVar[bool] = True
    bounds: ClassVar[bool] = True

    def most_buffer_bytes(self) -> int:
        """A number for each weight."""
        weights = [p for p in self.params.values() if p.dim() > 1]
        return sum(torch.promote_types(p.dtype, torch.float32).itemsize for p in weights)

    def _check_companion(self, other: Attached) -> None:
        super()._check_companion(other)
        if other.phase("restore_weights") is None:
            return
        shared = sorted(self.params.keys() & other.params.keys())
        if shared:
            raise ConfigurationError(
                f"{type(self).__name__} and {type(other).__name__} would both say after each step where parameter "
                f"{shared[0]!r} ({len(shared)} in all) stands; give each its own with select="
            )

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        weights = [self.params[name] for name in self.params if self.params[name].numel()]
        broken = anywhere([~finite for finite in finiteness(weights)], weights)
        for name, bad in zip([n for n, p in self.params.items() if p.numel()], broken, strict=True):
            if bad:
                raise NumericsError(
                    f"{type(self).__name__}: parameter {name!r} is not finite, so nothing was remembered"
                )


class FixNorm(Bounds):
    r"""Weights that a normalisation follows keep their norm, and the last layer's never grows beyond its bound.

    .. math:: W_l \leftarrow c_l \frac{W_l}{\lVert W_l \rVert_F}, \qquad
        W_{\text{last}} \leftarrow \min\left(1, \frac{\alpha}{\lVert W_{\text{last}} \rVert_F}\right) W_{\text{last}}

    after each step, in place of weight decay. The loss does not depend on the norm of such a weight, whose direction
    moves as at norm 1 and a rate of :math:`\eta / c_l^2`; decay lets that rate drift, a fixed norm says it outright.
    It acts from ``attach`` on, which gives each weight its norm; ``consolidate`` takes in what is new.

    Which weights a normalisation follows is traced, never assumed: see :mod:`holdfast.projections.following`.

    Source: Zhou et al. 2021, arXiv:2103.15345, of which the abstract alone could be read. Differs: unknown. One norm
    per tensor, ``c_l`` and the bound of the last layer are ours; biases, scales and momentum are left alone.

    Args:
        model: the model.
        norm: ``"initial"``: each weight keeps the norm that it had when it was first found; ``"sqrt_out"``: the root of
            its number of outputs, which changes a pretrained model whose normalisations have running statistics.
        alpha: α, the bound of each last layer's weight, > 0; by default its norm when it was first found.
        select: the weights whose norm is fixed, where they are to be named; ``None``: those that are found.
        head: the last layers, where they are to be named; ``None``: those that are found.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument, a model that cannot be traced or in which no weight is followed by a
            normalisation (and none is named), or two methods that put the same weight back.
    """

    alpha: float | None
    params: dict[str, nn.Parameter]

    def __init__(
        self,
        model: nn.Module,
        *,
        norm: Norm = "initial",
        alpha: float | None = None,
        select: Select = None,
        head: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, objective=objective)
        if norm not in ("initial", "sqrt_out"):
            raise ConfigurationError(f"norm is {norm!r}; expected 'initial' or 'sqrt_out'")
        self.norm = norm
        self.alpha = None if alpha is None else check_positive("alpha", alpha)
        self._named, self._named_last = select, head
        self._unfollowed: str | None = None
        self._fixed, self._last = self._found(model)
        self._select = [*self._fixed, *self._last]
        self.params = selected(model, self._select)
        self.meta["shapes"] = {}  # of the weights whose norm is known

    @property
    def fixed(self) -> tuple[str, ...]:
        """The weights whose norm is fixed, by canonical names."""
        return tuple(self._fixed)

    @property
    def clipped(self) -> tuple[str, ...]:
        """The last layers' weights, whose norm is bounded, by canonical names."""
        return tuple(self._last)

    def _found(self, model: nn.Module) -> tuple[list[str], list[str]]:
        """The weights to fix, and those to bound."""
        fixed = None if self._named is None else _matrices("select", model, self._named)
        last = None if self._named_last is None else _matrices("head", model, self._named_last)
        if fixed is None or last is None:
            try:
                graph = traced(model)
                followed, final = followed_weights(model, graph), final_weights(model, graph)
            except ConfigurationError:
                if fixed is None:
                    raise
                followed, final = fixed, []
            if fixed is None and not followed:
                raise ConfigurationError(
                    f"no weight of {type(model).__name__} is followed by a normalisation and nothing else (BatchNorm, "
                    "or LayerNorm, GroupNorm or RMSNorm behind a layer without bias), so a fixed norm would change "
                    "what it can compute; name the weights with select if you want that, or use MaxNorm"
                )
            if fixed is not None and (without := sorted(set(fixed) - set(followed))):
                self._unfollowed = (
                    f"FixNorm: no normalisation follows parameter {without[0]!r} ({len(without)} in all) that select "
                    "names, so a fixed norm changes what the model can compute"
                )
            fixed = followed if fixed is None else fixed
            last = final if last is None else last
        last = [name for name in last if name not in fixed]
        return fixed, last

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        self._note_norms()
        if self._unfollowed is not None:
            self._warn(self._unfollowed)
        for optimizer in optimizers:
            self._look_at_decay(optimizer)
            present = Dispatcher.find(optimizer)
            for other in () if present is None else present.methods:
                if isinstance(other, Attached) and other is not self:
                    self._look_at_anchors(other)

    def _note_norms(self) -> None:
        """Find the norm of each weight that is new, or of another shape than when it was found, and give it that."""
        shapes: dict[str, list[int]] = self.meta["shapes"]
        new = [name for name, p in self.params.items() if shapes.get(name) != list(p.shape)]
        found = dict(zip(new, norms([self.params[name] for name in new]), strict=True))
        modules = dict(canonical_modules(self.model))
        owner = owners(self.model)
        for name, here in found.items():
            value = here
            if name in self._last:
                value = here if self.alpha is None else torch.full_like(here, self.alpha)
            elif self.norm == "sqrt_out":
                value = torch.full_like(here, math.sqrt(_outputs(modules[owner[name]], self.params[name])))
            if not bool(here.isfinite()):
                raise NumericsError(f"FixNorm: parameter {name!r} is not finite, so it has no norm to keep")
            if float(value) == 0:
                other = "a number for alpha" if name in self._last else "norm='sqrt_out'"
                raise ConfigurationError(
                    f"parameter {name!r} has norm 0, which FixNorm would keep; expected one that is not 0, or {other}"
                )
            self.buffers[_NORM + name] = value
            self._project(name, here)
        self.meta["shapes"] = {**shapes, **{name: list(self.params[name].shape) for name in new}}

    def _look_at_decay(self, optimizer: Optimizer) -> None:
        """Warn of weight decay, which changes nothing of a norm that is fixed."""
        names = {id(self.params[name]): name for name in self._fixed if name in self.params}
        for group in optimizer.param_groups:
            decayed = [names[id(p)] for p in group["params"] if id(p) in names]
            if decayed and group.get("weight_decay"):
                self._warn(
                    f"FixNorm fixes the norm of parameter {decayed[0]!r} ({len(decayed)} in all), so what "
                    f"{type(optimizer).__name__}'s weight_decay={group['weight_decay']:g} takes from it is given back "
                    "in each step: give it a group with weight_decay=0"
                )
                return

    def _check_companion(self, other: Attached) -> None:
        super()._check_companion(other)
        if self.meta["shapes"]:
            self._look_at_anchors(other)

    def _look_at_anchors(self, other: Attached) -> None:
        """Warn of an anchor at another norm than the fixed one: it pulls at what is put back."""
        for name in self._fixed:
            anchor = other.state.get(name, {}).get("anchor")
            if anchor is None or anchor.shape != self.params[name].shape or _NORM + name not in self.buffers:
                continue
            theirs, ours = float(norms([anchor])[0]), float(self.buffers[_NORM + name])
            if abs(theirs - ours) > 1e-3 * ours:
                self._warn(
                    f"{type(other).__name__} pulls parameter {name!r} towards an anchor of norm {theirs:.4g}, and "
                    f"FixNorm puts it back to {ours:.4g} in each step: consolidate it under FixNorm"
                )
                return

    def restore_weights(self, step: Step) -> None:
        """Put the norms back, and bound the last layers'."""
        names = self.live(step, held=False)
        weights = [self.params[name].detach() for name in names]
        for name, current in zip(names, norms(weights), strict=True):
            self._project(name, current, step.found_inf)

    def _project(self, name: str, current: Tensor, found_inf: Tensor | None = None) -> None:
        project = max_norm if name in self._last else fix_norm
        value = self.buffers[_NORM + name].to(current)
        project(local(self.params[name].detach()), value, current=current, found_inf=found_inf)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        super()._remember(batches, objective, generator)
        try:
            self._fixed, self._last = self._found(self.model)  # what is new: a head, a layer
        except ConfigurationError:  # wrapped or sharded since, it may be beyond tracing: what was found then stays
            return
        self._select = [*self._fixed, *self._last]


class MaxNorm(Bounds):
    r"""No class (or filter) has a weight vector longer than δ: after each step, what is longer is cut.

    .. math:: \theta_k \leftarrow \min\left(1, \frac{\delta}{\lVert \theta_k \rVert}\right) \theta_k

    Rows of frequent classes grow longest; bounding all alike balances a classifier. With ``delta`` it acts from the
    first step on. Without, δ of each weight lies between the norms of its rows where the first ``consolidate`` finds
    it, and it acts from then on: learn first, ``consolidate()``, then train the classifier anew.

    .. math:: \delta = \min_k \lVert \theta_k \rVert + t \,(\max_k \lVert \theta_k \rVert - \min_k \lVert \theta_k
        \rVert)

    Source: Alshammari et al. 2022, arXiv:2203.14197, eqs. 4 and 5; the relative δ from the release. Differs: no; the
    release projects once per epoch, the paper and this after each batch.

    Args:
        model: the model.
        delta: δ, > 0; ``None`` for one per weight, relative to its rows.
        threshold: t, from 0 to 1; for ``delta=None``.
        select: which weights are bounded, of those with two dimensions or more: ``"head"`` for a classifier's.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument, or a selection without weights.
    """

    delta: float | None
    buffers: dict[str, Tensor]

    def __init__(
        self,
        model: nn.Module,
        *,
        delta: float | None = None,
        threshold: float = 0.1,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        self.delta = None if delta is None else check_positive("delta", delta)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ConfigurationError(f"threshold is {threshold!r}; expected a share, from 0 to 1")
        self.threshold: float = float(threshold)
        super().__init__(model, select=select, objective=objective)
        _matrices("select", model, select)

    def _bounded(self) -> list[str]:
        """The weights that have a radius by now."""
        return [
            name for name, p in self.params.items() if p.dim() > 1 and (self.delta or _RADIUS + name in self.buffers)
        ]

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        owner = owners(self.model)
        modules = dict(canonical_modules(self.model))
        for name, p in self.params.items():
            module = modules[owner[name]]
            if p.dim() > 1 and isinstance(module, _ConvTransposeNd):
                raise ConfigurationError(
                    f"parameter {name!r} belongs to a {type(module).__name__}, whose filters are no rows; leave it out "
                    "with select"
                )

    def restore_weights(self, step: Step) -> None:
        """Cut what is longer than δ."""
        live = set(self.live(step, held=False))
        names = [name for name in self._bounded() if name in live]
        weights = [self.scope(name) for name in names]
        for name, weight, current in zip(names, weights, row_norms(weights), strict=True):
            radius = self.delta if self.delta is not None else self.buffers[_RADIUS + name].to(current)
            max_norm(local(weight), radius, current=current, found_inf=step.found_inf)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        super()._remember(batches, objective, generator)
        if self.delta is None:
            new = [name for name, p in self.params.items() if p.dim() > 1 and _RADIUS + name not in self.buffers]
            self.buffers |= {_RADIUS + name: bounded_radius(self.scope(name), self.threshold) for name in new}


def _matrices(option: str, model: nn.Module, select: Select) -> list[str]:
    """The weights that a selection names, biases and scales left out."""
    everything = selected(model, select)
    if is_flat(model.modules()):  # pieces without shapes, which attach refuses in a sentence of its own
        return list(everything)
    found = [name for name, p in everything.items() if p.dim() > 1]
    if not found:
        raise ConfigurationError(f"{option} is {select!r}, which names no weight of two dimensions or more")
    return found


def _outputs(module: nn.Module, weight: Tensor) -> int:
    return module.out_channels if isinstance(module, nn.modules.conv._ConvNd) else len(weight)
