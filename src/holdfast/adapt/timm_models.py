"""An image classifier of timm."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from holdfast.adapt.images import Preparation
from holdfast.adapt.opened import Kind, Opened
from holdfast.bench.data import hub
from holdfast.errors import ConfigurationError, DependencyError, Option

__all__ = ["Timm"]

_PREFIX = "timm:"


class Timm(Opened):
    """``timm:NAME``, with pretrained weights; ``timm:local-dir:FOLDER`` is one that timm or we wrote."""

    source: str
    model: Any
    kind: Kind
    named: bool

    def __init__(self, source: str, model: Any, classes: Sequence[str], *, named: bool) -> None:
        self.source, self.model, self.kind = source, model, "images"
        self.classes, self.named = tuple(classes), named
        about = model.pretrained_cfg
        channels, height, width = about["input_size"]
        self._prepare = Preparation((channels, height, width), tuple(about["mean"]), tuple(about["std"]))

    @classmethod
    def open(cls, source: str, classes: Sequence[str] = ()) -> Timm:
        """Load a model by name.

        Raises:
            ConfigurationError: if timm has no such model, or the names are not as many as its outputs.
            DependencyError: if timm, or the torchvision that it needs, is not installed.
        """
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another PyTorch
            raise DependencyError(
                f"a model of timm needs: pip install 'holdfast[vision]', with a torchvision of PyTorch's own build; "
                f'"holdfast doctor" says what to type ({error})'
            ) from error
        name = source.removeprefix(_PREFIX)
        if ":" not in name and not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
            raise ConfigurationError(
                Option("model"), f" is {source!r}, which timm does not have; the nearest are {', '.join(near)}"
            )
        local = name.startswith("local-dir:")
        with nullcontext(True) if local else hub.asked() as reached:
            try:
                model = timm.create_model(name, pretrained=True)
            except (RuntimeError, ValueError, OSError) as error:
                why = " ".join(str(error).split()) if reached else "the hub with its weights cannot be reached"
                raise ConfigurationError(
                    Option("model"), f" is {source!r}, which timm could not make: {why}"
                ) from error
        known = list(classes) or list(model.pretrained_cfg.get("label_names") or ())
        if classes and len(classes) != model.num_classes:
            raise ConfigurationError(
                Option("classes"), f" are {len(classes)}; {source} has {model.num_classes} outputs, expected as many"
            )
        names = known if len(known) == model.num_classes else [str(label) for label in range(model.num_classes)]
        return cls(source, model, names, named=names is known)

    def inputs(self, samples: Sequence[Any]) -> torch.Tensor:
        """Resized and normalised as the weights were trained with."""
        return self._prepare(samples)

    def grow(self, names: Sequence[str]) -> None:
        """Grow the classifier."""
        self.model.num_classes = self._grow_last(names)
        self.classes: tuple[str, ...] = (*self.classes, *names)

    def write(self, folder: Path) -> None:
        """As timm writes for the hub: ``config.json`` and ``model.safetensors``."""
        from timm.models import save_for_hf

        about = {**self.model.pretrained_cfg, "label_names": list(self.classes), "num_classes": len(self.classes)}
        save_for_hf(self.model, str(folder), model_config={"pretrained_cfg": about}, safe_serialization=True)

    def reopened(self, folder: Path) -> Opened:
        """By timm."""
        return Timm.open(f"{_PREFIX}local-dir:{folder}")
