"""Texts that a run's model writes itself, as memory in place of a task's data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from holdfast.bench.data.tasks import Stream, Task
from holdfast.generating import Generations, generations
from holdfast.objectives.distributions import IGNORED

__all__ = ["TEXTS", "write"]

TEXTS = 600
"""How many are written after each task."""

_BATCH = 16  # of which one is asked about in each step
_AT_ONCE = 200  # are written: which texts they are does not depend on it


def write(
    model: nn.Module, stream: Stream, generator: torch.Generator, *, learned: int, samples: int | None = None
) -> Generations:
    """Texts of a model as it is, each as long as a row of the stream's.

    Where answers are learned, each begins with a prompt, the tasks so far taking turns: the prompts are theirs, and
    only the answers the model's own. A model that learned answers alone could not write the prompts.

    Args:
        model: of the run.
        stream: whose words these are.
        generator: on the CPU.
        learned: the place of the task that was learned last.
        samples: how many; default :data:`TEXTS`.
    """
    samples = TEXTS if samples is None else samples
    known, tokens = stream.vocabulary, stream.input_shape[0]
    assert known is not None
    start: Any = list(known.opening)
    length, stop = tokens - len(start), None
    tasks = [task for task in stream.tasks[: learned + 1] if bool((task.train.targets == IGNORED).any())]
    if tasks:
        length = min(tokens // 2, max(_longest_answer(task) for task in tasks))
        each = -(-samples // len(tasks))
        drawn = [_prompts(task, each, tokens - length, generator) for task in tasks]
        start = [prompt for some in zip(*drawn, strict=True) for prompt in some][:samples]
        stop = known.end
    texts = generations(
        model, start, samples=samples, length=length, generator=generator, batch_size=_AT_ONCE, stop=stop
    )
    return texts.batched(_BATCH)


def _longest_answer(task: Task) -> int:
    return int((task.train.targets != IGNORED).sum(1).max())


def _prompts(task: Task, count: int, most: int, generator: torch.Generator) -> list[list[int]]:
    """Prompts of a task's training part, so many and again from the first where there are fewer; the last words each.

    Args:
        task: whose.
        count: how many.
        most: words of each.
        generator: draws which.
    """
    order = torch.randperm(len(task.train), generator=generator)[:count].to(task.train.rows.device)
    words, labels = task.batch(task.train, order)
    prompts = [_before(row, asked)[-most:] for row, asked in zip(words.cpu(), labels.cpu(), strict=True)]
    return [prompts[number % len(prompts)] for number in range(count)]


def _before(words: Tensor, labels: Tensor) -> list[int]:
    """What stands before the first label."""
    first = int((labels != IGNORED).int().argmax())
    found: list[int] = words[:first].tolist()
    return found
