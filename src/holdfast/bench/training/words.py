"""What a test makes of a language model's answers, and how far a task has moved it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.bench.data.language import HOLDS
from holdfast.bench.data.tasks import Task
from holdfast.bench.training.session import Session
from holdfast.distillation.teacher import frozen_copy
from holdfast.objectives import CausalLM
from holdfast.objectives.distributions import IGNORED

__all__ = ["Moved", "marked"]

_ROWS, _BATCH = 256, 32


def marked(objective: CausalLM, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    r"""Which words were foretold, and the loss :math:`-\log p` of each.

    Args:
        objective: of the task.
        outputs: ``[B, T, V]``.
        targets: the words, ``[B, T]``; -100 where nothing is asked.

    Returns:
        bool ``[n]`` and float ``[n]``, for the n words that were asked for and have one before them.
    """
    wanted = objective.at_positions(outputs, targets)
    asked = wanted != IGNORED
    right = objective.positions(outputs).argmax(-1) == wanted
    return right[asked], objective.losses(outputs, (None, targets))[asked]


class Moved:
    r"""How far a language model is from what it was before a task, :math:`\mathrm{KL}(p^* \Vert p)` a word.

    The words are of the task's validation part, or the first of its training part where there is none.
    """

    def __init__(self) -> None:
        self.before: nn.Module | None = None

    def begin(self, model: nn.Module, session: Session, holds: str, *, pretrained: bool = False) -> None:
        """Keep the model as it is before a session; before the first only if it knew something already."""
        knew = pretrained or session.index > 0
        self.before = frozen_copy(model) if holds == HOLDS and knew else None

    @torch.no_grad()
    def measure(self, model: nn.Module, task: Task) -> float | None:
        """The distance in nats a word; ``None`` where there was no model before."""
        if self.before is None:
            return None
        objective = task.objective
        assert isinstance(objective, CausalLM)
        split = task.valid if len(task.valid) else task.train
        was_training, total, words = model.training, 0.0, 0
        model.eval()
        for start in range(0, min(_ROWS, len(split)), _BATCH):
            rows = torch.arange(start, min(start + _BATCH, len(split)), device=split.rows.device)
            batch = task.batch(split, rows)
            number = int(task.answers_in(batch[1]))
            old, new = (objective.outputs(each, batch) for each in (self.before, model))
            total += number * float(objective.distance(new, old, batch, temperature=1.0, factor=1.0))
            words += number
        model.train(was_training)
        return max(total, 0.0) / max(words, 1)
