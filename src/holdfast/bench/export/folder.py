"""The folder of an exported model: what its ``config.json`` says, and how its files are read and replaced.

``config.json`` is written last; where that is the file of Transformers, whose model it is, ours is ``holdfast.json``.
While files are exchanged it says that the export is unfinished and lists them, so a folder is at every moment the
earlier export, the new one, or one that says that it is neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Size, Tensor
from typing_extensions import Self

from holdfast.bench.data import text as text_data
from holdfast.bench.records.record import RunConfig
from holdfast.errors import ConfigurationError, StateError
from holdfast.files import remove_leftovers, write_file

__all__ = [
    "BESIDE",
    "CARD",
    "CONFIG",
    "HEAD",
    "TOKENIZER",
    "Description",
    "TaskDescription",
    "Words",
    "check",
    "file_names",
    "read",
    "write",
]

CARD = "README.md"
CONFIG = "config.json"
BESIDE = "holdfast.json"
TOKENIZER: Final = "tokenizer.json"
HEAD: Final = "head.safetensors"

# No other names, lest a description have files elsewhere removed.
_WeightsFile = Annotated[str, Field(pattern=r"^model(-task-[0-9]+)?\.safetensors$")]
_TokenizerFile = Literal["tokenizer.json"]
_HeadFile = Literal["head.safetensors"]
_TransformersFile = Annotated[str, Field(pattern=r"^[a-z_]+\.(json|txt|model|jinja)$")]


class _Frozen(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class _Files(BaseModel):
    """What every ``config.json`` of ours says, of whatever version: the files that belong to it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore")

    format: Literal["holdfast-model", "holdfast-model-unfinished"]
    weights: list[_WeightsFile]
    tokenizer: _TokenizerFile | None
    head: _HeadFile | None = None
    transformers: list[_TransformersFile] = []

    @property
    def names(self) -> list[str]:
        """All but the card and the description."""
        own = [name for name in (self.tokenizer, self.head) if name is not None]
        return list(dict.fromkeys([*self.weights, *own, *self.transformers]))

    @property
    def config(self) -> str:
        """The file of the description."""
        return BESIDE if self.transformers else CONFIG


class Words(_Frozen):
    """What a model that continues texts must be told of its words: see `vocabulary.Vocabulary`."""

    end: int
    begin: list[int]
    between: str
    padding: int


class TaskDescription(_Frozen):
    """What a task asks: the names of its answers and the columns of the outputs in which they stand; of texts none."""

    name: str
    answers: list[str]
    columns: list[int]
    head: int | None = None
    pixel_order: list[int] | None = None


class Description(_Frozen):
    """``config.json``: everything but the weights. ``weights`` are the files, one, or one per task.

    Where ``head`` is a file, a closed-form head answers, and there may be no model behind it. ``words`` are there where
    texts are continued, ``transformers`` lists the files of a model of that library.
    """

    format: Literal["holdfast-model"] = "holdfast-model"
    schema_version: Literal[1] = 1
    model: str
    model_options: dict[str, Any]
    input_shape: list[PositiveInt] = Field(min_length=1)
    outputs: PositiveInt | list[PositiveInt]
    mean: list[float]
    std: list[PositiveFloat]
    tasks: list[TaskDescription] = Field(min_length=1)
    weights: list[_WeightsFile]
    tokenizer: _TokenizerFile | None
    head: _HeadFile | None = None
    words: Words | None = None
    transformers: list[_TransformersFile] = []
    accuracies: list[float]
    run: RunConfig

    @model_validator(mode="after")
    def _counts(self) -> Self:
        tasks = len(self.tasks)
        if len(self.weights) not in (1, tasks) if self.head is None else len(self.weights) > 1:
            raise ValueError(f"weights has {len(self.weights)} files for {tasks} tasks; expected 1, or 1 per task")
        if len(self.accuracies) != tasks:
            raise ValueError(f"accuracies has {len(self.accuracies)} values for {tasks} tasks")
        if self.run.tasks != tasks:
            raise ValueError(f"run.tasks is {self.run.tasks} for {tasks} tasks")
        channels = 0 if self.tokenizer is not None else self.input_shape[0]
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std have {len(self.mean)} and {len(self.std)} values for {channels} channels")
        return self

    @model_validator(mode="after")
    def _tasks(self) -> Self:
        pixels = Size(self.input_shape[1:]).numel()
        for index, task in enumerate(self.tasks):
            where = f"tasks.{index}"
            if (self.words is None) != bool(task.answers):
                raise ValueError(f"{where}.answers has {len(task.answers)} names, and words are {self.words!r}")
            if isinstance(self.outputs, int) != (task.head is None):
                raise ValueError(f"{where}.head is {task.head} where outputs is {self.outputs}")
            width = self.outputs
            if not isinstance(width, int):
                if task.head is None or task.head not in range(len(width)):
                    raise ValueError(f"{where}.head is {task.head}; expected 0 to {len(width) - 1}")
                width = width[task.head]
            if len(task.columns) != len(task.answers) or not set(task.columns) <= set(range(width)):
                raise ValueError(f"{where}.columns must be one of {width} outputs for each of the task's answers")
            if task.pixel_order is not None and sorted(task.pixel_order) != list(range(pixels)):
                raise ValueError(f"{where}.pixel_order must hold every number from 0 to {pixels - 1} once")
        return self


