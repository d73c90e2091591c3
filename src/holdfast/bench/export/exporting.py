"""A run's weights as a folder that anyone can load, and its accuracies again from that folder.

A record holds no weights. They are made again: the run is repeated from the record's configuration and seed, and only
if every accuracy comes out as it stands in the record, to the last digit, is anything written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from holdfast import registry
from holdfast.bench.data import text as text_data
from holdfast.bench.data.tasks import Stream
from holdfast.bench.export import card
from holdfast.bench.export import folder as model_folder
from holdfast.bench.export.folder import Description, TaskDescription
from holdfast.bench.models import named as models
from holdfast.bench.records.record import Record
from holdfast.bench.training import checkpoint, runner
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.runner import Observer
from holdfast.bench.training.snapshot import Snapshot
from holdfast.errors import ConfigurationError, StateError

__all__ = ["Exported", "evaluate", "export", "load"]


@dataclass(frozen=True)
class Exported:
    """A model that was exported, ready to answer.

    Attributes:
        model: with the weights of the last task, in evaluation mode.
        description: what ``config.json`` says.
        weights: one set per task where the method answers each with its own, else one for all.
        tokenizer: of a model for texts, as in `text_data.encode`.
    """

    model: nn.Module
    description: Description
    weights: tuple[dict[str, Tensor], ...]
    tokenizer: str | None = None

    def use(self, task: int) -> None:
        """Give the model the weights with which a task is answered."""
        self.model.load_state_dict(self.weights[task if len(self.weights) > 1 else 0])

    @torch.no_grad()
    def predict(self, samples: Tensor | Sequence[str], task: int = 0) -> list[str]:
        """The model's answers.

        Args:
            samples: images as they come from the data set, uint8 ``[B, C, H, W]``; or texts.
            task: the question that is asked, from 0; where all classes compete it matters only for the pixels' order.

        Returns:
            One name per sample.

        Raises:
            ConfigurationError: if there is no such task, or the samples are of another kind or shape.
        """
        about = self.description
        if not 0 <= task < len(about.tasks):
            raise ConfigurationError(f"task is {task}; this model knows tasks 0 to {len(about.tasks) - 1}")
        asked = about.tasks[task]
        inputs = self._inputs(samples, asked)
        self.use(task)
        raw = self.model(inputs)
        outputs = raw if asked.head is None else raw[asked.head]
        names = _names(about, asked)
        columns = sorted(names)
        return [names[columns[place]] for place in outputs[:, columns].argmax(1).tolist()]

    def _inputs(self, samples: Tensor | Sequence[str], asked: TaskDescription) -> Tensor:
        about = self.description
        if self.tokenizer is not None:
            if isinstance(samples, Tensor | str):
                raise ConfigurationError(f"samples are a {type(samples).__name__}; expected a list of texts")
            return text_data.encode(self.tokenizer, samples)
        shape = ", ".join(map(str, about.input_shape))
        if not isinstance(samples, Tensor):
            raise ConfigurationError(f"samples are a {type(samples).__name__}; expected torch.uint8 [B, {shape}]")
        if samples.dtype != torch.uint8 or list(samples.shape[1:]) != about.input_shape:
            raise ConfigurationError(
                f"samples are {samples.dtype} {list(samples.shape)}; expected torch.uint8 [B, {shape}]"
            )
        if asked.pixel_order is not None:
            samples = samples.flatten(2)[:, :, asked.pixel_order].view_as(samples)
        std = torch.tensor(about.std).view(-1, 1, 1)
        mean = torch.tensor(about.mean).view(-1, 1, 1)
        return samples.to(torch.float32) * (1 / (255 * std)) - mean / std


def _names(about: Description, asked: TaskDescription) -> dict[int, str]:
    """Column -> answer, of all classes that compete."""
    if about.run.scenario != "class":
        return dict(zip(asked.columns, asked.answers, strict=True))
    return {column: name for task in about.tasks for column, name in zip(task.columns, task.answers, strict=True)}


class _Last:
    """Keeps the state at the end of the last task."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None

    def load(self) -> Snapshot | None:
        return None

    def keep(self, take: Callable[[], Snapshot], *, must: bool) -> None:
        if must:
            self.snapshot = take()

    def finish(self, learner: Callable[[], dict[str, Any]]) -> None:
        pass


