r"""Learning without forgetting: answer as the old model did, on the new data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.checks import check_not_negative, check_positive
from holdfast.distillation.base import base_of, own_tensors, without_adapters
from holdfast.distillation.distance import check_distillable, distance
from holdfast.distillation.late import LastLayer
from holdfast.distillation.teacher import frozen_copy, set_tensors, tensors_of
from holdfast.distillation.words import PREFIX as WORDS
from holdfast.distillation.words import give_back_words, lend_words
from holdfast.errors import ConfigurationError, StateError
from holdfast.method import Method
from holdfast.names import unwrap
from holdfast.objectives import Batch, Objective, describe, meaning_of, restore
from holdfast.objectives.plain import Plain
from holdfast.objectives.tokens import Tokens
from holdfast.sharding import fsdp_modules
from holdfast.state import check_finite, check_form
from holdfast.wrappers import adapters_of

__all__ = ["LwF"]

_PREFIX = "teacher."


class LwF(Method):
    r"""Distillation of the model as it was after the last task, on the outputs of each old task.

    .. math:: \lambda T^2 \sum_{k} \tfrac1B \sum_b \mathrm{KL}\bigl(
        \mathrm{softmax}(f^*_k(x_b) / T) \,\Vert\, \mathrm{softmax}(f_k(x_b) / T)\bigr)

    Source: Li and Hoiem 2016, arXiv:1606.09282, eq. 2; the factor :math:`T^2` is that of Hinton et al. 2015,
    arXiv:1503.02531, and keeps the gradient's size whatever the temperature. Differs: the KL divergence, which
    has the gradient of their cross-entropy and is 0 where nothing was forgotten; no warm-up of a new head.

    The sum runs over the old tasks' objectives, each with its own outputs (a head, or some columns). An objective
    whose outputs are all among another's is covered by it: shared outputs (domain-incremental) are distilled once,
    growing ``classes`` (class-incremental) as one softmax over all classes seen so far.

    Args:
        model: the model to protect. A frozen copy of it, in eval mode, is kept from each ``consolidate`` on; see
            ``teacher``.
        strength: λ, >= 0; 1 weighs the old model's answers like labels.
        temperature: T, > 0.
        teacher: ``"copy"``, or ``"base"``: no second set of weights. With adapters of PEFT in the model the old answers
            are its own with the adapters off, whatever task was learned since: an anchor to the base. Without, what
            is frozen at ``consolidate`` is shared with the teacher, and only the rest is copied.
        variant: ``"released"`` leaves :math:`T^2` out, as the ANPyC release and FACIL do: their λ is T² times ours.
        objective: what a batch means, where ``consolidate`` is not told.

    Raises:
        ConfigurationError: for a wrong argument, or an objective whose outputs cannot be compared.
    """

    on_shards: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float,
        temperature: float = 2.0,
        teacher: Literal["copy", "base"] = "copy",
        variant: Literal["paper", "released"] = "paper",
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, objective=objective)
        self.strength = check_not_negative("strength", strength)
        self.temperature = check_positive("temperature", temperature)
        if variant not in ("paper", "released"):
            raise ConfigurationError(f"variant is {variant!r}; expected 'paper' or 'released'")
        if teacher not in ("copy", "base"):
            raise ConfigurationError(f"teacher is {teacher!r}; expected 'copy' or 'base'")
        self.variant, self.teacher = variant, teacher
        self._teacher: nn.Module | None = None
        self._last_layer = LastLayer()
        self._objectives: list[Objective] = []
        self._latest: Tensor | None = None
        self.meta["objectives"] = []
        self.meta["teacher"] = teacher

    @property
    def needs_penalty(self) -> bool:
        """Always: distillation acts through the loss."""
        return True

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is distilled: one objective per set of old outputs."""
        return tuple(self._objectives)

    @property
    def current_strength(self) -> float:
        """λ."""
        return self.strength

    def value(self) -> Tensor:
        """The penalty on the latest batch, ``[]``, in loss units, for it depends on one; 0 before there is one."""
        return super().value() if self._latest is None else self._latest

    def _penalty(self, batch: Batch, outputs: Any) -> Tensor:
        if self._teacher is None or self.strength == 0:
            return super()._penalty(batch, outputs)
        # Objectives that go through the model in the same way share a forward pass; the one whose outputs the
        # caller has is the one of the constructor's objective, whatever keys of the batch each withholds.
        student_raw: dict[Any, Any] = {}
        old_raw: dict[Any, Any] = {}
        if outputs is not None and isinstance(self.objective, Plain):
            for objective in self._objectives:
                if isinstance(objective, Plain) and objective.own_forward == self.objective.own_forward:
                    student_raw[objective.shared_key] = outputs
        factor = self.temperature**2 if self.variant == "paper" else 1.0
        terms = []
        for objective in self._objectives:
            with torch.no_grad(), self._answering():
                old = self._old_outputs(objective, self._teacher, batch, old_raw)
            student = _outputs(objective, self.model, batch, student_raw)
            terms.append(
                distance(
                    objective, student, old, batch, temperature=self.temperature, factor=factor, strength=self.strength
                )
            )
        value = terms[0] if len(terms) == 1 else torch.stack(terms).sum()
        self._latest = value.detach()
        return value

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        check_distillable(objective)
        teacher = self._new_teacher()
        check_finite(type(self).__name__, {}, self._held(teacher))
        new = meaning_of(objective)
        if not any(meaning_of(known).covers(objective) for known in self._objectives):
            self._objectives = [known for known in self._objectives if not new.covers(known)] + [objective]
        self.meta["objectives"] = [describe(known) for known in self._objectives]
        self._teach(teacher)

    def _new_teacher(self) -> nn.Module:
        return base_of(self.model) if self.teacher == "base" else frozen_copy(self.model)

    def _teach(self, teacher: nn.Module) -> None:
        self._teacher, self._last_layer = teacher, LastLayer()
        self.buffers = self._held(teacher)

    def _held(self, teacher: nn.Module) -> dict[str, Tensor]:
        own = own_tensors(teacher, self.model) if self.teacher == "base" else tensors_of(teacher)
        return {_PREFIX + name: tensor.detach() for name, tensor in own.items()}

    def _look_for_base(self, teacher: nn.Module) -> None:
        """Refuse a model whose base cannot be asked any more."""
        if adapters_of(teacher) is None:
            own_tensors(teacher, self.model)
        else:
            self._teacher = base_of(self.model)

    def _answering(self) -> AbstractContextManager[None]:
        """The teacher as it was, while it is asked."""
        model = unwrap(self.model)
        return without_adapters(model) if self._teacher is model else nullcontext()

    def _old_outputs(self, objective: Objective, model: nn.Module, batch: Batch, raw: dict[Any, Any]) -> Any:
        """The teacher's outputs; those of tokens it need not finish."""
        if not isinstance(objective, Tokens):
            return _outputs(objective, model, batch, raw)
        key = ("unfinished", objective.shared_key)
        if key not in raw:
            raw[key] = self._last_layer.outputs(objective, model, batch)
        return raw[key]

    def _known_objectives(self, saved: Mapping[str, Any]) -> Sequence[Objective]:
        wanted = [d["type"] for d in saved["meta"].get("objectives", []) if d.get("kind") == "given"]
        for known in (self._objectives, [self.objective]):
            found = [(d["type"], o) for o in known if (d := describe(o)).get("kind") == "given"]
            if [kind for kind, _ in found] == wanted:
                return [objective for _, objective in found]
        return ()

    def _load(self, state: dict[str, Any], objectives: Sequence[Objective]) -> None:
        check_form(state, type(self).__name__, self.version)
        found = restore(state["meta"].get("objectives", []), objectives)
        kind = state["meta"].get("teacher", "copy")
        if kind != self.teacher:
            raise StateError(f"the state is of LwF(teacher={kind!r}), but this one has teacher={self.teacher!r}")
        teacher = None
        if state["meta"].get("num_tasks", 0) > 0:
            teacher = self._new_teacher()
            known = tensors_of(teacher)
            for name in state["buffers"]:
                if not name.startswith(WORDS) and name.removeprefix(_PREFIX) not in known:
                    raise StateError(f"the state holds {name!r}, but the model has no {name.removeprefix(_PREFIX)!r}")
        super()._load(state, ())
        self.meta["teacher"] = self.teacher
        self._objectives = found
        self._teacher = None
        if teacher is not None:
            self._teach_as_held(teacher)

    def _teach_as_held(self, teacher: nn.Module) -> None:
        # What is not held belongs to a model that has grown since: no old task's outputs pass through it.
        held = self.buffers
        old = {name.removeprefix(_PREFIX): tensor for name, tensor in held.items() if name.startswith(_PREFIX)}
        set_tensors(teacher, old)
        self._teach(teacher)
        lent = {name: rows for name, rows in held.items() if name.startswith(WORDS)}
        give_back_words(teacher, lent)
        self.buffers |= lent

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        if self._teacher is None:
            return
        if self.teacher == "base":
            self._look_for_base(self._teacher)
        if fsdp_modules(self.model) and not fsdp_modules(self._teacher):
            self._teach_as_held(frozen_copy(self.model))  # the model was sharded since
        lend_words(self._teacher, self.model, self.buffers)


def _outputs(objective: Objective, model: nn.Module, batch: Batch, raw: dict[Any, Any]) -> Tensor:
    """An objective's outputs; ``raw`` holds what the model has returned for this batch, by way of calling it."""
    if not isinstance(objective, Plain):
        return objective.outputs(model, batch)
    key = objective.shared_key
    if key not in raw:
        raw[key] = objective.forward(model, batch)
    return objective.select(raw[key])
