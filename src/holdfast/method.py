"""The one interface: what must be remembered, and where a training step is changed."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.dispatch import Dispatcher, Step, unwrap_optimizer
from holdfast.errors import ConfigurationError, DataError, NumericsError, ProtectionError
from holdfast.names import Select, canonical_parameters, selected
from holdfast.objectives import Batch, Objective, as_objective
from holdfast.processes import in_step
from holdfast.state import check_finite, check_fits, check_something, pack, unpack

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Method", "Step"]


class Method(abc.ABC):
    """What must be remembered, and where a training step is changed.

    A subclass fills :meth:`_remember` and the phases that it takes part in; everything else is final.
    The phases of one optimizer step run over all attached methods, one phase after the other:
    ``observe_gradient``, ``add_gradient``, ``project_gradient``, the step itself, ``pull_weights``,
    ``restore_weights``, ``observe_update``.

    Args:
        model: the model to protect; wrappers (``torch.compile``, DDP) are looked through.
        select: which trainable parameters to protect: names, shell patterns or a function; ``None`` for all.
        objective: what a batch means, where ``consolidate`` is not told; ``None`` for :class:`Classification`.

    Attributes:
        params: canonical name -> live trainable parameter; resolved at attach and at consolidate.
        state: name -> tensors shaped like the parameter, such as ``"anchor"`` and ``"importance"``.
        buffers: any other tensor to remember.
        meta: plain values to remember.
    """

    version: ClassVar[int] = 1
    needs_data: ClassVar[bool] = True
    renewed: ClassVar[int] = 1  # tensors per parameter that consolidate makes while the old ones are still held
    order: ClassVar[int] = 0  # within a phase, lower runs first; equal ones run by name

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigurationError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        self.model = model
        self.objective = as_objective(objective)
        self._select = select
        self.params: dict[str, nn.Parameter] = selected(model, select)
        self.state: dict[str, dict[str, Tensor]] = {}
        self.buffers: dict[str, Tensor] = {}
        self.meta: dict[str, Any] = {"num_tasks": 0, "steps": 0}
        self._penalty_calls = 0
        self._calls_used: dict[int, int] = {}  # optimizer -> penalty calls until its latest step
        self._optimizers: tuple[Optimizer, ...] = ()
        self._owned: dict[int, list[str]] = {}
        self._sizes: dict[int, list[int]] = {}  # optimizer -> trainable parameters per group when last looked up
        self._dormant: dict[str, nn.Parameter] = {}  # remembered, but frozen when they were last looked up

    @property
    def num_tasks(self) -> int:
        """How many tasks are protected; 0: nothing is, and training is left exactly as it is."""
        return int(self.meta["num_tasks"])

    @property
    def needs_penalty(self) -> bool:
        """Whether training must add :meth:`penalty` to its loss."""
        return False

    def observe_gradient(self, step: Step) -> None:
        """See the loss's own gradient, before anyone edits it."""

    def add_gradient(self, step: Step) -> None:
        """Add a penalty's gradient, in closed form."""

    def project_gradient(self, step: Step) -> None:
        """Mask or project the gradient."""

    def pull_weights(self, step: Step) -> None:
        """Pull the weights after the step: a proximal step."""

    def restore_weights(self, step: Step) -> None:
        """Put back what must hold exactly."""

    def observe_update(self, step: Step) -> None:
        """See the displacement that was really made."""

    def penalty(self, batch: Batch = None, outputs: Any = None) -> Tensor:
        """A term for the loss, where it must be there; 0 for methods that act on the weights.

        Args:
            batch: the batch that the loss was computed on.
            outputs: what the model returned for it, to spare a second forward pass.

        Returns:
            Scalar ``[]``, in loss units.
        """
        self._penalty_calls += 1
        return self._penalty(batch, outputs)

    def _penalty(self, batch: Batch, outputs: Any) -> Tensor:
        return next(iter(self.params.values())).new_zeros(())

    def next_round(
        self, batches: Iterable[Batch] = (), *, objective: Objective | None = None, last: bool = False
    ) -> bool:
        """Begin the next round of retraining: ``True`` means retrain, then ask again.

        Args:
            batches: data of the task just learned.
            objective: what a batch means.
            last: whether this was the last task, after which nothing needs to be made free.
        """
        return False

    def task(self, index: int) -> AbstractContextManager[None]:
        """The weights with which task ``index`` is tested, for as long as the context lasts."""
        return nullcontext()

    def consolidate(
        self,
        batches: Iterable[Batch] = (),
        *,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Remember what was just learned; protect it from the next step on.

        Args:
            batches: data of the task just learned, for methods that need it; read once.
            objective: what a batch means, if it is not what the constructor was told.
            generator: the source of randomness, for methods that draw.

        Raises:
            DataError: if data is needed and there is none. Nothing has changed then.
            ProtectionError: if no step was observed since the last task, or all importances are 0. Nothing has changed
                then.
            NumericsError: if an importance, or anything else to remember, is not finite. Nothing has changed then.
        """
        if self.num_tasks > 0 and self.meta["steps"] == 0:
            raise ProtectionError(
                f"{type(self).__name__} saw no optimizer step since its last consolidate: call attach(optimizer) "
                "with the optimizer that really trains (a copied one loses its hooks)"
            )
        known = self.objective if objective is None else as_objective(objective)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ConfigurationError(f"generator is {generator!r}; expected a torch.Generator or None")
        if self.needs_data:
            batches = self._at_least_one(batches)
        self._resolve(self._optimizers)
        before = dict(self.meta), {name: dict(held) for name, held in self.state.items()}, dict(self.buffers)
        self._remember(batches, known, generator)
        try:
            check_finite(type(self).__name__, self.state, self.buffers)
            check_something(type(self).__name__, self.state)
        except (NumericsError, ProtectionError):
            self.meta, self.state, self.buffers = before
            self._loaded()
            raise
        del before  # what was replaced makes room for what begins anew
        self._begin_anew()
        self.meta["num_tasks"] = self.num_tasks + 1
        self.meta["steps"] = 0

    @abc.abstractmethod
    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        """Fill ``state``, ``buffers`` and ``meta``; compute everything that can fail before changing any of them."""

    def _begin_anew(self) -> None:
        """Set up, once nothing can fail any more, what the next task starts with."""

    def _at_least_one(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        name = type(self).__name__
        with in_step(self.params):
            if not isinstance(batches, Iterable):
                raise DataError(f"batches is a {type(batches).__name__}; {name} expects an iterable of them")
            iterator = iter(batches)
            for first in iterator:
                return itertools.chain([first], iterator)
            raise DataError(f"{name} needs data of the task just learned; consolidate got no batch")

    def attach(self, *optimizers: Any) -> Self:
        """Protect the steps of these optimizers; replaces those attached before.

        Args:
            optimizers: all that train the selected parameters between them.

        Returns:
            The method itself.

        Raises:
            ConfigurationError: for something that is not an optimizer, one that cannot be protected, or one that
                already has a method attached with which this one cannot be combined.
            ProtectionError: if a selected trainable parameter is in none of them.
        """
        if not optimizers:
            raise ConfigurationError("attach got no optimizer; expected at least one")
        inner = tuple(unwrap_optimizer(o) for o in optimizers)
        for optimizer in inner:
            self._check_optimizer(optimizer)
            present = Dispatcher.find(optimizer)
            for other in () if present is None else present.methods:
                if isinstance(other, Method) and other is not self:
                    self._check_companion(other)
                    other._check_companion(self)
        self._resolve(inner)
        for optimizer in self._optimizers:
            Dispatcher.of(optimizer).remove(self)
        self._optimizers = inner
        latest = max(self._calls_used.values(), default=0)
        self._calls_used = {id(optimizer): latest for optimizer in inner}
        for optimizer in inner:
            Dispatcher.of(optimizer).add(self)
        return self

    def detach(self) -> None:
        """Leave the optimizers; what is remembered stays."""
        for optimizer in self._optimizers:
            Dispatcher.of(optimizer).remove(self)
        self._optimizers = ()
        self._owned = {}

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that this method cannot protect."""

    def _check_companion(self, other: Method) -> None:
        """Refuse a method that cannot share an optimizer with this one."""

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        """Look the parameters up again: wrappers replace them, and new ones appear."""
        params = selected(self.model, self._select)
        check_fits(self.state, canonical_parameters(self.model))
        owned = {}
        for optimizer in optimizers:
            ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
            owned[id(optimizer)] = [name for name, p in params.items() if id(p) in ids]
        covered = {name for names in owned.values() for name in names}
        missing = [name for name in params if optimizers and name not in covered]
        if missing:
            raise ProtectionError(
                f"parameter {missing[0]!r} ({len(missing)} in all) is trainable, but in none of the optimizers: "
                "add it to one, or leave it out with select="
            )
        self.params, self._owned = params, owned
        self._sizes = {id(optimizer): _sizes(optimizer) for optimizer in optimizers}
        self._find_dormant()

    def find_new(self, step: Step) -> None:
        """Look the parameters up again where the optimizer has more to train, for methods that watch training.

        A new head's first task counts, too; other methods need to know it by the next ``consolidate`` only.
        """
        if self._sizes.get(id(step.optimizer)) != _sizes(step.optimizer):
            self._resolve(self._optimizers)

    def _find_dormant(self) -> None:
        live = canonical_parameters(self.model)
        self._dormant = {name: live[name] for name in self.state if not live[name].requires_grad}

    def live(self, step: Step, *, held: bool = True) -> list[str]:
        """Names of this optimizer's parameters that have a gradient now.

        Args:
            step: the step under way.
            held: only those that something is remembered of.
        """
        return [
            name
            for name in self._owned.get(id(step.optimizer), ())
            if self.params[name].grad is not None and (not held or name in self.state)
        ]

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Where the method stands within a phase, whatever the order of attaching."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str) and not k.startswith("_")}
        return (self.order, type(self).__name__, repr(sorted(plain.items())), " ".join(self.params))

    def phase(self, name: str) -> Callable[[Step], None] | None:
        """The method's part in a phase, or ``None`` if it has none."""
        return None if getattr(type(self), name) is getattr(Method, name) else getattr(self, name)

    def check_step(self, optimizer: Optimizer) -> None:
        """Raise if this optimizer's step would go unprotected."""
        if any(p.requires_grad for p in self._dormant.values()):
            self._resolve(self._optimizers)
        # One penalty() covers one step of each optimizer: several may step after one backward.
        if self.needs_penalty and self.num_tasks > 0 and self._penalty_calls == self._calls_used[id(optimizer)]:
            raise ProtectionError(
                f"{type(self).__name__} acts through the loss, but this step had no penalty(): "
                "train on loss + keep.penalty(batch, outputs)"
            )
        self._calls_used[id(optimizer)] = self._penalty_calls

    def count_step(self) -> None:
        """Note that a step was observed."""
        self.meta["steps"] += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything remembered: tensors and plain values only, keyed by parameter name."""
        return pack(type(self).__name__, self.version, self.meta, self.state, self.buffers)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another instance remembered.

        Args:
            state: what :meth:`state_dict` returned; its tensors are copied.

        Raises:
            StateError: for another method's or version's state, an unknown name or another shape.
        """
        live = canonical_parameters(self.model)
        meta, per_parameter, buffers = unpack(state, type(self).__name__, self.version, live)
        self.meta, self.state, self.buffers = meta, per_parameter, buffers
        self._find_dormant()
        self._loaded()

    def _loaded(self) -> None:
        """Rebuild what is derived from the state just loaded."""


def _sizes(optimizer: Optimizer) -> list[int]:
    return [sum(p.requires_grad for p in group["params"]) for group in optimizer.param_groups]
