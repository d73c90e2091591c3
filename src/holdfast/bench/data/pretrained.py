"""A pretrained language model by its place: what says that a name is one, its tokenizer, and a digest of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from holdfast.bench.data import cache, hub
from holdfast.errors import ConfigurationError, DependencyError, Option, StateError

__all__ = ["config_of", "digest", "is_pretrained", "library", "line", "loaded", "quietly", "tokenizer"]

_CONFIG = "config.json"


def is_pretrained(name: str) -> bool:
    """Whether a model's name is a folder of Transformers or an id of the Hub, and not one of the bench's own.

    Example:
        >>> is_pretrained("gpt-tiny"), is_pretrained("package.module:factory"), is_pretrained("owner/model")
        (False, False, True)
    """
    return ":" not in name and ("/" in name or (Path(name) / _CONFIG).is_file())


def library() -> Any:
    """Transformers.

    Raises:
        DependencyError: if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise DependencyError("a model of Transformers needs: pip install 'holdfast[adapt]'") from error
    return transformers


def config_of(source: str) -> Any:
    """What a model of Transformers is, without its weights.

    Args:
        source: a folder, or an id of the Hub.

    Raises:
        ConfigurationError: if there is no such model.
        DependencyError: if Transformers is not installed.
    """
    found = library().AutoConfig
    with _reaching(source) as reached:
        try:
            return found.from_pretrained(source)
        except (OSError, ValueError) as error:
            why = line(error) if reached else "there is no such folder, and the hub cannot be reached"
            raise ConfigurationError(
                Option("model"), f" is {source!r}, which is no folder or hub id that Transformers can read: {why}"
            ) from error


def loaded(source: str, load: Callable[[str], Any]) -> Any:
    """What a loader of Transformers makes of a model that is there.

    Raises:
        StateError: if it cannot be loaded.
    """
    with _reaching(source), quietly():
        try:
            return load(source)
        except (OSError, ValueError) as error:
            raise StateError(f"{source} could not be loaded: {line(error)}") from error


def tokenizer(source: str) -> Any:
    """A model's own tokenizer.

    Raises:
        ConfigurationError: if there is no such model.
        StateError: if it has no tokenizer that can be loaded.
        DependencyError: if Transformers is not installed.
    """
    config_of(source)
    return loaded(source, library().AutoTokenizer.from_pretrained)


def digest(source: str) -> str:
    """What tells a model and its tokenizer from any others: of a folder's files, or the commit on the Hub."""
    folder = Path(source)
    if not folder.is_dir():
        return str(getattr(config_of(source), "_commit_hash", None) or "unknown")
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    return _digest(tuple(files), cache.fingerprint(files))


@lru_cache(maxsize=8)  # many runs of one comparison begin with the same
def _digest(files: tuple[Path, ...], fingerprint: str) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while piece := content.read(1 << 20):
                found.update(piece)
    return found.hexdigest()[:16]


def line(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:200]


@contextmanager
def _reaching(source: str) -> Iterator[bool]:
    with nullcontext(True) if Path(source).exists() else hub.asked() as reached:
        yield reached


@contextmanager
def quietly() -> Iterator[None]:
    """Without the bars that Transformers draws over weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
