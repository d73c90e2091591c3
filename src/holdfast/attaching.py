"""Which parameters a method protects, and in whose steps: what it is attached to, and what a step must not lack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.swa_utils import AveragedModel

from holdfast.dispatch import PHASES_AFTER, PHASES_BEFORE, Dispatcher, Step, unwrap_optimizer
from holdfast.errors import ConfigurationError, ProtectionError
from holdfast.guards import PenaltyCalls, warn
from holdfast.names import Select, canonical_parameters, selected, selected_rows
from holdfast.parts import Rows, filled_up, rows_of, within
from holdfast.sharding import check_able, check_flat_shards, is_sharded, local
from holdfast.state import check_fits, placed_like
from holdfast.travelling import Traveller
from holdfast.watching import StepWatch
from holdfast.wrappers import is_schedule_free

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Attached"]


class Attached(Traveller):
    """The half of a :class:`~holdfast.Method` that training steps meet.

    Args:
        model: the model to protect.
        select: which trainable parameters to protect.
    """

    on_shards: ClassVar[bool] = False  # whether it works on parts of parameters: see holdfast.sharding
    acts_on_gradients: ClassVar[bool] = True  # a parameter without one is none of its business
    puts_back: ClassVar[bool] = False  # whether weights stand where it says after each step
    bounds: ClassVar[bool] = False  # whether it says how large any weight may be, and protects none that was learned
    reparametrises: bool = False  # whether the model computes weights from others: even a first task trains otherwise
    of_batch: ClassVar[bool] = True  # whether its term in the loss is a mean over the batch
    order: ClassVar[int] = 0  # within a phase, lower runs first; equal ones run by name

    def __init__(self, model: nn.Module, select: Select) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigurationError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        self.model = model
        self._select = select
        self.params: dict[str, nn.Parameter] = selected(model, select)
        self._rows: dict[str, Rows] = selected_rows(model, select)
        self.state: dict[str, dict[str, Tensor]] = {}
        self.buffers: dict[str, Tensor] = {}
        self.meta: dict[str, Any] = {"num_tasks": 0, "steps": 0}
        self._penalty_calls = PenaltyCalls()
        self._warned: set[str] = set()  # since the latest consolidate
        self._optimizers: tuple[Optimizer, ...] = ()
        self._owned: dict[int, list[str]] = {}
        self._at_work: dict[int, frozenset[int]] = {}  # optimizer -> its trainable parameters when last looked up
        self._dormant: dict[str, nn.Parameter] = {}  # remembered, but frozen when they were last looked up
        self._watch: StepWatch | None = None
        self._share: float | None = None

    @property
    @final
    def num_tasks(self) -> int:
        """How many tasks are protected; 0: nothing is, and training is left exactly as it is."""
        return int(self.meta["num_tasks"])

    @property
    def needs_penalty(self) -> bool:
        """Whether training must add :meth:`penalty` to its loss."""
        return False

    @property
    def divergence(self) -> float | None:
        """How far the model is from its teacher on new data, in nats; ``None`` for a method that has none."""
        return None

    @property
    def elementwise(self) -> bool:
        """Whether nothing but single weights is looked at, never a whole tensor or what a model computes."""
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

    @final
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
            if isinstance(optimizer, LBFGS) and not self._repeats():
                raise ConfigurationError(
                    f"LBFGS evaluates its closure several times a step, in which {type(self).__name__} has one part; "
                    "use an optimizer that evaluates it once, or a penalty that is in the loss (coupling='loss')"
                )
            self._check_optimizer(optimizer)
            present = Dispatcher.find(optimizer)
            for other in () if present is None else present.methods:
                if isinstance(other, Attached) and other is not self:
                    self._check_companion(other)
                    other._check_companion(self)
        self._resolve(inner)
        for optimizer in self._optimizers:
            Dispatcher.of(optimizer).remove(self)
        self._optimizers = inner
        for optimizer in inner:
            Dispatcher.of(optimizer).add(self)
        return self

    @final
    def detach(self) -> None:
        """Leave the optimizers; what is remembered stays."""
        for optimizer in self._optimizers:
            Dispatcher.of(optimizer).remove(self)
        self._optimizers = ()
        self._owned = {}
        self._penalty_calls.follow((), ())
        self._detached()

    def _detached(self) -> None:
        """Let go of what only the steps needed."""

    def _loaded(self) -> None:
        """Rebuild what is derived from the state just loaded, or placed elsewhere."""

    def _repeats(self) -> bool:
        """Whether a step may evaluate the loss several times: nothing is done to it but by a term in that loss."""
        return self.needs_penalty and all(self.phase(name) is None for name in PHASES_BEFORE + PHASES_AFTER)

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that this method cannot protect."""
        if self.puts_back and is_schedule_free(optimizer):
            raise ConfigurationError(
                f"{type(self).__name__} puts weights back after each step, and {type(optimizer).__name__} computes "
                "what is evaluated from others that it keeps; expected an optimizer that steps the weights themselves"
            )

    def _check_companion(self, other: Attached) -> None:
        """Refuse a method that cannot share an optimizer with this one."""

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        """Look the parameters up again: wrappers replace them, and new ones appear."""
        params = selected(self.model, self._select)
        rows = selected_rows(self.model, self._select)
        live = canonical_parameters(self.model)
        check_fits(self.state, live, rows)
        check_flat_shards(type(self).__name__, self.model.modules(), able=self.elementwise)
        check_able(type(self).__name__, params, able=self.on_shards)
        if (placed := placed_like(self.state, live)) is not self.state:
            self.state = placed
            self._loaded()
        owned = {}
        for optimizer in optimizers:
            ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
            owned[id(optimizer)] = [name for name, p in params.items() if id(p) in ids]
        covered = {name for names in owned.values() for name in names}
        missing = [name for name in params if optimizers and name not in covered]
        if missing:
            raise ProtectionError(
                f"parameter {missing[0]!r} ({len(missing)} in all) is trainable, but in none of the optimizers: "
                f"add it to one, or leave it out with select={_average(self.model)}"
            )
        self.params, self._owned, self._rows = params, owned, rows
        self._at_work = {id(optimizer): _at_work(optimizer) for optimizer in optimizers}
        if self.needs_penalty:
            # FSDP2 calls the hooks of a sharded parameter itself, once more in a backward pass.
            self._penalty_calls.follow(optimizers, [p for p in params.values() if p.is_leaf and not is_sharded(p)])
        self._find_dormant()

    def scope(self, name: str, tensor: Tensor | None = None) -> Tensor:
        """What is selected of a parameter, as a view.

        Args:
            name: of the parameter.
            tensor: its gradient, or another tensor ``[*p]`` of it; by default its weights, without their graph.
        """
        return rows_of(self.params[name].detach() if tensor is None else tensor, self._rows.get(name))

    def block(self, name: str, tensor: Tensor | None = None, kind: str = "anchor") -> Tensor:
        """What something that is remembered of a parameter lies on, as a view: the rest may have grown since.

        Args:
            name: of the parameter.
            tensor: as for :meth:`scope`.
            kind: of what is remembered.
        """
        found = self.params[name].detach() if tensor is None else tensor
        if is_sharded(self.params[name]):
            return found
        return within(found, self.state[name][kind], self._rows[name][0] if name in self._rows else 0)

    def part(self, name: str, tensor: Tensor | None = None, kind: str = "anchor") -> Tensor:
        """What of :meth:`block` this process holds."""
        return local(self.block(name, tensor, kind))

    def _neutral(self, kind: str) -> float | None:
        """What is remembered of an entry that is new, so that it is free; ``None``: where it is now."""
        return None if kind == "anchor" else 0.0

    def _fill_up(self, names: Iterable[str]) -> None:
        """Have what is remembered of parameters that have grown take their new shapes, the rest of it free."""
        for name in names:
            if name in self.state and name in self.params:
                here = self.scope(name)
                held = {kind: filled_up(t, here, self._neutral(kind)) for kind, t in self.state[name].items()}
                if any(held[kind] is not t for kind, t in self.state[name].items()):
                    self.state[name] = held

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

    @contextmanager
    def _watching(self) -> Iterator[None]:
        assert self._watch is None, "a step that is watched already"
        self._watch = StepWatch()
        try:
            self._rearrange()
            yield
            self._share = self._watch.share()
        finally:
            self._watch = None
            self._rearrange()

    def _rearrange(self) -> None:
        for optimizer in self._optimizers:
            Dispatcher.of(optimizer).rearrange()

    @property
    def watching(self) -> bool:
        """Whether the step under way is measured."""
        return self._watch is not None

    @final
    def watch(self) -> AbstractContextManager[None]:
        """Measure this method's share of the step taken in this context: see :mod:`holdfast.watching`.

        It has the step wait for the device, and takes the memory of a few copies of the model: watch now and then.
        """
        return self._watching()

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Where the method stands within a phase, whatever the order of attaching."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str) and not k.startswith("_")}
        settings = repr((sorted(plain.items()), sorted(self._rows.items())))
        return (self.order, type(self).__name__, settings, " ".join(self.params))

    @final
    def phase(self, name: str) -> Callable[[Step], None] | None:
        """The method's part in a phase, or ``None`` if it has none."""
        part = None if getattr(type(self), name) is getattr(Attached, name) else getattr(self, name)
        return part if self._watch is None else self._watch.around(name, part)

    @final
    def check_step(self, optimizer: Optimizer) -> None:
        """Raise if this optimizer's step would go unprotected."""
        more = _at_work(optimizer) - self._at_work[id(optimizer)]  # what is new counts from its first step on
        if more or any(p.requires_grad for p in self._dormant.values()):
            self._resolve(self._optimizers)
        if self.num_tasks == 0:
            self._penalty_calls.passed(optimizer)
            return
        if self.needs_penalty:
            noticed = self._penalty_calls.check(type(self).__name__, optimizer)
        else:
            noticed = self._untouched(optimizer)
        if noticed is not None:
            self._warn(noticed)

    def _warn(self, noticed: str) -> None:
        """Warn, once between one consolidate and the next."""
        if noticed not in self._warned:
            self._warned.add(noticed)
            warn(noticed)

    def _untouched(self, optimizer: Optimizer) -> str | None:
        """What is wrong with a step in which nothing that is remembered has a gradient."""
        owned = self._owned.get(id(optimizer), ())
        held = [name for name in owned if name in self.state]
        if not self.acts_on_gradients or not self.state or (len(self._optimizers) > 1 and not held):
            return None
        if any(self.params[name].grad is not None for name in held):
            return None
        if not any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            return None
        return (
            f"{type(self).__name__} protects nothing in a step in which nothing that it remembers has a gradient (such "
            f"as {next(iter(self.state))!r}): what is trained is new, and the rest is frozen or does not take part"
        )

    @final
    def count_step(self) -> None:
        """Note that a step was observed."""
        self.meta["steps"] += 1


def _at_work(optimizer: Optimizer) -> frozenset[int]:
    return frozenset(id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad)


def _average(model: nn.Module) -> str:
    if not isinstance(model, AveragedModel):
        return ""
    return " (the model is an AveragedModel, whose weights no optimizer trains: protect the one that is averaged)"
