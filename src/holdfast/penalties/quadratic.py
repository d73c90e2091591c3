r"""The quadratic penalty that EWC, L2-SP, SI, MAS, RWalk, ANPyC and Anastrophic share.

.. math:: R(\theta) = a \sum_i F_i (\theta_i - \theta_i^*)^2

``a`` is half the strength where a method's paper writes the one half, and the strength where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.checks import check_not_negative
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.penalties.equations import fold, pull, quadratic_penalty
from holdfast.penalties.gradient import add_quadratic_gradient
from holdfast.penalties.grounded import GroundedPenalty
from holdfast.penalties.resources import KEPT, Resources, check_host, check_resources, lent, near, placed
from holdfast.penalties.tensors import side_by_side
from holdfast.sharding import check_flat_shards, largest, local, total, zero
from holdfast.state import anchor_of
from holdfast.step_size import check_step_size_known, step_size
from holdfast.strength import AutoStrength, Strength, StrengthFinder

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Coupling", "Options", "QuadraticPenalty"]

Coupling: TypeAlias = Literal["gradient", "loss", "proximal"]


class Options(Resources, total=False):
    """What every quadratic penalty takes as further keywords.

    Attributes:
        coupling: ``"gradient"`` (default) adds the closed-form gradient before each step; ``"loss"`` makes
            ``penalty()`` a differentiable term for the loss; ``"proximal"`` pulls the weights after each step.
        select: which trainable parameters to protect: names, shell patterns or a function; ``None`` (default) for all.
        objective: what a batch means; ``None`` (default) for :class:`~holdfast.Classification`.
    """

    coupling: Coupling
    select: Select
    objective: Objective | Callable[[Any, Batch], Tensor] | None


class QuadraticPenalty(GroundedPenalty):
    """What all quadratic penalties share: strength, coupling, and the three ways to apply them.

    Args:
        model: the model to protect.
        strength: how much the penalty weighs against the loss, >= 0; ``"auto"`` (or an :class:`AutoStrength`) finds it
            on the first steps of each new task, which are taken without the penalty.
        coupling: ``"gradient"`` adds the closed-form gradient before each step; ``"loss"`` makes ``penalty()`` a
            differentiable term for the loss; ``"proximal"`` pulls the weights after each step.
        select: which trainable parameters to protect.
        objective: what a batch means.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a negative or non-finite strength, an unknown coupling, or resources that cannot be.
    """

    on_shards: ClassVar[bool] = True
    of_batch: ClassVar[bool] = False
    halved: ClassVar[bool] = True  # whether the paper writes the one half
    renewed: ClassVar[int] = 2  # anchor and importance
    auto_fraction: ClassVar[float | None] = 3.0  # of the task's gradient, for strength="auto": see docs/tuning.md

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        coupling: Coupling = "gradient",
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
        **resources: Unpack[Resources],
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self._importance_dtype, self._state_device, self._fused = check_resources(resources)
        self._finder: StrengthFinder | None = None
        self.strength: float | Literal["auto"] = "auto"
        if isinstance(strength, AutoStrength) or strength == "auto":
            assert self.auto_fraction is not None
            self._finder = StrengthFinder(AutoStrength() if strength == "auto" else strength, self.auto_fraction)
        else:
            self.strength = check_not_negative("strength", strength)
        if coupling not in ("gradient", "loss", "proximal"):
            raise ConfigurationError(f"coupling is {coupling!r}; expected 'gradient', 'loss' or 'proximal'")
        self.coupling = coupling

    @property
    def factor(self) -> float:
        """What the weighted squared distance is multiplied by."""
        return self.current_strength / 2 if self.halved else self.current_strength

    @property
    def current_strength(self) -> float:
        """The strength now: as given, or as found for the task under way (0 while measured; what SGD bears at most)."""
        if self._finder is None:
            return float(self.strength)
        return self._finder.current(self.meta, () if self.coupling == "proximal" else self._optimizers)

    @property
    def found_strengths(self) -> list[float]:
        """What ``strength="auto"`` found, task by task; empty where the strength was given."""
        return [] if self._finder is None else list(self._finder.found(self.meta))

    @property
    def measured_steps(self) -> int:
        """How many steps of a new task ``strength="auto"`` takes without the penalty; 0 for a strength given."""
        return 0 if self._finder is None else self._finder.steps(self.meta)

    @property
    def needs_penalty(self) -> bool:
        """Whether training must add :meth:`penalty` to its loss."""
        return self.coupling == "loss"

    def _repeats(self) -> bool:
        measured = self._finder is not None
        held = self.phase("project_gradient") is not None or self.phase("restore_weights") is not None
        return self.coupling == "loss" and not measured and not held

    def holds(self, name: str) -> bool:
        """Whether the penalty acts on that parameter: some methods remember things of one before it does."""
        return "anchor" in self.state.get(name, ())

    def _pulled(self, step: Step) -> list[str]:
        """Names of this optimizer's parameters on which the penalty acts in this step."""
        return [name for name in self.live(step) if self.holds(name)]

    def weights_of(self, name: str) -> Tensor | None:
        """The importance of a parameter ``[*p]``; ``None`` for 1 everywhere."""
        return self.state[name].get("importance")

    def _lists(self, names: list[str]) -> tuple[list[Tensor], list[Tensor] | None]:
        """Anchors, and importances where there are any, on their parameters' devices: what is here of them."""
        weights = {name: w for name in names if (w := self.weights_of(name)) is not None}
        assert len(weights) in (0, len(names))
        at = {name: self._sites[name].base if name in self._sites else self.params[name] for name in names}
        anchors = [near(local(self.state[name]["anchor"]), at[name]) for name in names]
        return anchors, [near(local(w), at[name]) for name, w in weights.items()] or None

    def value(self) -> Tensor:
        """The penalty now, ``[]``, in loss units, whatever the coupling; differentiable."""
        names = [name for name in self.state if (name in self.params or name in self._sites) and self.holds(name)]
        if self.num_tasks == 0 or not names:
            return zero(self.params)
        anchors, importances = self._lists(names)
        weights = [self._sites[n].weight() if n in self._sites else self.block(n, self.params[n]) for n in names]
        check_flat_shards(f"{type(self).__name__}.value()", self.model.modules())
        constant = self.buffers.get("constant")
        found = quadratic_penalty(weights, anchors, importances, self.factor)
        return found if constant is None else found + self.factor * constant.to(found)

    def _penalty(self, batch: Batch, outputs: Any) -> Tensor:
        return self.value() if self.needs_penalty else super()._penalty(batch, outputs)

    def observe_gradient(self, step: Step) -> None:
        """Measure both gradients, while the strength is not known."""
        if self._finder is None or self.num_tasks == 0 or self._finder.ready(self.meta):
            return
        names = self._pulled(step)
        anchors, importances = self._lists(names)
        params = [self.params[name] for name in names]
        weights = [self.part(name) for name in names]
        grads = self._gradients(names)
        pulls = [torch.zeros_like(anchor) for anchor in anchors]
        add_quadratic_gradient(weights, pulls, anchors, importances, 0.5 if self.halved else 1.0)
        for parameter, pulled in self._pulls_back(step, 0.5 if self.halved else 1.0):
            assert parameter.grad is not None
            params, grads, pulls = [*params, parameter], [*grads, parameter.grad], [*pulls, pulled]
        self._finder.measure(self.meta, self.buffers, step, params, grads, pulls, len(self._optimizers), self._stiffest)

    def _stiffest(self, names: Sequence[str] | None = None) -> float:
        """The penalty's largest second derivative at strength 1, in loss / parameter²; of some parameters, or all."""
        names = [name for name in (self.state if names is None else names) if self.holds(name)]
        weights = [w for name in names if (w := self.weights_of(name)) is not None]
        most = largest([local(w) for w in weights], weights) if weights else 1.0
        return most * (1 if self.halved else 2)

    def _prepare(self) -> None:
        super()._prepare()
        check_host(self.params, self._state_device)
        if self._state_device is not None:  # methods compute with the state where their parameters are
            places = self._places()
            for name, held in self.state.items():
                if name in places:
                    self.state[name] = held | {kind: near(held[kind], places[name]) for kind in KEPT if kind in held}

    def _begin_anew(self) -> None:
        super()._begin_anew()
        if self._finder is not None:
            self._finder.end_task(type(self).__name__, self.meta, self.buffers, len(self._optimizers))

    def _settle(self) -> None:
        for name, held in self.state.items():
            self.state[name] = placed(held, self._importance_dtype, self._state_device)

    def _load(self, state: dict[str, Any], objectives: Sequence[Objective]) -> None:
        check_host(self.params, self._state_device)
        super()._load(state, objectives)
        self._settle()

    def add_gradient(self, step: Step) -> None:
        """Add the penalty's gradient, where the coupling says so."""
        if self.coupling != "gradient":
            return
        for parameter, pulled in self._pulls_back(step, self.factor, step.grad_scale):
            assert parameter.grad is not None
            parameter.grad.add_(pulled.to(parameter.grad.dtype))
        names = self._pulled(step)
        if not names:
            return
        grads = dict(zip(names, self._gradients(names), strict=True))
        for some, anchors, importances in self._reached(names):
            params, those = [self.part(name) for name in some], [grads[name] for name in some]
            add_quadratic_gradient(params, those, anchors, importances, self.factor, step.grad_scale, fused=self._fused)

    def _reached(self, names: list[str]) -> Iterator[tuple[list[str], list[Tensor], list[Tensor] | None]]:
        """What :meth:`_lists` gives, for some names after the others where the state has to come from the host."""
        here = names
        if self._state_device is not None:
            here = [name for name in names if self.params[name].device == self._state_device]
        if here:
            yield here, *self._lists(here)
        if len(here) == len(names):
            return
        away: dict[torch.device, list[str]] = {}
        for name in names:
            if (device := self.params[name].device) != self._state_device:
                away.setdefault(device, []).append(name)
        for device, there in away.items():
            held = [
                [local(t) for t in (self.state[name]["anchor"], self.weights_of(name)) if t is not None]
                for name in there
            ]
            for group, copies in lent(held, device):
                anchors, *weights = (list(kind) for kind in zip(*copies, strict=True))
                yield there[group], anchors, weights[0] if weights else None

    def pull_weights(self, step: Step) -> None:
        """Pull the weights towards their anchors, where the coupling says so."""
        if self.coupling != "proximal":
            return
        names = self._pulled(step)
        params = [self.params[name] for name in names]
        for name, p, moves in zip(names, params, step_size(step.optimizer, params), strict=True):
            weights = self.weights_of(name)
            if isinstance(moves, Tensor) and moves.dim() > 0:
                moves = self.part(name, moves)
            stiffness = 2 * self.factor * moves
            if weights is not None:
                stiffness = stiffness * near(local(weights), p)
            pull(self.part(name), near(local(self.state[name]["anchor"]), p), stiffness, step.found_inf)

    def _fold_in(self, importances: dict[str, Tensor]) -> None:
        """Add one term anchored at the weights as they are now, exactly, to what is held already.

        Args:
            importances: of the new term; emptied on the way, so that no more memory is taken than by replacing it all.
        """
        more: dict[str, Tensor] = {}  # by how much the constant grows
        for name in list(importances):
            importance = importances.pop(name)
            anchor = anchor_of(self.scope(name))
            if name in self.state:
                held = self.state[name]
                importance = importance.to(torch.promote_types(importance.dtype, held["importance"].dtype))
                anchor = anchor.to(torch.promote_types(importance.dtype, held["anchor"].dtype))
                for old, F, new, add in side_by_side(held["anchor"], held["importance"], anchor, importance):
                    folded, summed, left = fold(old, F, new, add)
                    new.copy_(folded)
                    add.copy_(summed)
                    more[name] = more[name] + left if name in more else left
            self.state[name] = {"anchor": anchor, "importance": importance}
        if more:
            constant = total(list(more.values()), [self.state[name]["anchor"] for name in more])
            known = self.buffers.get("constant")
            self.buffers["constant"] = constant if known is None else known + constant.to(known)

    def _anchor_here(self, importances: Mapping[str, Tensor]) -> None:
        """Replace what is held by one term anchored at the weights as they are now."""
        for name, importance in importances.items():
            self.state[name] = {"anchor": anchor_of(self.scope(name)), "importance": importance}

    def _scoped(self, importances: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of each importance what is selected, in memory of its own."""
        found = {name: (importance, self.scope(name, importance)) for name, importance in importances.items()}
        return {name: whole if whole is part else part.clone() for name, (whole, part) in found.items()}

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        super()._check_optimizer(optimizer)
        if self.coupling == "proximal":
            check_step_size_known(optimizer)