def _repeat(record: Record, stream: Stream, observer: Observer | None) -> Learner:
    """The learner at the end of a run that is done again.

    Raises:
        StateError: if it does not end where the record says.
    """
    last = _Last()
    again = runner.run(record.config, stream=stream, observer=observer, keeper=last)
    if again.status != "finished" or again.matrix != record.matrix:
        was, now = record.environment, again.environment
        raise StateError(
            f"the run was repeated and did not give the same accuracies: {again.matrix[-1:]} in place of "
            f"{record.matrix[-1:]}; the record is of PyTorch {was.torch}, {was.processor}, {was.threads} threads, this "
            f"is PyTorch {now.torch}, {now.processor}, {now.threads} threads"
        )
    assert last.snapshot is not None
    learner = Learner(record.config, stream)
    learner.load_state_dict(last.snapshot.learner, with_optimizer=False)
    return learner


def _kept(record: Record, stream: Stream, weights: Path) -> Learner:
    """The learner at the end of a run whose weights were kept.

    Raises:
        StateError: if they are of another run, or do not give the record's accuracies.
    """
    learner = Learner(record.config, stream)
    learner.load_state_dict(checkpoint.finished(weights, record.config), with_optimizer=False)
    found = learner.accuracies("test")
    if found != record.matrix[-1]:
        raise StateError(
            f"the weights {weights} do not give the record's accuracies: {found} in place of {record.matrix[-1]}; "
            "delete them, and the run is repeated"
        )
    return learner


def export(
    record: Record,
    folder: Path,
    *,
    weights: Path | None = None,
    data_dir: Path | str | None = None,
    observer: Observer | None = None,
    licence: str | None = None,
) -> Exported:
    """Write a run's model as ``model.safetensors``, ``config.json`` and a model card ``README.md``.

    Where the method answers each task with weights of its own, as PackNet does, there is no ``model.safetensors`` but
    one ``model-task-N.safetensors`` per task. A model for texts has its ``tokenizer.json`` beside it.

    Args:
        record: of a finished run.
        folder: made where it is missing; an earlier export in it is replaced, all of its files and no others.
        weights: file of the weights that the run kept; ``None``: the run is repeated.
        data_dir: where the data sets are.
        observer: is told how the run is getting on.
        licence: of the weights, as model hubs name it, for the card.

    Returns:
        The model as :func:`load` gives it.

    Raises:
        ConfigurationError: if the folder holds something else, such as another library's model.
        StateError: if the run did not finish, does not come out as in the record, or nothing can be written.
    """
    if record.status != "finished":
        raise StateError(f"the run of {record.config.method} is {record.status}; expected a finished one")
    if registry.lookup(record.config.method).kind == "head":
        raise ConfigurationError(
            f"{record.config.method} is a closed-form head, which a folder of a model's weights does not hold: tell a "
            "head of holdfast.heads in Python, and keep it with holdfast.save_state(head.state_dict(), FILE)"
        )
    model_folder.check(folder)
    stream = runner.build_stream(record.config, data_dir=data_dir)
    learner = _repeat(record, stream, observer) if weights is None else _kept(record, stream, weights)
    sets = _weights(learner, stream)
    names = [f"model-task-{task}.safetensors" for task in range(len(sets))] if len(sets) > 1 else ["model.safetensors"]
    files = {name: to_safetensors(each, metadata={"format": "pt"}) for name, each in zip(names, sets, strict=True)}
    if stream.tokenizer is not None:
        files[model_folder.TOKENIZER] = stream.tokenizer.encode()
    shown = folder.resolve().name
    files[model_folder.CARD] = card.render(record, stream, shown, names, licence=licence).encode()
    model_folder.write(folder, _describe(record, stream, names), files)
    return load(folder)


