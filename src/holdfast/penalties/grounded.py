"""The half of a quadratic penalty that notices weights which its own pull drives away: see :mod:`.flight`."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.dispatch import Step
from holdfast.penalties.adapted import AdaptedPenalty
from holdfast.penalties.effective import gradient_at
from holdfast.penalties.flight import check_near, is_due, outweighing, swinging
from holdfast.penalties.resources import near
from holdfast.penalties.tensors import dense_gradients
from holdfast.sharding import local
from holdfast.step_size import borne_stiffness
from holdfast.strength import squared_norm

__all__ = ["GroundedPenalty"]


class GroundedPenalty(AdaptedPenalty):
    """A penalty that ends training where it throws weights ever farther from their anchors."""

    grounded: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def current_strength(self) -> float:
        """The strength now."""

    @property
    @abc.abstractmethod
    def factor(self) -> float:
        """What the weighted squared distance is multiplied by."""

    @abc.abstractmethod
    def _stiffest(self, names: Sequence[str] | None = None) -> float:
        """The penalty's largest second derivative at strength 1."""

    def _untouched(self, optimizer: Optimizer) -> str | None:
        if self.coupling == "gradient":  # before the phases of a step, none of which waits for the device
            owned = [name for name in self._owned.get(id(optimizer), ()) if self.holds(name)]
            self._look([*owned, *filter(self.holds, self._sites)], optimizer)
        return super()._untouched(optimizer)

    def _look(self, names: list[str], optimizer: Optimizer) -> None:
        """Now and then, whether weights still are where training takes them."""
        step = self.meta["steps"] // max(1, len(self._optimizers)) + 1
        if not names or not self.grounded or not is_due(step):
            return
        anchors = [self.state[name]["anchor"] for name in names]
        held = (
            ((here := self._here(name)), near(local(anchor), here)) for name, anchor in zip(names, anchors, strict=True)
        )
        check_near(type(self).__name__, held, anchors, step - 1, lambda: self._cause(names, optimizer))

    def _cause(self, names: list[str], optimizer: Optimizer) -> str | None:
        """How the penalty drives weights of this optimizer away; ``None`` where it is not the penalty."""
        plain = [name for name in names if name not in self._sites and self.params[name].grad is not None]
        forces: list[tuple[nn.Parameter, Tensor, Tensor]] = []  # where no second derivative says it
        bears_all = True
        for group in optimizer.param_groups:
            ids, borne = {id(p) for p in group["params"]}, borne_stiffness(optimizer, group)
            mine = [name for name in plain if id(self.params[name]) in ids]
            bears_all &= borne == math.inf
            if borne is None:
                params = [self.params[name] for name in mine]
                forces += zip(params, map(self._pull, mine), self._gradients(mine), strict=True)
            elif mine and (why := swinging(self.current_strength, self._stiffest(mine), borne)):
                return why
        if not bears_all:  # a penalty on a product of adapters has no one second derivative
            back = self._pulls_back(Step(optimizer), self.factor)
            forces += [(p, pulled, p.grad) for p, pulled in back if p.grad is not None]
        if not forces:
            return None
        like, pulls, grads = (list(kind) for kind in zip(*forces, strict=True))
        step = Step(optimizer, getattr(optimizer, "grad_scale", None))
        pull, gradient = squared_norm(pulls, like).sqrt(), step.unscaled(squared_norm(grads, like).sqrt())
        return outweighing(type(optimizer).__name__, float(pull), float(gradient))

    def _pull(self, name: str) -> Tensor:
        """The penalty's own gradient, what is here of it."""
        anchors, importances = self._lists([name])
        importance = None if importances is None else importances[0]
        return gradient_at(anchors[0], importance, self.factor, None, self.part(name))

    def _gradients(self, names: list[str]) -> list[Tensor]:
        """The gradients where the anchors lie, as views."""
        found = dense_gradients(type(self).__name__, self.params, names)
        return [self.part(name, grad) for name, grad in zip(names, found, strict=True)]
