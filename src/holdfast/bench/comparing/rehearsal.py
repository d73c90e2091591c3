"""Everything that a run needs, built before anything is trained, so that what is wrong is said at once."""

from __future__ import annotations

import torch
from torch import nn

from holdfast.bench.data import vocabulary
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.data.tasks import Stream
from holdfast.bench.records.record import RunConfig
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.errors import ConfigurationError, Option
from holdfast.objectives import SharedForward

__all__ = ["check"]


def check(config: RunConfig, stream: Stream) -> None:
    """Build everything that a run needs, before anything is trained, so that what is wrong is said at once.

    Args:
        config: what is asked for.
        stream: its stream.

    Raises:
        ConfigurationError: if the model, the optimizer or the method refuses a value, the model does not fit the
            stream, or the device is not there.
    """
    try:
        device = torch.device(config.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(Option("device"), f" is {config.device!r}, which cannot be used: {reason}") from error
    _check_words(config, stream)
    try:
        learner = Learner(config, stream)
        learner.begin(Session(0, (stream.tasks[0],)))
        if learner.closed is not None:
            learner.closed.check(stream.tasks)
    except ConfigurationError as error:
        raise error.within(config.method) from error
    except (ValueError, TypeError) as error:  # of an optimizer that is not ours, which has errors of its own
        raise ConfigurationError(f"{config.method}: {error}") from error
    _check_outputs(config, learner.model, stream)


def _check_words(config: RunConfig, stream: Stream) -> None:
    """Refuse a pretrained model that would be given the numbers of other words than its own.

    Raises:
        ConfigurationError: naming the option that gives the stream the model's words.
    """
    if not is_pretrained(config.model) or stream.tokenizer == vocabulary.of_model(config.model).tokenizer:
        return
    raise ConfigurationError(
        Option("model"), f" is {config.model}, which reads words by a tokenizer of its own, and those of the stream "
        f"{stream.name!r} are others; expected text.tokenizer={config.model!r} among the stream's options"
    )  # fmt: skip


@torch.no_grad()
def _check_outputs(config: RunConfig, model: nn.Module, stream: Stream) -> None:
    """Ask the model about two samples of every task: one of the user's own may not fit the stream.

    Raises:
        ConfigurationError: if it fails on them, or has too few outputs.
    """
    was_training = model.training
    model.eval()
    for task in stream.tasks[:1] if config.outputs == "growing" else stream.tasks:  # later ones have outputs to come
        inputs, targets = task.batch(task.train, torch.arange(min(2, len(task.train))))
        objective, needed = task.objective, max(task.classes) + 1
        assert isinstance(objective, SharedForward)
        try:
            shape = tuple(objective.select(model(inputs.to(config.device))).shape)
        except Exception as error:  # the user's own code, which may raise anything
            reason = str(error).strip().split("\n")[0]
            raise ConfigurationError(
                f"the model {config.model!r} fails on inputs {tuple(inputs.shape)} of the task {task.name!r}: {reason}"
            ) from error
        if shape[:-1] != targets.shape or shape[-1] < needed:
            raise ConfigurationError(
                f"the model {config.model!r} gives outputs {shape} for the task {task.name!r}; expected "
                f"{(*targets.shape, needed)}{_one_per_head(stream)}"
            )
    model.train(was_training)


def _one_per_head(stream: Stream) -> str:
    return "" if stream.heads is None else f", in a list of {len(stream.heads)}: one head per task"
