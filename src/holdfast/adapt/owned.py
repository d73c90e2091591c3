"""A network of one's own (``package.module:factory``), an export of ours, and what was adapted from either."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from holdfast.adapt.images import Preparation
from holdfast.adapt.opened import Kind, Opened
from holdfast.bench.export import loading
from holdfast.bench.models import named, own
from holdfast.errors import ConfigurationError, Option, StateError
from holdfast.files import write_file

__all__ = ["ADAPTED", "Owned", "is_export"]

ADAPTED = "adapted.json"
_WEIGHTS = "model.safetensors"
_FORMAT = "holdfast-adapted"


class Owned(Opened):
    """A network whose maker is known: called again, it makes the same network, which then gets its weights.

    Attributes:
        origin: what is written down to make it again, plain values.
        prepare: samples -> inputs.
    """

    source: str
    model: Any
    kind: Kind
    named: bool
    prepare: Callable[[Sequence[Any]], Any]
    origin: dict[str, Any]

    def __init__(
        self,
        source: str,
        model: nn.Module,
        kind: Kind,
        classes: Sequence[str],
        prepare: Callable[[Sequence[Any]], Any],
        origin: dict[str, Any],
        *,
        named: bool,
    ) -> None:
        self.source, self.model, self.kind = source, model, kind
        self.classes, self.named = tuple(classes), named
        self.prepare, self.origin = prepare, origin

    @classmethod
    def made(cls, source: str, kind: Kind | None = None, classes: Sequence[str] = ()) -> Owned:
        """What a factory makes: a module, or a module and a function from samples to inputs.

        A module may say ``classes`` (names) and ``input_shape`` (channels, height, width).

        Raises:
            ConfigurationError: if it cannot be had, or says too little.
        """
        with own.here_importable():
            factory = own.find(source)
            try:
                found = factory()
            except Exception as error:  # the user's own code, which may raise anything
                reason = f"{type(error).__name__}: {error}"
                raise ConfigurationError(f"the model {source!r} could not be called as factory(): {reason}") from error
        model, prepare = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(model, nn.Module) or not (prepare is None or callable(prepare)):
            raise ConfigurationError(
                f"the model {source!r} returned a {type(found).__name__}; expected a torch.nn.Module, or one and a "
                "function from a list of samples to inputs"
            )
        kind = kind or getattr(model, "kind", None) or "images"
        if prepare is None:
            prepare = _preparation(source, model, kind)
        names, said = _names(source, model, classes)
        return cls(source, model, kind, names, prepare, {"factory": source, "kind": kind}, named=said)

    @classmethod
    def exported(cls, source: str) -> Owned:
        """What ``holdfast export`` wrote.

        Raises:
            ConfigurationError: if it answers with several heads, a closed-form head or one set of weights per task.
            StateError: if the folder is damaged.
        """
        found = loading.load(source)
        about = found.description
        if found.head is not None or len(found.weights) > 1 or not isinstance(about.outputs, int):
            what = "a closed-form head" if found.head is not None else "an answer for each task"
            raise ConfigurationError(
                f"{source} is an export with {what}; expected one whose classes all compete (scenario class or domain)"
            )
        found.use(0)
        names = {
            column: name
            for task in about.tasks
            for column, name in zip(task.columns, task.answers, strict=True)
        }  # fmt: skip
        classes = [names.get(column, str(column)) for column in range(about.outputs)]
        origin = {
            "model": about.model, "options": about.model_options, "input_shape": list(about.input_shape),
            "mean": list(about.mean), "std": list(about.std), "tokenizer": found.tokenizer,
        }  # fmt: skip
        kind: Kind = "images" if found.tokenizer is None else "texts"
        return cls(source, found.model, kind, classes, _reader(origin), origin, named=True)

    @classmethod
    def adapted(cls, source: str) -> Owned:
        """What :meth:`write` wrote.

        Raises:
            StateError: if the folder is damaged.
        """
        folder = Path(source)
        try:
            about = json.loads((folder / ADAPTED).read_text(encoding="utf-8"))
            weights = load_file(folder / _WEIGHTS)
            if about["format"] != _FORMAT:
                raise StateError(f"{folder / ADAPTED} is of format {about['format']!r}; expected {_FORMAT!r}")
            origin, classes = about["origin"], about["classes"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StateError(f"{folder} holds no adapted model: {error}") from error
        if "factory" in origin:
            opened = cls.made(origin["factory"], origin["kind"], about["began_with"])
        else:
            shape, outputs = tuple(origin["input_shape"]), len(about["began_with"])
            model = named.build(origin["model"], shape, outputs, seed=0, **origin["options"])
            kind: Kind = "images" if origin["tokenizer"] is None else "texts"
            opened = cls(source, model, kind, about["began_with"], _reader(origin), origin, named=True)
        opened.source = source
        if len(classes) > len(opened.classes):
            opened.grow(classes[len(opened.classes) :])
        opened.named = about["named"]
        try:
            opened.model.load_state_dict(weights)
        except RuntimeError as error:
            raise StateError(
                f"{folder / _WEIGHTS} does not fit {origin.get('factory', origin.get('model'))}: {error}"
            ) from error
        return opened

    def inputs(self, samples: Sequence[Any]) -> Any:
        """What the preparation makes of them."""
        return self.prepare(samples)

    def grow(self, names: Sequence[str]) -> None:
        """Grow the last layer."""
        self.origin.setdefault("began_with", list(self.classes))
        self._grow_last(names)
        self.classes: tuple[str, ...] = (*self.classes, *names)

    def write(self, folder: Path) -> None:
        """Weights as safetensors, and what makes the network again as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(tensors, folder / _WEIGHTS)
        began = self.origin.get("began_with", list(self.classes))
        about = {
            "format": _FORMAT, "origin": {k: v for k, v in self.origin.items() if k != "began_with"},
            "began_with": began, "classes": list(self.classes), "named": self.named,
        }  # fmt: skip
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        write_file(folder / ADAPTED, lambda file: file.write(text.encode()), what="model")

    def reopened(self, folder: Path) -> Opened:
        """From the folder."""
        return Owned.adapted(str(folder))


