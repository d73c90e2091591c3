"""Which words of a task a run learns: all, or those that the model finds likely already before it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.bench.data.splitting import Split
from holdfast.bench.data.tasks import Task
from holdfast.bench.training.session import Session
from holdfast.errors import DataError, ProtectionError
from holdfast.objectives.distributions import IGNORED
from holdfast.selecting import low_perplexity

__all__ = ["chosen", "with_labels"]

_ROWS = 32


def chosen(model: nn.Module, session: Session, threshold: float) -> list[Tensor]:
    """The labels of every task's training part, without the words that the model as it is finds unlikely.

    Args:
        model: before it learns the session.
        session: what is to be learned.
        threshold: the perplexity up to which a word is learned.

    Returns:
        ``[n, T]`` for each task; -100 is no label.

    Raises:
        ProtectionError: if no word of a task is left.
    """
    return [_of_task(model, task, threshold) for task in session.tasks]


def with_labels(session: Session, labels: Sequence[Tensor]) -> Session:
    """The session with these labels in its training parts; rows that have none are left out."""
    tasks = []
    for task, found in zip(session.tasks, labels, strict=True):
        left = (found[:, 1:] != IGNORED).any(1)
        part = Split(task.train.storage, task.train.rows[left], found[left])
        tasks.append(dataclasses.replace(task, train=part))
    return Session(session.index, tuple(tasks), session.weights)


def _of_task(model: nn.Module, task: Task, threshold: float) -> Tensor:
    batches = task.batches(task.train, _ROWS)
    try:
        found = low_perplexity(model, batches, threshold=threshold, objective=task.training_objective)
    except DataError as error:
        raise ProtectionError(f"task {task.name!r}: {error}") from error
    return torch.cat([labels for _, labels in found])