def _weights(learner: Learner, stream: Stream) -> list[dict[str, Tensor]]:
    """The weights, once, or once for each task if the method answers tasks with weights of their own."""

    def copied() -> dict[str, Tensor]:
        return {name: t.detach().cpu().clone().contiguous() for name, t in learner.model.state_dict().items()}

    plain = copied()
    if learner.method is None:
        return [plain]
    sets = []
    for task in range(len(stream)):
        with learner.method.task(task):
            sets.append(copied())
    same = all(torch.equal(plain[name], weights[name]) for weights in sets for name in plain)
    return [plain] if same else sets


def _describe(record: Record, stream: Stream, weights: list[str]) -> Description:
    config = record.config
    tasks = []
    for task in stream:
        order = task.pixel_order
        tasks.append(
            TaskDescription(
                name=task.name,
                answers=list(task.answers),
                columns=list(task.classes),
                head=task.index if stream.heads is not None else None,
                pixel_order=None if order is None else order.tolist(),
            )
        )
    return Description(
        model=config.model,
        model_options=config.model_options,
        input_shape=list(stream.input_shape),
        outputs=stream.outputs if isinstance(stream.outputs, int) else list(stream.outputs),
        mean=list(stream.mean),
        std=list(stream.std),
        tasks=tasks,
        weights=weights,
        tokenizer=None if stream.tokenizer is None else model_folder.TOKENIZER,
        accuracies=record.matrix[-1],
        run=config,
    )


def load(folder: Path | str) -> Exported:
    """A model from the folder that :func:`export` wrote.

    Raises:
        StateError: if the folder holds none, or one that is damaged or was not finished.
    """
    folder = Path(folder)
    about, weights, tokenizer = model_folder.read(folder)
    outputs = about.outputs if isinstance(about.outputs, int) else tuple(about.outputs)
    try:
        model = models.build(about.model, about.input_shape, outputs, seed=0, **about.model_options)
    except Exception as error:  # a description may ask for anything, and options reach a constructor unchecked
        asked = f"{about.model!a} with {about.model_options!a}"
        raise StateError(f"{folder / model_folder.CONFIG} describes no model: {asked}: {error}") from error
    exported = Exported(model.eval(), about, weights, tokenizer)
    for task, name in enumerate(about.weights):
        try:
            exported.use(task)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise StateError(f"the weights {folder / name} are not of the model {about.model}: {reason}") from error
    return exported


def evaluate(exported: Exported, stream_name: str, *, data_dir: Path | str | None = None) -> list[float]:
    """Test accuracy on every task of a stream, measured as the run measured it.

    Args:
        exported: the model.
        stream_name: the stream of its run, or another one with tasks of the same shapes.
        data_dir: where the data sets are.

    Raises:
        ConfigurationError: if the stream does not fit the model.
    """
    about = exported.description
    config = about.run.model_copy(
        update={"stream": stream_name, "method": "finetune", "hyperparameters": {}, "outputs": "fixed"}
    )
    config = config.model_copy(update={"device": "cpu", "optimizer": "sgd", "optimizer_options": {}})
    stream = runner.build_stream(config, data_dir=data_dir)
    expected = about.outputs if isinstance(about.outputs, int) else tuple(about.outputs)
    if stream.tokenizer != exported.tokenizer:
        raise ConfigurationError(f"the stream {stream_name!r} has another vocabulary than the model: other texts?")
    if list(stream.input_shape) != about.input_shape or stream.outputs != expected:
        raise ConfigurationError(
            f"the stream {stream_name!r} has inputs {list(stream.input_shape)} and outputs {stream.outputs}; the model "
            f"takes {about.input_shape} and gives {expected}"
        )
    learner = Learner(config, stream)
    found = []
    for task in range(len(stream)):
        learner.model.load_state_dict(exported.weights[task if len(exported.weights) > 1 else 0])
        found.append(learner.accuracies("test")[task])
    return found