def is_export(folder: Path) -> bool:
    """Whether a folder is one that ``holdfast export`` wrote."""
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and str(about.get("format", "")).startswith("holdfast-model")


def _preparation(source: str, model: nn.Module, kind: Kind) -> Callable[[Sequence[Any]], Any]:
    shape = getattr(model, "input_shape", None)
    if kind != "images" or not isinstance(shape, tuple | list) or len(shape) != 3:
        raise ConfigurationError(
            f"the model {source!r} does not say how a sample becomes its input; expected an attribute input_shape "
            "(channels, height, width), or that the factory returns a pair: the model, and a function from a list of "
            "samples to inputs"
        )
    channels, height, width = (int(size) for size in shape)
    return Preparation((channels, height, width))


def _names(source: str, model: nn.Module, asked: Sequence[str]) -> tuple[list[str], bool]:
    said = list(asked) or list(getattr(model, "classes", None) or ())
    if said:
        return [str(name) for name in said], True
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigurationError(
            f"the model {source!r} has no linear layer that would say how many classes it has; expected an attribute "
            "classes, or ", Option("classes"),
        )  # fmt: skip
    return [str(label) for label in range(layers[-1].out_features)], False


def _reader(origin: dict[str, Any]) -> Callable[[Sequence[Any]], Any]:
    if origin["tokenizer"] is not None:
        from holdfast.bench.data import text

        return lambda samples: text.encode(origin["tokenizer"], list(samples))
    channels, height, width = origin["input_shape"]
    return Preparation((channels, height, width), tuple(origin["mean"]), tuple(origin["std"]))
