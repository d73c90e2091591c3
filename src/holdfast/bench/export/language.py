"""Models that continue texts: how those of Transformers are written, and how any of them goes on with a text."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from holdfast.bench.data import pretrained
from holdfast.bench.data.vocabulary import Vocabulary
from holdfast.bench.export.folder import Description, Words
from holdfast.bench.models import adapters
from holdfast.objectives.plain import logits_of
from holdfast.reparam import plain

__all__ = ["continued", "vocabulary_of", "whole", "words", "written"]


def words(known: Vocabulary) -> Words:
    """What a description says of a vocabulary."""
    return Words(end=known.end, begin=list(known.begin), between=known.between, padding=known.padding)


def vocabulary_of(about: Description, tokenizer: str) -> Vocabulary:
    """The vocabulary that a description tells of."""
    told = about.words
    assert told is not None
    return Vocabulary(tokenizer, told.end, tuple(told.begin), told.between, told.padding)


def whole(model: nn.Module) -> Any:
    """A copy of a model of Transformers without anything of ours: adapters are put into its weights."""
    return plain(adapters.merged(copy.deepcopy(model).cpu()))


@contextmanager
def written(model: Any, source: str, folder: Path) -> Iterator[dict[str, Callable[[Path], object]]]:
    """A model of Transformers and its tokenizer as files, so that ``from_pretrained`` loads them.

    Args:
        model: as from :func:`whole`.
        source: where it was begun with, for the tokenizer.
        folder: beside which they are written before they take their places.

    Yields:
        File -> what puts it where it belongs, once.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".holdfast-export-") as temporary, pretrained.quietly():
        model.save_pretrained(temporary, max_shard_size="1000GB")  # one file of weights, as all exports have
        pretrained.tokenizer(source).save_pretrained(temporary)
        yield {path.name: partial(shutil.move, path) for path in sorted(Path(temporary).iterdir())}


@torch.no_grad()
def continued(model: nn.Module, known: Vocabulary, texts: Sequence[str], tokens: int) -> list[str]:
    """How a model goes on with texts: the most probable word each time, to the end of the text or of its row.

    Args:
        model: in evaluation mode.
        known: its words.
        texts: what to go on from; of a longer one the last half a row is read.
        tokens: of a row.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(known.tokenizer)
    found = []
    for text in texts:
        begun = [*known.opening, *next(known.numbers([text]))][-max(1, tokens // 2) :]
        row = list(begun)
        while len(row) < tokens:
            answer = int(logits_of(model(torch.tensor([row])))[0, -1].argmax())
            if answer == known.end:
                break
            row.append(answer)
        found.append(str(tokenizer.decode(row[len(begun) :])).strip())
    return found
