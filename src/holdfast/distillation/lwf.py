r"""Learning without forgetting: answer as the old model did, on the new data or on what is kept to ask about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.checks import check_not_negative, check_positive
from holdfast.distillation.asked import OWN, Asked, On
from holdfast.distillation.base import base_of, own_tensors, without_adapters
from holdfast.distillation.distance import USUAL, Way, check_distillable, distance
from holdfast.distillation.late import LastLayer
from holdfast.distillation.memory import Source
from holdfast.distillation.teacher import frozen_copy, set_tensors, tensors_of
from holdfast.distillation.words import PREFIX as WORDS
from holdfast.distillation.words import give_back_words, lend_words
from holdfast.errors import ConfigurationError, StateError
from holdfast.importance.untouched import untouched
from holdfast.names import unwrap
from holdfast.objectives import Batch, Objective, describe, meaning_of, restore
from holdfast.objectives.classification import Classification
from holdfast.objectives.directed import Direction
from holdfast.objectives.plain import Plain
from holdfast.objectives.tokens import Tokens
from holdfast.sharding import fsdp_modules
from holdfast.state import check_finite, check_form
from holdfast.wrappers import adapters_of

__all__ = ["LwF"]

_PREFIX = "teacher."


class LwF(Asked):
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
        memory: batches to ask about beside the new ones, such as ``holdfast.generations(…)``: one a step, round and
            round; or a function of the model that makes them at each ``consolidate``.
        on: where the teacher is asked: the new ``"batch"``, the ``"memory"``, or ``"both"``; by default the memory,
            where there is one.
        direction: ``"forward"`` is KL(teacher ‖ model), ``"reverse"`` the other.
        non_target: of language models: over all words but the one that is learned, renormalised.
        kl_budget: in nats per position: while KL(teacher ‖ model) on new batches is above it, the strength rises by up
            to 10 % a step, and falls again below it, never under the one given.
        cached: how many of the teacher's most probable answers to the memory are kept, all others as one; then no
            teacher is asked about it, and with ``teacher="copy"`` none is kept.
        objective: what a batch means, where ``consolidate`` is not told.

    Raises:
        ConfigurationError: for a wrong argument, or an objective whose outputs cannot be compared.
    """

    non_target: bool
    buffers: dict[str, Tensor]
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
        memory: Source | None = None,
        on: On | None = None,
        direction: Direction = "forward",
        non_target: bool = False,
        kl_budget: float | None = None,
        cached: int | None = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, memory=memory, on=on, kl_budget=kl_budget, cached=cached, objective=objective)
        self.strength: float = check_not_negative("strength", strength)
        self.temperature: float = check_positive("temperature", temperature)
        if variant not in ("paper", "released"):
            raise ConfigurationError(f"variant is {variant!r}; expected 'paper' or 'released'")
        if teacher not in ("copy", "base"):
            raise ConfigurationError(f"teacher is {teacher!r}; expected 'copy' or 'base'")
        if direction not in ("forward", "reverse"):
            raise ConfigurationError(f"direction is {direction!r}; expected 'forward' or 'reverse'")
        if not isinstance(non_target, bool):
            raise ConfigurationError(f"non_target is {non_target!r}; expected True or False")
        if cached is not None and non_target:
            raise ConfigurationError("non_target=True needs all answers of the teacher; expected cached=None")
        if cached is not None and kl_budget is not None and teacher == "copy":
            raise ConfigurationError(
                "kl_budget asks the teacher on new batches, and with cached=… and teacher='copy' none is kept; "
                "expected cached=None, or teacher='base'"
            )
        if kl_budget is not None and strength == 0:
            raise ConfigurationError("kl_budget raises a strength, which strength=0 is not; expected strength > 0")
        self.variant, self.teacher = variant, teacher
        self.direction, self.non_target = direction, non_target
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
        """λ, as raised by now to stay within a budget."""
        return self.strength * self._raised()

    def value(self) -> Tensor:
        """The penalty on the latest batch, ``[]``, in loss units, for it depends on one; 0 before there is one."""
        return super().value() if self._latest is None else self._latest

    @property
    def _way(self) -> Way:
        return Way(self.direction, self.non_target)

    @property
    def _factor(self) -> float:
        return self.temperature**2 if self.variant == "paper" else 1.0

    def _penalty(self, batch: Batch, outputs: Any) -> Tensor:
        if not self._objectives or self.strength == 0:
            return super()._penalty(batch, outputs)
        due = self._is_due(self._teacher, outputs)
        answers = list(self._answers(batch, outputs)) if due or self.on != "memory" else []
        terms = [] if self.on == "memory" else [self._term(*answer, batch) for answer in answers]
        if self.on != "batch":
            terms += self._terms_of_memory()
        value = self._within_budget(terms[0] if len(terms) == 1 else torch.stack(terms).sum())
        if due:
            # At temperature 1 the usual term is the very thing that is measured, for nothing.
            known = (
                terms[: len(answers)] if self.temperature == 1 and self._way == USUAL and self.on != "memory" else []
            )
            apart = [term.detach() / self.strength for term in known]
            self._note(torch.stack(apart or [self._apart(*answer, batch) for answer in answers]).mean())
        self._latest = value.detach()
        return value

    def _answers(self, batch: Batch, outputs: Any) -> Iterator[tuple[Objective, Tensor, Any]]:
        """Each objective, with the model's outputs and the teacher's."""
        # Objectives that go through the model in the same way share a forward pass; the one whose outputs the
        # caller has is the one of the constructor's objective, whatever keys of the batch each withholds.
        assert self._teacher is not None, "there is something to ask"
        student_raw: dict[Any, Any] = {}
        old_raw: dict[Any, Any] = {}
        if outputs is not None and isinstance(self.objective, Plain):
            for objective in self._objectives:
                if isinstance(objective, Plain) and objective.own_forward == self.objective.own_forward:
                    student_raw[objective.shared_key] = outputs
        for objective in self._objectives:
            with torch.no_grad(), self._answering():
                old = self._old_outputs(objective, self._teacher, batch, old_raw)
            yield objective, _outputs(objective, self.model, batch, student_raw), old

    def _term(self, objective: Objective, student: Tensor, old: Any, batch: Batch) -> Tensor:
        return distance(
            objective,
            student,
            old,
            batch,
            temperature=self.temperature,
            factor=self._factor,
            strength=self.strength,
            way=self._way,
        )

    @torch.no_grad()
    def _apart(self, objective: Objective, student: Tensor, old: Any, batch: Batch) -> Tensor:
        """How far the model is from its teacher, whatever distance it is trained on."""
        return distance(objective, student.detach(), old, batch, temperature=1.0, factor=1.0, strength=1.0)

    def _terms_of_memory(self) -> list[Tensor]:
        place, batch = self._next_of_memory()
        if self.cached is None:
            return [self._term(*answer, batch) for answer in self._answers(batch, None)]
        objective = self._objectives[0]
        student = _outputs(objective, self.model, batch, {})
        found = self._looked_up(objective, student, place, batch, self.temperature, self.direction)
        return [self.strength * self._factor * found]

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        check_distillable(objective, self._way)
        teacher = self._new_teacher()
        new = meaning_of(objective)
        objectives = self._objectives
        if not any(meaning_of(known).covers(objective) for known in objectives):
            objectives = [known for known in objectives if not new.covers(known)] + [objective]
        if self.cached is not None and not (len(objectives) == 1 and isinstance(new, Tokens | Classification)):
            raise ConfigurationError(
                f"cached keeps answers to one objective of words or classes, but there are {len(objectives)}, the "
                f"latest {new.named}; expected cached=None"
            )
        memory, kept = self._filled(lambda batch: self._taught(objective, teacher, batch), objective, self.temperature)
        held = {} if teacher is None else self._held(teacher)
        check_finite(type(self).__name__, {}, {**held, **kept})
        self._memory, self._objectives = memory, objectives
        self.meta["objectives"] = [describe(known) for known in self._objectives]
        self.buffers = kept
        self._teach(teacher)

    def copied(self) -> Mapping[str, Tensor]:
        """All of the model: its teacher is a copy."""
        return tensors_of(unwrap(self.model))

    def kept_as(self, dtype: torch.dtype) -> torch.dtype:
        """Its teacher's is the model's own."""
        return dtype

    def _new_teacher(self) -> nn.Module | None:
        if self.teacher == "base":
            return base_of(self.model)
        return frozen_copy(self.model) if self.cached is None else None

    def _taught(self, objective: Objective, teacher: nn.Module | None, batch: Batch) -> Tensor:
        """What a teacher answers; one that is not kept is the model as it is."""
        asked = unwrap(self.model) if teacher is None else teacher
        off = without_adapters(asked) if self.teacher == "base" and adapters_of(asked) else nullcontext()
        with untouched(asked, ()), off, torch.no_grad():
            return objective.outputs(asked, batch)

    def _teach(self, teacher: nn.Module | None) -> None:
        self._teacher, self._last_layer = teacher, LastLayer()
        self.buffers = self._kept() | ({} if teacher is None else self._held(teacher))
        self._found_again()

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
        if (cached := state["meta"].get("cached")) != self.cached:
            raise StateError(f"the state is of LwF(cached={cached!r}), but this one has cached={self.cached!r}")
        teacher = None
        if state["meta"].get("num_tasks", 0) > 0:
            teacher = self._new_teacher()
            known = {} if teacher is None else tensors_of(teacher)
            for name in state["buffers"]:
                if not name.startswith((WORDS, *OWN)) and name.removeprefix(_PREFIX) not in known:
                    what = f"the state holds {name!r}, but the model has no {name.removeprefix(_PREFIX)!r}"
                    if adapters_of(self.model) is not None:
                        what += ": adapters were put in since; consolidate with them in, or use teacher='base'"
                    raise StateError(what)
        super()._load(state, ())
        self.meta["teacher"] = self.teacher
        self._objectives = found
        self._teacher = None
        if teacher is not None:
            self._teach_as_held(teacher)
        self._go_on(state["meta"])

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
