"""The one interface: what must be remembered, and where a training step is changed."""

from __future__ import annotations

import abc
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError, DataError, ProtectionError, StateError
from holdfast.guards import PenaltyCalls, check_scale
from holdfast.names import Select, canonical_parameters
from holdfast.objectives import Batch, Objective, as_objective
from holdfast.processes import in_step
from holdfast.rebinding import Rebinding
from holdfast.sharding import check_flat_shards, is_flat, local, total, zero
from holdfast.sizes import Sized
from holdfast.state import check_finite, check_something, pack, unpack
from holdfast.watching import Watched
from holdfast.wrappers import is_schedule_free

__all__ = ["Method", "Step"]

# What is final, and where a method of one's own says what it has to say instead.
_FINAL = {
    "penalty": "_penalty",
    "consolidate": "_prepare, _remember, _settle or _begin_anew",
    "attach": "_check_optimizer or _resolve",
    "detach": "_detached",
    "state_dict": "state, buffers and meta",
    "load_state_dict": "_load or _loaded",
    "travels_with": "state, buffers and meta",
    "carried": "state, buffers and meta",
    "recall": "_load or _loaded",
    "watch": "the phases",
    "watched": "current_strength, found_strengths, measured_steps or _distance",
    "phase": "the phases",
    "check_step": "needs_penalty",
    "count_step": "observe_update",
    "num_tasks": "meta",
}


