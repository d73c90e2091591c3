"""A model from the folder of an export: a network with its weights, or a closed-form head, ready to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast import heads, registry
from holdfast.bench.data import text as text_data
from holdfast.bench.data import vocabulary
from holdfast.bench.export import folder as model_folder
from holdfast.bench.export import language
from holdfast.bench.export.folder import Description, TaskDescription
from holdfast.bench.models import named as models
from holdfast.bench.models import representation
from holdfast.bench.training.closed import answers
from holdfast.errors import ConfigurationError, ProtectionError, StateError
from holdfast.heads import Head

__all__ = ["Exported", "load"]


@dataclass(frozen=True)
class Exported:
    """A model that was exported, ready to answer.

    Attributes:
        model: with the weights of the last task, in evaluation mode; of a closed-form head, what gives its scores as a
            model gives outputs.
        description: what ``config.json`` says.
        weights: one set per task where the method answers each with its own, else one for all.
        tokenizer: of a model for texts, as in `text_data.encode`; of one that continues them, as in `Vocabulary`.
        head: a closed-form head, if it is one that answers: as it was, ready to learn more.
        folder: where it lies.
    """

    model: nn.Module
    description: Description
    weights: tuple[dict[str, Tensor], ...]
    tokenizer: str | None = None
    head: Head | None = None
    folder: Path = Path()

    def use(self, task: int) -> None:
        """Give the model the weights with which a task is answered."""
        if self.head is None:
            self.model.load_state_dict(self.weights[task if len(self.weights) > 1 else 0])

    @torch.no_grad()
    def predict(self, samples: Tensor | Sequence[str], task: int = 0) -> list[str]:
        """The model's answers.

        Args:
            samples: images as they come from the data set, uint8 ``[B, C, H, W]``; or texts.
            task: the question that is asked, from 0; where all classes compete it matters only for the pixels' order.

        Returns:
            One name per sample; of a model that continues texts, how it goes on with each.

        Raises:
            ConfigurationError: if there is no such task, or the samples are of another kind or shape.
        """
        about = self.description
        if not 0 <= task < len(about.tasks):
            raise ConfigurationError(f"task is {task}; this model knows tasks 0 to {len(about.tasks) - 1}")
        asked = about.tasks[task]
        if about.words is not None:
            assert self.tokenizer is not None
            self.use(task)
            known = language.vocabulary_of(about, self.tokenizer)
            return language.continued(self.model, known, _texts(samples), about.input_shape[0])
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
            return text_data.encode(self.tokenizer, _texts(samples))
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


def _texts(samples: Tensor | Sequence[str]) -> Sequence[str]:
    if isinstance(samples, Tensor | str):
        raise ConfigurationError(f"samples are a {type(samples).__name__}; expected a list of texts")
    return samples


def _names(about: Description, asked: TaskDescription) -> dict[int, str]:
    """Column -> answer, of all classes that compete."""
    if about.run.scenario != "class":
        return dict(zip(asked.columns, asked.answers, strict=True))
    return {column: name for task in about.tasks for column, name in zip(task.columns, task.answers, strict=True)}


def load(folder: Path | str) -> Exported:
    """A model from the folder that an export wrote.

    Raises:
        StateError: if the folder holds none, or one that is damaged or was not finished.
    """
    folder = Path(folder)
    about, weights, tokenizer = model_folder.read(folder)
    outputs = about.outputs if isinstance(about.outputs, int) else tuple(about.outputs)
    source, options = (str(folder), {}) if about.transformers else (about.model, about.model_options)
    try:
        model = models.build(source, about.input_shape, outputs, seed=0, **options)
    except Exception as error:  # a description may ask for anything, and options reach a constructor unchecked
        asked = f"{source!a} with {options!a}"
        raise StateError(f"{folder / model_folder.CONFIG} describes no model: {asked}: {error}") from error
    if about.head is not None:
        return _with_head(folder, about, weights, tokenizer, model.eval())
    if about.transformers:
        known = vocabulary.of_model(source)  # as a stream has it: the file may be written otherwise
        return Exported(model.eval(), about, (model.state_dict(),), known.tokenizer, folder=folder)
    exported = Exported(model.eval(), about, weights, tokenizer, folder=folder)
    for task, name in enumerate(about.weights):
        _fill(folder / name, about, lambda task=task: exported.use(task))  # type: ignore[misc]  # a default, not a type
    return exported


def _fill(path: Path, about: Description, load_weights: Callable[[], object]) -> None:
    try:
        load_weights()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StateError(f"the weights {path} are not of the model {about.model}: {reason}") from error


class _Answering(nn.Module):
    """What stands in a model's place where a closed-form head answers: its scores as the model's outputs."""

    def __init__(self, head: Head, outputs: int | Sequence[int]) -> None:
        super().__init__()
        self.head, self._outputs = head, outputs

    def forward(self, inputs: Tensor) -> Tensor | list[Tensor]:
        return answers(self.head(inputs), self.head.classes, self._outputs)


def _with_head(
    folder: Path, about: Description, weights: tuple[dict[str, Tensor], ...], tokenizer: str | None, model: nn.Module
) -> Exported:
    """A closed-form head, on the model of the folder if there are weights of one."""
    path = folder / model_folder.HEAD
    features = None
    if weights:
        _fill(folder / about.weights[0], about, lambda: model.load_state_dict(weights[0]))
        backbone = representation.parse(about.run.backbone or "first-task")
        features = backbone.build(model, about.model, about.input_shape, 0).get("features")
    try:
        head = heads.load(path, features)
    except (ConfigurationError, ProtectionError) as error:
        raise StateError(f"{path} and {folder / model_folder.CONFIG} do not belong together: {error}") from error
    if type(head) is not registry.lookup(about.run.method).build:
        raise StateError(f"{path} holds a {type(head).__name__}, and its run is of {about.run.method}")
    return Exported(_Answering(head, about.outputs), about, weights, tokenizer, head, folder)
