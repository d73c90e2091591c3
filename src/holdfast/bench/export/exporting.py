"""A run's weights as a folder that anyone can load, and its accuracies again from that folder.

A record holds no weights. They are made again: the run is repeated from the record's configuration and seed, and only
if every accuracy comes out as it stands in the record, to the last digit, is anything written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from holdfast import heads, registry
from holdfast.bench.data.pretrained import is_pretrained
from holdfast.bench.data.tasks import Stream
from holdfast.bench.export import card, language
from holdfast.bench.export import folder as model_folder
from holdfast.bench.export.folder import Description, TaskDescription
from holdfast.bench.export.loading import Exported, load
from holdfast.bench.models import adapters
from holdfast.bench.records.record import Record
from holdfast.bench.training import adapting, building, checkpoint, runner
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.observer import Observer
from holdfast.bench.training.snapshot import Forgetful, Snapshot
from holdfast.errors import ConfigurationError, StateError
from holdfast.reparam import plain

__all__ = ["Exported", "evaluate", "export", "load"]


class _Last(Forgetful):
    """Keeps the state at the end of the last task."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None

    def keep(self, take: Callable[[], Snapshot], *, must: bool) -> None:
        if must:
            self.snapshot = take()


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

    A model of Transformers is written as that library does, with its tokenizer and with any adapters in its weights:
    ``AutoModelForCausalLM`` loads it, and what is ours is ``holdfast.json``.

    Where the method answers each task with weights of its own, as PackNet does, there is no ``model.safetensors`` but
    one ``model-task-N.safetensors`` per task. A model for texts has its ``tokenizer.json`` beside it. A closed-form
    head is ``head.safetensors``, beside the weights of the model that it stands on, if it stands on one.

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
    model_folder.check(folder)
    stream = building.build_stream(record.config, data_dir=data_dir)
    learner = _repeat(record, stream, observer) if weights is None else _kept(record, stream, weights)
    shown, accuracies = folder.resolve().name, record.matrix[-1]
    with ExitStack() as stack:
        files: dict[str, bytes | Callable[[Path], object]] = {}
        if is_pretrained(record.config.model) or adapters.number(learner.model):
            learner.model = language.whole(learner.model)
            accuracies = learner.accuracies("test")  # with adapters in the weights, these may round otherwise
        if is_pretrained(record.config.model):
            files |= stack.enter_context(language.written(learner.model, record.config.model, folder))
            names = [name for name in files if name.endswith(".safetensors")]
        else:
            sets = _weights(learner, stream)
            several = [f"model-task-{task}.safetensors" for task in range(len(sets))]
            names = ["model.safetensors"] if len(sets) == 1 else several
            files |= {
                name: to_safetensors(each, metadata={"format": "pt"}) for name, each in zip(names, sets, strict=True)
            }
            if learner.closed is not None:
                files[model_folder.HEAD] = partial(heads.save, learner.closed.head)
            if stream.tokenizer is not None:
                files[model_folder.TOKENIZER] = stream.tokenizer.encode()
        files[model_folder.CARD] = card.render(record, stream, shown, names, licence=licence).encode()
        model_folder.write(folder, _describe(record, stream, names, sorted(files), accuracies), files)
    return load(folder)


def _weights(learner: Learner, stream: Stream) -> list[dict[str, Tensor]]:
    """The weights, once, or once for each task if the method answers tasks with weights of their own.

    None where a closed-form head answers that stands on no model.
    """

    def copied() -> dict[str, Tensor]:
        model = plain(copy.deepcopy(learner.model))  # whatever its weights are computed from
        return {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}

    if learner.closed is not None and learner.closed.head.backbone.module is None:
        return []
    whole = copied()
    if learner.method is None:
        return [whole]
    sets = []
    for task in range(len(stream)):
        with learner.method.task(task):
            sets.append(copied())
    same = all(torch.equal(whole[name], weights[name]) for weights in sets for name in whole)
    return [whole] if same else sets


def _describe(
    record: Record, stream: Stream, weights: list[str], files: list[str], accuracies: list[float]
) -> Description:
    config = record.config
    theirs = (
        [name for name in files if name not in (*weights, model_folder.CARD)] if is_pretrained(config.model) else []
    )
    continues = stream.vocabulary is not None
    tasks = []
    for task in stream:
        order = task.pixel_order
        tasks.append(
            TaskDescription(
                name=task.name,
                answers=list(task.answers),
                columns=[] if continues else list(task.classes),
                head=task.index if stream.heads is not None else None,
                pixel_order=None if order is None else order.tolist(),
            )
        )
    return Description(
        model=config.model,
        model_options=adapting.of_the_model(config.model_options),
        input_shape=list(stream.input_shape),
        outputs=stream.outputs if isinstance(stream.outputs, int) else list(stream.outputs),
        mean=list(stream.mean),
        std=list(stream.std),
        tasks=tasks,
        weights=weights,
        tokenizer=None if stream.tokenizer is None else model_folder.TOKENIZER,
        head=model_folder.HEAD if registry.lookup(config.method).kind == "head" else None,
        words=None if stream.vocabulary is None else language.words(stream.vocabulary),
        transformers=theirs,
        accuracies=accuracies,
        run=config,
    )


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
    unprotected = {"method": registry.bound("floor").name, "hyperparameters": {}, "outputs": "fixed"}
    plain = {} if exported.head is not None else unprotected
    config = about.run.model_copy(update={"stream": stream_name, **plain})
    config = config.model_copy(update={"device": "cpu", "optimizer": "sgd", "optimizer_options": {}})
    options = {} if about.transformers else adapting.of_the_model(config.model_options)
    config = config.model_copy(update={"model_options": options})  # adapters are in the weights
    if about.transformers:  # all that is needed lies in the folder, wherever the model was begun with
        words = {**config.stream_options.get("text", {}), "tokenizer": str(exported.folder)}
        its = {"model": str(exported.folder), "stream_options": {**config.stream_options, "text": words}}
        config = config.model_copy(update=its)
    stream = building.build_stream(config, data_dir=data_dir)
    expected = about.outputs if isinstance(about.outputs, int) else tuple(about.outputs)
    if stream.tokenizer != exported.tokenizer:
        raise ConfigurationError(f"the stream {stream_name!r} has another vocabulary than the model: other texts?")
    if list(stream.input_shape) != about.input_shape or stream.outputs != expected:
        raise ConfigurationError(
            f"the stream {stream_name!r} has inputs {list(stream.input_shape)} and outputs {stream.outputs}; the model "
            f"takes {about.input_shape} and gives {expected}"
        )
    learner = Learner(config, stream)
    if learner.closed is not None and exported.head is not None:
        learner.closed.head = exported.head
        return learner.accuracies("test")
    found = []
    for task in range(len(stream)):
        learner.model.load_state_dict(exported.weights[task if len(exported.weights) > 1 else 0])
        found.append(learner.accuracies("test")[task])
    return found
