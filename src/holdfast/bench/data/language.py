"""Texts to be continued word by word: rows of as many words each, cut out of whole texts one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from holdfast.bench.data import named
from holdfast.bench.data.asked import Asked
from holdfast.bench.data.sets import TextDataset
from holdfast.bench.data.tasks import Split, Stream, Task
from holdfast.bench.data.text import PADDING_WORD, UNKNOWN_WORD, read_options, train_words
from holdfast.bench.records import seeding
from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives import CausalLM

__all__ = ["HOLDS", "Options", "blocks", "end_of", "options", "sequence", "stream_of", "train_tokenizer"]

HOLDS = "language"
"""What `Stream.holds` says of such a stream."""

_END = "[END]"


class Options(BaseModel):
    """How texts become rows of words.

    ``tokens``: of a row; ``vocabulary``: at most so many different words, the most frequent; ``rows``: at most so many
    of a task's training part, ``test_rows`` of its test part; ``test_fraction``: the share of the texts that is the
    test part of a data set that comes without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(default=32, ge=2)
    vocabulary: int = Field(default=2_000, ge=4)
    rows: int = Field(default=20_000, ge=2)
    test_rows: int = Field(default=1_000, ge=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)


def options(given: Mapping[str, Any]) -> Options:
    """Options that a user gave.

    Raises:
        ConfigurationError: naming the one that is wrong.
    """
    return read_options(Options, given)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A vocabulary of the texts' words, with a mark that stands between two texts.

    Returns:
        The JSON of the ``tokenizers`` library.

    Raises:
        DependencyError: without that library.
    """
    return str(train_words(texts, vocabulary, (PADDING_WORD, UNKNOWN_WORD, _END)).to_str())


def end_of(tokenizer: str) -> int:
    """The number that stands between two texts, after which one begins."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(tokenizer).token_to_id(_END)
    assert found is not None, "made by train_tokenizer"
    return found


def blocks(tokenizer: str, texts: Sequence[str], tokens: int, most: int) -> Tensor:
    """Texts one after another, an end after each, cut into rows.

    Args:
        tokenizer: as from :func:`train_tokenizer`.
        texts: N of them.
        tokens: T, of a row.
        most: rows at most.

    Returns:
        int32 ``[R, T]``; what is left over at the end is too short for a row.
    """
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(tokenizer)
    end = end_of(tokenizer)
    numbers: list[int] = []
    for start in range(0, len(texts), 256):
        if len(numbers) >= most * tokens:
            break
        for each in found.encode_batch(list(texts[start : start + 256])):
            numbers += [*each.ids, end]
    rows = min(most, len(numbers) // tokens)
    return torch.tensor(numbers[: rows * tokens], dtype=torch.int32).view(rows, tokens)


def sequence(
    name: str, datasets: Sequence[str], asked: Asked, *, data_dir: Path | str | None, cache_dir: Path | str | None
) -> Stream:
    """One task per data set: its texts are to be continued, one vocabulary serves all.

    Args:
        name: of the stream.
        datasets: names of data sets of texts, each once.
        asked: what is set aside, and the options of texts.
        data_dir: see `named.load`.
        cache_dir: see `named.load`.

    Raises:
        ConfigurationError: for a data set that comes twice.
        DataError: if one cannot be read, or is too small.
    """
    if len(set(datasets)) < len(datasets):
        raise ConfigurationError(f"the stream {name!r} has a data set twice; expected each once")
    wanted = options(asked.text or {})
    parts = []
    for each in datasets:
        train, test = _parts(named.load_text(each, data_dir=data_dir, cache_dir=cache_dir), wanted)
        parts.append((each, train, test))
    tokenizer = train_tokenizer((text for _, train, _ in parts for text in train), wanted.vocabulary)
    made = []
    for each, train, test in parts:
        rows = blocks(tokenizer, train, wanted.tokens, wanted.rows)
        test_rows = blocks(tokenizer, test, wanted.tokens, wanted.test_rows)
        made.append((each, rows, rows, test_rows, test_rows))
    return stream_of(name, made, tokenizer, asked)


def _parts(source: TextDataset, wanted: Options) -> tuple[list[str], list[str]]:
    """Training and test texts in an order of their own: the sources are sorted by label. The same for every seed."""
    train, test = list(source.train_texts), list(source.test_texts)
    train = [train[row] for row in torch.randperm(len(train), generator=_draw(source.name, "train")).tolist()]
    test = [test[row] for row in torch.randperm(len(test), generator=_draw(source.name, "test")).tolist()]
    if not test:
        aside = max(1, round(wanted.test_fraction * len(train)))
        train, test = train[aside:], train[:aside]
    # No text has fewer words than it has spaces between them: more are never needed, and to read all takes long.
    return _enough(train, wanted.rows * wanted.tokens), _enough(test, wanted.test_rows * wanted.tokens)


def _enough(texts: Sequence[str], words: int) -> list[str]:
    kept: list[str] = []
    for text in texts:
        if words <= 0:
            break
        kept.append(text)
        words -= len(text.split())
    return kept


def _draw(name: str, part: str) -> torch.Generator:
    return seeding.generator(0, name, "order of texts", part)


def stream_of(
    name: str, parts: Sequence[tuple[str, Tensor, Tensor, Tensor, Tensor]], tokenizer: str, asked: Asked
) -> Stream:
    """A stream of rows of words.

    Args:
        name: of the stream.
        parts: its tasks in order of arrival: a name, then words and labels of the training and of the test part, int32
            ``[R, T]`` each; labels are the words, -100 where nothing is asked.
        tokenizer: whose numbers these are.
        asked: what is set aside.

    Raises:
        DataError: for a part without a row.
    """
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_str(tokenizer).get_vocab_size()
    words_known = tuple(range(vocabulary))
    tasks = []
    for index, (task, words, labels, test_words, test_labels) in enumerate(parts):
        for part, rows in (("training", words), ("test", test_words)):
            if len(rows) < 2:
                raise DataError(f"the {part} part of {task} makes {len(rows)} rows of words; expected at least 2")
        draw = seeding.generator(asked.seed, "validation", index)
        order = torch.randperm(len(words), generator=draw)
        aside = round(asked.validation_fraction * len(words))
        train, valid = (_split(words, labels, rows.sort().values) for rows in (order[aside:], order[:aside]))
        test = _split(test_words, test_labels, torch.arange(len(test_words)))
        # The mean loss is over words either way. Importances square the gradient of a whole row: to square each word's
        # for itself takes a backward pass for every place in a row.
        asked_for, learned = CausalLM(per="token"), CausalLM(per="sequence")
        tasks.append(Task(task, index, train, valid, test, words_known, words_known, asked_for, learned))
    return Stream(
        name=name,
        scenario="domain",
        training_outputs="all",
        tasks=tuple(tasks),
        num_outputs=vocabulary,
        heads=None,
        input_shape=(parts[0][1].shape[1],),
        tokenizer=tokenizer,
        holds=HOLDS,
    )


def _split(words: Tensor, labels: Tensor, rows: Tensor) -> Split:
    return Split(words, rows, labels[rows].long())
