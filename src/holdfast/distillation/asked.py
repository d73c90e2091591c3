"""The half of a distillation that knows where its teacher is asked, and how far from it the model has come."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed
from torch import Tensor, nn

from holdfast.checks import check_count, check_positive
from holdfast.distillation import cached as answers_kept
from holdfast.distillation.budget import adapted_factor
from holdfast.distillation.memory import PREFIX, Memory, Source
from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.objectives import Batch, Objective, meaning_of
from holdfast.objectives.directed import Direction
from holdfast.objectives.positions import Positions
from holdfast.processes import several

__all__ = ["OWN", "Asked", "On"]

On: TypeAlias = Literal["batch", "memory", "both"]

_RAISED = "budget.factor"
OWN = (PREFIX, answers_kept.PREFIX, _RAISED)  # what of a state's buffers is kept here
_EVERY = 10  # steps between two measurements where nothing depends on them


class Asked(Method):
    """A method that compares the model with a teacher: on new batches, on a memory, or on both.

    Args:
        model: the model to protect.
        memory: batches to ask about, or a function of the model that makes them at each ``consolidate``.
        on: where the teacher is asked.
        kl_budget: how far from the teacher the model may come on new batches before the strength rises, in nats.
        cached: how many of the teacher's most probable answers to the memory are kept.
        objective: what a batch means.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    kl_budget: float | None

    def __init__(
        self,
        model: nn.Module,
        *,
        memory: Source | None,
        on: On | None,
        kl_budget: float | None,
        cached: int | None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None,
    ) -> None:
        super().__init__(model, objective=objective)
        if on not in ("batch", "memory", "both", None):
            raise ConfigurationError(f"on is {on!r}; expected 'batch', 'memory' or 'both'")
        if on in ("memory", "both") and memory is None:
            raise ConfigurationError(
                f"on={on!r} asks about a memory; expected memory=, such as holdfast.generations(…)"
            )
        if on == "batch" and memory is not None:
            raise ConfigurationError("on='batch' asks about no memory; expected on='memory' or 'both', or memory=None")
        check_count("cached", cached)
        if cached is not None and (memory is None or on == "both"):
            raise ConfigurationError("cached keeps answers to a memory; expected memory=, and on='memory'")
        self.on: On = on or ("batch" if memory is None else "memory")
        self.kl_budget = None if kl_budget is None else check_positive("kl_budget", kl_budget)
        self.cached = cached
        self._memory = None if memory is None else Memory(memory)
        self._starts: list[int] = []
        self._divergence: Tensor | None = None
        self._asked = 0
        if cached is not None:
            self.meta["cached"] = cached

    @property
    def divergence(self) -> float | None:
        """KL(teacher ‖ model) on the latest new batch that was measured, in nats per position; ``None`` before one.

        It is measured at temperature 1 in the first ten and then every tenth ``penalty`` (in each, where there is a
        budget), and predicts forgetting better than distances between weights do.
        """
        return None if self._divergence is None else float(self._divergence)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.params.values())).device

    def _raised(self) -> float:
        """What the strength is multiplied by now."""
        return float(self.buffers[_RAISED]) if _RAISED in self.buffers else 1.0

    def _within_budget(self, term: Tensor) -> Tensor:
        """A term at the strength of now."""
        raised = self.buffers.get(_RAISED)
        return term if raised is None else term * raised.to(term)

    def _is_due(self, teacher: nn.Module | None, outputs: Any) -> bool:
        """Whether how far the model has come is to be measured on a new batch.

        Raises:
            ConfigurationError: if it has to be, and cannot.
        """
        if not torch.is_grad_enabled() or teacher is None:
            return False
        if self.on == "memory" and outputs is None:
            if self.kl_budget is not None:
                raise ConfigurationError(
                    "kl_budget is measured on the new batch; expected keep.penalty(batch, outputs) with what the model "
                    "returned for it"
                )
            return False
        self._asked += 1
        return self.kl_budget is not None or self._asked <= _EVERY or self._asked % _EVERY == 0

    def _note(self, divergence: Tensor) -> None:
        """Take a measurement into account, from the next step on."""
        self._divergence = divergence
        if self.kl_budget is not None:
            if several():  # or each process would have a strength of its own
                divergence = divergence.clone()
                torch.distributed.all_reduce(divergence)
                divergence /= torch.distributed.get_world_size()
            self.buffers[_RAISED] = adapted_factor(self.buffers[_RAISED], divergence, self.kl_budget)

    def _filled(
        self, answers: Callable[[Batch], Tensor], objective: Objective, temperature: float
    ) -> tuple[Memory | None, dict[str, Tensor]]:
        """The memory at its beginning, and what there is to keep of it.

        Args:
            answers: of the teacher, to a batch.
            objective: whose they are.
            temperature: T, > 0.
        """
        found: dict[str, Tensor] = {}
        if self.kl_budget is not None:
            found[_RAISED] = torch.ones((), device=self._device)
        if self._memory is None:
            return None, found
        memory = Memory(self._memory.source)
        memory.fill(self.model)
        found |= memory.held()
        if self.cached is not None:
            rows = functools.partial(_rows, objective)
            found |= answers_kept.packed(
                answers_kept.most_probable(rows(answers(batch)), self.cached, temperature)
                for batch in memory.on(self._device)
            )
        return memory, found

    def _kept(self) -> dict[str, Tensor]:
        """What of the buffers is no teacher's."""
        return {name: tensor for name, tensor in self.buffers.items() if name.startswith(OWN)}

    def _found_again(self) -> None:
        """Set up what follows from the buffers."""
        starts = self.buffers.get(f"{answers_kept.PREFIX}starts")
        self._starts = [] if starts is None else starts.tolist()

    def _go_on(self, meta: Mapping[str, Any]) -> None:
        """Take up a memory where a state left it."""
        self._found_again()
        if self._memory is not None and self.num_tasks > 0:
            self._memory.restore(self.buffers, meta.get("taken", 0))

    def _saved_meta(self) -> dict[str, Any]:
        meta = super()._saved_meta()
        return meta if self._memory is None else {**meta, "taken": self._memory.taken}

    def _next_of_memory(self) -> tuple[int, Batch]:
        assert self._memory is not None, "on says so"
        return self._memory.take(self._device, peek=not torch.is_grad_enabled())

    def _looked_up(
        self, objective: Objective, student: Tensor, place: int, batch: Batch, temperature: float, direction: Direction
    ) -> Tensor:
        """The mean distance from the answers kept of a batch, ``[]``."""
        meaning, rows = meaning_of(objective), _rows(objective, student)
        assert isinstance(meaning, Positions), "which LwF refuses"
        kept = answers_kept.looked_up(self.buffers, place, self._starts, len(rows))
        each = answers_kept.bucketed_divergence(rows, *kept, temperature, direction)
        valid = meaning.units(batch, student).valid.reshape(-1)
        return torch.where(valid, each, 0).sum() / valid.sum().clamp(min=1)


def _rows(objective: Objective, outputs: Tensor) -> Tensor:
    meaning = meaning_of(objective)
    assert isinstance(meaning, Positions), "which LwF refuses"
    return meaning.positions(outputs).flatten(0, 1)
