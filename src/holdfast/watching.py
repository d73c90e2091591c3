r"""What a method does to a step of training, measured: the answer to "it does nothing".

A method may add to the loss or to its gradient, take from the gradient, or move the weights after the step. Each is set
against what was there before it:

.. math::
    \frac{\lVert c \rVert}{\lVert c \rVert + \lVert o \rVert} \qquad\text{and}\qquad
    \frac{\max(0, -\langle c, o \rangle)}{\lVert o \rVert^2}

where c is the method's change of all gradients (or all weights) and o what it changed: the gradient of the loss, the
gradient until then, or the step until then. The second says how much of o was undone; it counts for what takes from a
gradient or moves weights back, where 1 leaves nothing. A step's share is the largest of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.sharding import is_sharded, local, total

__all__ = ["StepWatch", "Watched"]

_EDITS = ("add_gradient", "project_gradient")
_MOVES = ("pull_weights", "restore_weights")


@dataclass(frozen=True)
class Watched:
    """What is to be seen of a method at work.

    Args:
        share: of the latest step under :meth:`Method.watch <holdfast.Method.watch>`, from 0 (it did nothing) to 1
            (nothing but the method acted); ``None`` before there is one, or if the method takes no part in steps.
        distance: name -> Euclidean distance of what is held from its anchor, in parameter units.
        strength: what the method's term is multiplied by now; ``None`` for a method without.
        strengths: those that it found by itself, task by task.
        unprotected_steps: how many at the start of each task it takes without protection, to find one.
    """

    share: float | None
    distance: Mapping[str, float]
    strength: float | None
    strengths: tuple[float, ...]
    unprotected_steps: int


class _Sums:
    """Sums of products over all tensors, in float64."""

    def __init__(self) -> None:
        self.changed = self.own = self.both = 0.0

    def add(self, before: Tensor, after: Tensor, own: Tensor, param: Tensor) -> None:
        """Add one tensor, by what is here of it."""
        change, own = (after.double() - before.double()).flatten(), own.double().flatten()
        here = torch.stack([change.dot(change), own.dot(own), change.dot(own)])
        changed, its_own, both = total([here], [param]).tolist()
        self.changed += changed
        self.own += its_own
        self.both += both

    def share(self) -> float:
        total = math.sqrt(self.changed) + math.sqrt(self.own)
        return math.sqrt(self.changed) / total if total > 0 else 0.0

    def undone(self) -> float:
        return min(1.0, max(0.0, -self.both / self.own)) if self.own > 0 else 0.0


class StepWatch:
    """Measures one method's part in one step of each of its optimizers."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}
        self._gradients: dict[int, Tensor] = {}  # of the loss alone
        self._weights: dict[int, Tensor] = {}  # before the step
        self._terms: list[tuple[list[Tensor], list[Tensor | None], list[Tensor]]] = []  # of terms in the loss

    def around(self, name: str, part: Callable[[Step], None] | None) -> Callable[[Step], None] | None:
        """A method's part in a phase, measured.

        Args:
            name: of the phase.
            part: what the method does in it; ``None`` for nothing.
        """

        def begun(step: Step) -> None:
            self._begin(step)
            if part is not None:
                part(step)

        def edited(step: Step) -> None:
            assert part is not None
            own = self._gradients if name == "add_gradient" else {}
            before = {id(p): step.unscaled(g).clone() for p, g in _gradients(step)}
            part(step)
            for p, g in _gradients(step):
                self._sum(name).add(before[id(p)], step.unscaled(g), own.get(id(p), before[id(p)]), p)

        def moved(step: Step) -> None:
            assert part is not None
            before = {id(p): local(p.detach()).clone() for p in _trained(step)}
            part(step)
            for p in _trained(step):
                here = before[id(p)]
                self._sum(name).add(here, local(p.detach()), here - self._weights.get(id(p), here), p)

        if name == "observe_gradient":
            return begun
        if part is None:
            return None
        return edited if name in _EDITS else moved if name in _MOVES else part

    def term(self, value: Tensor, params: Iterable[nn.Parameter]) -> None:
        """Note a term for the loss: its gradients now, and later what the backward pass multiplied them by.

        Args:
            value: the term, ``[]``.
            params: those that it may act on.
        """
        wanted = [p for p in params if p.requires_grad]
        gradients = torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True)
        if all(g is None for g in gradients) and any(map(is_sharded, wanted)):
            raise ConfigurationError(
                "a term in the loss reaches sharded parameters through the model, where its share of a step cannot be "
                "measured; expected no watch() on a model of fully_shard, or another method"
            )
        gradients = tuple(g if g is None else local(g) for g in gradients)
        factors: list[Tensor] = []
        value.register_hook(factors.append)  # type: ignore[no-untyped-call]  # torch's own gap
        self._terms.append((list(wanted), list(gradients), factors))

    def _begin(self, step: Step) -> None:
        found = {id(p): step.unscaled(g).clone() for p, g in _gradients(step)}
        of_terms: dict[int, Tensor] = {}
        trained = {id(p): p for p in _trained(step)}
        for params, gradients, factors in self._terms:
            for p, g in zip(params, gradients, strict=True):
                if g is None or id(p) not in found:
                    continue
                for factor in factors:
                    part = step.unscaled(g * factor)
                    of_terms[id(p)] = of_terms[id(p)] + part if id(p) in of_terms else part
        for key, gradient in found.items():
            own = gradient - of_terms[key] if key in of_terms else gradient
            if self._terms:
                self._sum("loss").add(own, gradient, own, trained[key])
            self._gradients[key] = own
        self._weights.update({id(p): local(p.detach()).clone() for p in _trained(step)})

    def _sum(self, name: str) -> _Sums:
        return self._sums.setdefault(name, _Sums())

    def share(self) -> float | None:
        """The largest share of any kind; ``None`` if the method had no part in the step."""
        found = [sums.share() for sums in self._sums.values()]
        found += [sums.undone() for name, sums in self._sums.items() if name not in ("loss", "add_gradient")]
        return max(found, default=None)


def _trained(step: Step) -> list[Tensor]:
    return [p for group in step.optimizer.param_groups for p in group["params"] if p.requires_grad]


def _gradients(step: Step) -> list[tuple[Tensor, Tensor]]:
    """Each parameter of the step that has a gradient, beside it."""
    found = [(p, p.grad) for p in _trained(step)]
    return [(p, g.to_dense() if g.layout is not torch.strided else local(g)) for p, g in found if g is not None]