def _files(text: bytes) -> _Files | None:
    try:
        return _Files.model_validate_json(text)
    except ValidationError:
        return None


def check(folder: Path) -> None:
    """Refuse a folder that holds anything but an export of ours, finished or not, or what a killed one left.

    Raises:
        ConfigurationError: naming it.
    """
    _earlier(folder)


def _earlier(folder: Path) -> _Files | None:
    """The files of the export that a folder holds; ``None`` if the folder is empty or missing."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file; expected the name of a folder")
    remove_leftovers(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    config = _config_of(folder)
    found = _files(config.read_bytes()) if config.is_file() else None
    if found is None:
        raise ConfigurationError(f"the folder {folder} is not empty and holds no exported model: name another one")
    return found


def write(folder: Path, about: Description, files: Mapping[str, bytes | Callable[[Path], object]]) -> None:
    """Write an export in place of an earlier one, whose other files are removed; nothing else is touched.

    Args:
        folder: made where it is missing.
        about: becomes ``config.json``.
        files: name -> contents of every other file, or what writes it.

    Raises:
        ConfigurationError: if the folder holds something else.
        StateError: if a file cannot be written or removed; the folder then says that it is unfinished.
    """
    earlier = _earlier(folder)
    weights, tokenizer, head, theirs = list(about.weights), about.tokenizer, about.head, list(about.transformers)
    if earlier is not None:
        weights += [name for name in earlier.weights if name not in weights]
        tokenizer, head = tokenizer or earlier.tokenizer, head or earlier.head
        theirs += [name for name in earlier.transformers if name not in theirs]
    unfinished = _Files(
        format="holdfast-model-unfinished", weights=weights, tokenizer=tokenizer, head=head, transformers=theirs
    )
    _put(folder / unfinished.config, _as_json(unfinished))
    for name in set(unfinished.names) - files.keys():
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"Cannot remove {folder / name} of an earlier export: {error.strerror}.") from error
    for name, content in files.items():
        if isinstance(content, bytes):
            _put(folder / name, content)
        else:
            content(folder / name)
    _put(folder / (BESIDE if about.transformers else CONFIG), _as_json(about))
    if not about.transformers:
        (folder / BESIDE).unlink(missing_ok=True)


def _config_of(folder: Path) -> Path:
    """The description's file: ours stands beside that of Transformers, where there is one."""
    return folder / (BESIDE if (folder / BESIDE).is_file() else CONFIG)


def _as_json(model: BaseModel) -> bytes:
    return (json.dumps(json.loads(model.model_dump_json()), indent=1) + "\n").encode()


def _put(path: Path, content: bytes) -> None:
    write_file(path, partial(_all, content), what="exported model")


def _all(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _describe(folder: Path) -> Description:
    config = _config_of(folder)
    try:
        text = config.read_bytes()
    except OSError as error:
        raise StateError(f"{folder} holds no exported model: {config}: {error.strerror}") from error
    files = _files(text)
    if files is not None and files.format != "holdfast-model":
        raise StateError(f"the export into {folder} did not finish: export the run again")
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        # ascii(): the file may be anything, and its bytes must not reach a terminal as control characters
        problem = ascii(f"{where}: {said}" if where else said)[1:-1]
        raise StateError(f"{config} describes no exported model: {problem}") from error


def file_names(folder: Path) -> list[str]:
    """The files of the export that a folder holds.

    Raises:
        StateError: if it holds none.
    """
    about = _describe(folder)
    own = [name for name in (about.tokenizer, about.head) if name is not None]
    listed = [CARD, _config_of(folder).name, *about.weights, *own, *about.transformers]
    return list(dict.fromkeys(listed))


def read(folder: Path) -> tuple[Description, tuple[dict[str, Tensor], ...], str | None]:
    """All that is needed to build an exported model: its description, its weights, and the tokenizer of one for texts.

    Raises:
        StateError: if the folder holds no export, or a file of it is missing or damaged.
    """
    about = _describe(folder)
    weights = tuple(_weights(folder / name) for name in about.weights)
    if about.tokenizer is None:
        return about, weights, None
    return about, weights, _tokenizer(folder / about.tokenizer, about)


def _weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise StateError(f"{path} is missing, which {path.with_name(CONFIG)} lists")
    try:
        return load_file(path)
    except OSError as error:
        raise StateError(f"the weights {path} cannot be read: {error}") from error
    except SafetensorError as error:
        raise StateError(f"the weights {path} are damaged: {error}") from error


def _tokenizer(path: Path, about: Description) -> str:
    if not path.is_file():
        raise StateError(f"{path} is missing, which {path.with_name(CONFIG)} lists")
    try:
        text = path.read_bytes().decode("utf-8")
        continues = about.words is not None
        found = [text_data.vocabulary(text)] if continues else list(text_data.encode(text, [""]).shape[1:])
    except Exception as error:  # the library raises no class of its own for what it cannot read
        reason = str(error) or type(error).__name__
        raise StateError(f"{path} is not the tokenizer of the model, or is damaged: {reason}") from error
    what = "words" if continues else "numbers"
    expected: list[Any] = [about.outputs] if continues else about.input_shape
    if found != expected:
        raise StateError(f"{path} is not the tokenizer of the model: it gives {found} {what}; expected {expected}")
    return text