class Method(Rebinding, Sized, abc.ABC):
    """What must be remembered, and where a training step is changed.

    A subclass fills :meth:`_remember` and the phases that it takes part in. What is marked as final cannot be
    overridden: its checks hold for every method.
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

    objective: Objective
    meta: dict[str, Any]
    state: dict[str, dict[str, Tensor]]
    buffers: dict[str, Tensor]
    version: ClassVar[int] = 1
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True  # whether a task is learned by steps, which consolidate then asks for
    auto_fraction: ClassVar[float | None] = None  # of the task's gradient, for strength="auto"; None: it has none

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse an override of what is final.

        Raises:
            ConfigurationError: naming it, and what to fill instead.
        """
        super().__init_subclass__(**kwargs)
        for name, instead in _FINAL.items():
            if inspect.getattr_static(cls, name) is not inspect.getattr_static(Method, name):
                raise ConfigurationError(f"{cls.__name__} overrides {name}, which is final in Method; fill {instead}")

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select)
        self.objective = as_objective(objective, model)

    @property
    def current_strength(self) -> float | None:
        """What the method's term is multiplied by now; ``None`` for a method that has no strength."""
        return None

    @property
    def found_strengths(self) -> list[float]:
        """What ``strength="auto"`` found, task by task; empty where the strength was given."""
        return []

    @property
    def measured_steps(self) -> int:
        """How many steps of each new task ``strength="auto"`` takes without protection; 0 for a strength given."""
        return 0

    @property
    def fullness(self) -> dict[str, float]:
        """Name -> the share of a weight's room to learn that is taken; empty where a change is only made dear."""
        return {}

    def value(self) -> Tensor:
        """The penalty now, ``[]``, in loss units, whatever the coupling; 0 for a method that has none."""
        return zero(self.params)

    @final
    def penalty(self, batch: Batch = None, outputs: Any = None, *, scale: float | Tensor = 1.0) -> Tensor:
        """A term for the loss, where it must be there; 0 for methods that act on the weights.

        Args:
            batch: the batch that the loss was computed on.
            outputs: what the model returned for it, to spare a second forward pass.
            scale: what the term is multiplied by: where one step accumulates several micro-batches, this one's share of
                them all. The shares of a step sum to 1: ``1 / K`` for K equal ones, and where a loss is divided by the
                tokens (or samples) of the whole step, this micro-batch's tokens divided by these.

        Returns:
            Scalar ``[]``, in loss units.

        Raises:
            ConfigurationError: for a scale that is negative, not finite, or no scalar.
        """
        check_scale(scale)
        value = self._penalty(batch, outputs) * scale
        if self._watch is not None and value.requires_grad:
            self._watch.term(value, canonical_parameters(self.model).values())
        self._penalty_calls.note(value)
        return value

    @property
    def penalty_calls(self) -> PenaltyCalls:
        """The terms that training asked for so far, for whoever adds them in a user's place."""
        return self._penalty_calls

    def _penalty(self, batch: Batch, outputs: Any) -> Tensor:
        return zero(self.params)

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

    @final
    def watched(self) -> Watched:
        """What is to be seen of the method at work, whatever it is: share, distances, strengths."""
        distances = {name: self._distance(name) for name in self.state}
        return Watched(
            share=self._share,
            distance={name: float(distance) for name, distance in distances.items() if distance is not None},
            strength=self.current_strength,
            strengths=tuple(self.found_strengths),
            unprotected_steps=self.measured_steps,
        )

    def _distance(self, name: str) -> Tensor | None:
        """How far a parameter is from its anchor, ``[]``; ``None`` where it has none, or is not trained."""
        anchor = self.state[name].get("anchor")
        if anchor is None or name not in self.params:
            return None
        p, here = self.params[name].detach(), self.part(name)
        return total([(here.double() - local(anchor).to(here.device).double()).square().sum()], [p]).sqrt()

    @final
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
        if self.trains and self.num_tasks == 0 and self._optimizers and self.meta["steps"] == 0:
            raise ProtectionError(
                f"{type(self).__name__} is attached and saw no optimizer step: is another model trained, or by another "
                "optimizer (a copy, a Trainer with model_init)? A model that is trained already is protected by "
                "consolidate first, attach then"
            )
        if self.trains and self.num_tasks > 0 and self.meta["steps"] == 0:
            raise ProtectionError(
                f"{type(self).__name__} saw no optimizer step since its last consolidate: call attach(optimizer) "
                "with the optimizer that really trains (a copied one loses its hooks)"
            )
        known = self.objective if objective is None else as_objective(objective, self.model)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ConfigurationError(f"generator is {generator!r}; expected a torch.Generator or None")
        for optimizer in self._optimizers:
            if is_schedule_free(optimizer) and any(group.get("train_mode") for group in optimizer.param_groups):
                raise ProtectionError(
                    f"{type(optimizer).__name__} is in training mode, whose weights are not those that are evaluated: "
                    "call optimizer.eval() before consolidate, and optimizer.train() after it"
                )
        self._prepare()
        try:
            self._take_in(batches, known, generator)
        finally:
            self._settle()

    def _take_in(self, batches: Iterable[Batch], known: Objective, generator: torch.Generator | None) -> None:
        if self.needs_data:
            batches = self._at_least_one(batches)
        self._resolve(self._optimizers)
        before = dict(self.meta), {name: dict(held) for name, held in self.state.items()}, dict(self.buffers)
        self._fill_up(self.state)
        try:
            with self._as_computed():
                self._remember(batches, known, generator)
            check_finite(type(self).__name__, self.state, self.buffers)
            check_something(type(self).__name__, self.state)
        except BaseException:
            self.meta, self.state, self.buffers = before
            self._loaded()
            raise
        del before  # what was replaced makes room for what begins anew
        self._begin_anew()
        self._warned.clear()
        self.meta["num_tasks"] = self.num_tasks + 1
        self.meta["steps"] = 0

    def _prepare(self) -> None:
        """Refuse to consolidate, or get ready for it."""

    def _settle(self) -> None:
        """Put things in order after consolidate, whether it could remember or not."""

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

    @final
    def state_dict(self) -> dict[str, Any]:
        """Everything remembered: tensors and plain values only; where it is sharded, all processes must ask for it."""
        check_flat_shards(f"{type(self).__name__}.state_dict()", self.model.modules())
        return pack(type(self).__name__, self.version, self._saved_meta(), self.state, self.buffers)

    @final
    def load_state_dict(self, state: dict[str, Any], *, objectives: Sequence[Objective] = ()) -> None:
        """Take over what another instance remembered.

        Args:
            state: what :meth:`state_dict` returned; its tensors are copied.
            objectives: for a method that keeps each task's objective, those that cannot be saved (with a ``forward`` or
                of your own making), in the order in which they were consolidated.

        Raises:
            StateError: for another method's or version's state, an unknown name or another shape, or if an objective
                that cannot be saved is missing.
        """
        self._load(state, objectives)

    @property
    def travel_key(self) -> tuple[Any, ...]:
        """Where it stands among other methods of its class in an optimizer's state, whatever the order of attaching."""
        return (type(self).__name__, " ".join(self.params), self.sort_key)

    @property
    def is_blank(self) -> bool:
        """Whether it has neither learned nor loaded anything."""
        return self.num_tasks == 0 and self.meta["steps"] == 0

    @final
    def travels_with(self, optimizer: Optimizer) -> bool:
        """Whether its memory is part of this optimizer's state: of several, the first carries it."""
        return bool(self._optimizers) and self._optimizers[0] is optimizer

    @final
    def carried(self) -> dict[str, Any] | None:
        """What the optimizer's state carries: as :meth:`state_dict`, but sharded as the parameters are."""
        name = type(self).__name__
        if is_flat(self.model.modules()):
            self._warn(f"under FSDP1 the optimizer's state does not carry what {name} remembers: use fully_shard")
            return None
        return pack(name, self.version, self._saved_meta(), self.state, self.buffers, gather=False)

    @final
    def recall(self, saved: Mapping[str, Any]) -> None:
        """Take over what :meth:`carried` returned; objectives that cannot be saved are those known here."""
        self.load_state_dict(dict(saved), objectives=self._known_objectives(saved))

    def _known_objectives(self, saved: Mapping[str, Any]) -> Sequence[Objective]:
        """The objectives that a state asks for, as far as they are at hand."""
        return ()

    def _load(self, state: dict[str, Any], objectives: Sequence[Objective]) -> None:
        if objectives:
            raise StateError(f"load_state_dict got {len(objectives)} objectives, but {type(self).__name__} keeps none")
        live = canonical_parameters(self.model)
        self.meta, self.state, self.buffers = unpack(state, type(self).__name__, self.version, live, self._rows)
        self._find_dormant()
        self._loaded()
