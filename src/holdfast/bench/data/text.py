"""Texts as rows of word numbers: one vocabulary for all data sets of a stream, from their training parts alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from holdfast.bench.data import named as data
from holdfast.bench.data.sets import ImageDataset, TextDataset
from holdfast.bench.data.splitting import holdout
from holdfast.bench.records import seeding
from holdfast.errors import ConfigurationError, DependencyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "PADDING",
    "PADDING_WORD",
    "UNKNOWN_WORD",
    "Options",
    "encode",
    "load",
    "options",
    "read_options",
    "train_tokenizer",
    "train_words",
    "vocabulary",
]

PADDING = 0
"""The number that stands where a text has ended."""

_UNKNOWN = 1
PADDING_WORD, UNKNOWN_WORD = "[PAD]", "[UNK]"
_Kind = TypeVar("_Kind", bound=BaseModel)


class Options(BaseModel):
    """How texts become numbers.

    ``tokens``: the first so many words of a text; ``vocabulary``: at most so many different ones, the most frequent;
    ``test_fraction``: the share of every class set aside as the test part of a data set that comes without one.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(default=30, ge=1)
    vocabulary: int = Field(default=60_000, ge=3)
    test_fraction: float = Field(default=0.2, ge=0, lt=1)


def options(given: Mapping[str, Any]) -> Options:
    """Options that a user gave; see :func:`read_options`."""
    return read_options(Options, given)


def read_options(kind: type[_Kind], given: Mapping[str, Any]) -> _Kind:
    """Options that a user gave.

    Args:
        kind: what they are.
        given: name -> value.

    Raises:
        ConfigurationError: naming the one that is wrong.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"text.{where} is {first['input']!r}: {first['msg'].lower()}") from error


def train_words(texts: Iterable[str], vocabulary: int, special: Sequence[str]) -> Tokenizer:
    """A vocabulary of whole words, lower-cased, the most frequent first; the same texts give the same one.

    Args:
        texts: where the words are from.
        vocabulary: how many at most.
        special: what has the first numbers; among them the unknown word.

    Raises:
        DependencyError: without the ``tokenizers`` library.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise DependencyError("texts need the bench: pip install 'holdfast[bench]'") from error
    found = Tokenizer(models.WordLevel(unk_token=UNKNOWN_WORD))
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    words: list[Any] = list(special)  # the library's stubs do not know that special tokens may be plain words
    found.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=words, show_progress=False)
    )
    return found


def train_tokenizer(texts: Iterable[str], asked: Options) -> str:
    """A vocabulary of the texts' first words.

    Returns:
        The JSON of the ``tokenizers`` library.

    Raises:
        DependencyError: without that library.
    """
    openings = (_opening(text, asked.tokens) for text in texts)
    found = train_words(openings, asked.vocabulary, (PADDING_WORD, UNKNOWN_WORD))
    assert found.token_to_id(PADDING_WORD) == PADDING and found.token_to_id(UNKNOWN_WORD) == _UNKNOWN
    found.enable_truncation(asked.tokens)
    found.enable_padding(length=asked.tokens, pad_id=PADDING, pad_token=PADDING_WORD)
    return str(found.to_str())


def _opening(text: str, tokens: int) -> str:
    """As much of a text as can hold its first tokens: no token has a space in it. Reading all of it takes long."""
    return " ".join(text.split(maxsplit=tokens)[:tokens])


def encode(tokenizer: str, texts: Sequence[str]) -> Tensor:
    """Texts as numbers.

    Args:
        tokenizer: as from :func:`train_tokenizer`.
        texts: N of them.

    Returns:
        int32 ``[N, tokens]``: the words' numbers, then padding.
    """
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(tokenizer)
    assert found.padding is not None
    width = found.padding["length"]
    rows = [each.ids for each in found.encode_batch([_opening(text, width) for text in texts])]
    return torch.tensor(rows, dtype=torch.int32).view(-1, width)


def vocabulary(tokenizer: str) -> int:
    """How many words a tokenizer of :func:`train_tokenizer` tells apart, padding and the unknown word among them."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_str(tokenizer).get_vocab_size())


@dataclass(frozen=True)
class _Parts:
    source: TextDataset
    train: tuple[str, ...]
    train_y: Tensor
    test: tuple[str, ...]
    test_y: Tensor


def _parts(source: TextDataset, fraction: float) -> _Parts:
    if source.test_texts or not fraction:
        return _Parts(source, source.train_texts, source.train_y, source.test_texts, source.test_y)
    # The split belongs to the data set: it is the same for every seed of a run.
    stay, aside = holdout(source.train_y, fraction, seeding.generator(0, source.name, "test"))
    train, test = (tuple(source.train_texts[row] for row in rows.tolist()) for rows in (stay, aside))
    return _Parts(source, train, source.train_y[stay], test, source.train_y[aside])


def load(
    names: Sequence[str],
    asked: Options,
    *,
    data_dir: Path | str | None = None,
    cache_dir: Path | str | None = None,
) -> tuple[dict[str, ImageDataset], str]:
    """Data sets of texts under one vocabulary, word numbers where images have pixels.

    Args:
        names: of data sets of texts.
        asked: how texts become numbers.
        data_dir: see `data.load`.
        cache_dir: see `data.load`.

    Returns:
        Name -> data set, its samples int32 ``[N, tokens]``; and the tokenizer.

    Raises:
        ConfigurationError: if one of them is no data set of texts.
        DataError: if one cannot be read.
    """
    found = [
        _parts(data.load_text(name, data_dir=data_dir, cache_dir=cache_dir), asked.test_fraction)
        for name in dict.fromkeys(names)
    ]
    tokenizer = train_tokenizer((line for parts in found for line in parts.train), asked)
    sets = {
        parts.source.name: ImageDataset(
            parts.source.name,
            encode(tokenizer, parts.train),
            parts.train_y,
            encode(tokenizer, parts.test),
            parts.test_y,
            parts.source.class_names,
            (),
            (),
        )
        for parts in found
    }
    return sets, tokenizer
