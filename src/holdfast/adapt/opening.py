"""Which model a name means: a Transformers folder or hub id, ``timm:NAME``, an export of ours, or a factory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.adapt import owned, pretrained, timm_models
from holdfast.adapt.opened import Kind, Opened
from holdfast.errors import ConfigurationError, Option

__all__ = ["open_model"]


def open_model(
    source: str, *, kind: Kind | None = None, classes: Sequence[str] = (), length: int | None = None
) -> Opened:
    """Open a model by what it is called.

    Args:
        source: a folder that Transformers wrote, a hub id, ``timm:NAME``, a folder that ``holdfast export`` wrote, or
            ``package.module:factory``.
        kind: what it reads, where the model does not say.
        classes: what its outputs are called, where the model does not say.
        length: how many tokens of a text it reads, if not what is usual.

    Raises:
        ConfigurationError: if it is none of these.
        DependencyError: if what it comes from is not installed.
    """
    path = Path(source)
    opened = _opened(source, path, kind, classes, length)
    if length is not None and not isinstance(opened, pretrained.Pretrained):
        raise ConfigurationError(
            Option("length"), f" is {length}, but {source} is no model of Transformers with a tokenizer"
        )
    return opened


def _opened(source: str, path: Path, kind: Kind | None, classes: Sequence[str], length: int | None) -> Opened:
    if source.startswith("timm:"):
        return timm_models.Timm.open(source, classes)
    if (path / owned.ADAPTED).is_file():
        return owned.Owned.adapted(source)
    if owned.is_export(path):
        return owned.Owned.exported(source)
    if not path.exists() and ":" in source:
        return owned.Owned.made(source, kind, classes)
    return pretrained.Pretrained.open(source, classes, length)
