"""Texts to be continued word by word, or prompts to be answered: rows of as many words each, one task per data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from holdfast.bench.data import named, vocabulary
from holdfast.bench.data.asked import Asked
from holdfast.bench.data.sets import TextDataset
from holdfast.bench.data.splitting import Split
from holdfast.bench.data.tasks import Stream, Task
from holdfast.bench.data.text import read_options
from holdfast.bench.data.vocabulary import Vocabulary
from holdfast.bench.records import seeding
from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives import CausalLM
from holdfast.objectives.distributions import IGNORED

__all__ = [
    "HOLDS",
    "Options",
    "Rows",
    "Texts",
    "answered",
    "blocks",
    "digest",
    "of_texts",
    "options",
    "sequence",
    "stream_of",
]

HOLDS = "language"
"""What `Stream.holds` says of such a stream."""

_WORDS, _LONGEST_ANSWERED = 32, 128


class Options(BaseModel):
    """How texts become rows of words.

    ``tokens``: of a row; by default 32, of prompts with answers as many as the longest pair has, 128 at most;
    ``vocabulary``: at most so many different words, the most frequent; ``tokenizer``: a folder of Transformers or an id
    of the Hub, whose words are taken in their place; ``rows``: at most so many of a task's training part, ``test_rows``
    of its test part; ``test_fraction``: the share of the texts that is the test part of a data set that comes without
    one.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = Field(default=None, ge=2)
    vocabulary: int = Field(default=2_000, ge=4)
    tokenizer: str | None = None
    rows: int = Field(default=20_000, ge=2)
    test_rows: int = Field(default=1_000, ge=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)


def options(given: Mapping[str, Any]) -> Options:
    """Options that a user gave.

    Raises:
        ConfigurationError: naming the one that is wrong.
    """
    found = read_options(Options, given)
    if found.tokenizer is not None and "vocabulary" in found.model_fields_set:
        raise ConfigurationError(
            f"text.vocabulary is {found.vocabulary}, but the words are those of {found.tokenizer}: expected one of "
            "text.vocabulary and text.tokenizer"
        )
    return found


Sample: TypeAlias = "str | tuple[str, str]"
"""A text to be continued, or a prompt with its answer."""


@dataclass(frozen=True)
class Texts:
    """What one task is made of: texts, or prompts with their answers; ``valid`` is empty where it brings none."""

    name: str
    train: Sequence[Sample]
    test: Sequence[Sample]
    valid: Sequence[Sample] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of words, int32 ``[R, T]``, and their labels int64 ``[R, T]``: the words, -100 where nothing is asked.

    ``shortened`` counts the pairs of which something had to be left out.
    """

    words: Tensor
    labels: Tensor
    shortened: int = 0


def blocks(known: Vocabulary, texts: Sequence[str], tokens: int, most: int) -> Rows:
    """Texts one after another, an end after each, cut into rows.

    Args:
        known: the words.
        texts: N of them.
        tokens: T, of a row.
        most: rows at most.

    Returns:
        The rows; what is left over at the end is too short for one.
    """
    numbers: list[int] = []
    for each in known.numbers(texts):
        if len(numbers) >= most * tokens:
            break
        numbers += [*known.begin, *each, known.end]
    rows = min(most, len(numbers) // tokens)
    words = torch.tensor(numbers[: rows * tokens], dtype=torch.int32).view(rows, tokens)
    return Rows(words, words.long())


def answered(known: Vocabulary, pairs: Sequence[tuple[str, str]], tokens: int, most: int) -> Rows:
    """Prompts and their answers, a row each; the loss is that of the answers and of the end behind them.

    Where a pair is longer than a row, its prompt loses its beginning, down to half a row, and then its answer its end.

    Args:
        known: the words.
        pairs: N of them.
        tokens: T, of a row.
        most: rows at most.
    """
    pairs = pairs[:most]
    prompts, answers = _numbered(known, pairs)
    words = torch.full((len(pairs), tokens), known.padding, dtype=torch.int32)
    labels = torch.full((len(pairs), tokens), IGNORED)
    shortened = 0
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        shortened += len(prompt) + len(answer) > tokens
        answer = answer[: tokens - min(len(prompt), tokens // 2)]
        prompt = prompt[max(0, len(prompt) + len(answer) - tokens) :]
        start, end = len(prompt), len(prompt) + len(answer)
        words[row, :end] = torch.tensor([*prompt, *answer], dtype=torch.int32)
        labels[row, start:end] = torch.tensor(answer)
    return Rows(words, labels, shortened)


def sequence(
    name: str, datasets: Sequence[str], asked: Asked, *, data_dir: Path | str | None, cache_dir: Path | str | None
) -> Stream:
    """One task per named data set: its texts are to be continued, one vocabulary serves all.

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
    parts = [_parted(named.load_text(each, data_dir=data_dir, cache_dir=cache_dir), wanted) for each in datasets]
    stream, _ = of_texts(name, parts, wanted)
    return stream.with_validation(asked.validation_fraction, asked.seed)


def _parted(source: TextDataset, wanted: Options) -> Texts:
    """A named data set with a test part."""
    train, test = list(source.train_texts), list(source.test_texts)
    if not test:
        train = _shuffled(train, source.name, "train")
        aside = max(1, round(wanted.test_fraction * len(train)))
        return Texts(source.name, train[aside:], train[:aside])
    return Texts(source.name, _shuffled(train, source.name, "train"), _shuffled(test, source.name, "test"))


def _shuffled(texts: Sequence[Any], name: str, part: str) -> list[Any]:
    """Texts in an order of their own, for sources are sorted by label. The same for every seed."""
    draw = seeding.generator(0, name, "order of texts", part)
    return [texts[row] for row in torch.randperm(len(texts), generator=draw).tolist()]


def of_texts(name: str, parts: Sequence[Texts], wanted: Options, *, shuffle: bool = False) -> tuple[Stream, int]:
    """A stream of texts, all to be continued or all to be answered; without a validation part but those it brings.

    Args:
        name: of the stream.
        parts: its tasks in order of arrival.
        wanted: how texts become rows.
        shuffle: put the samples of each part in an order of their own.

    Returns:
        The stream, and how many pairs of prompt and answer are longer than a row.

    Raises:
        DataError: for a part that makes too few rows.
    """
    answers = isinstance(parts[0].train[0], tuple)
    most = {"train": wanted.rows, "valid": wanted.test_rows, "test": wanted.test_rows}
    found: list[dict[str, list[Any]]] = []
    for part in parts:
        samples = {key: list(getattr(part, key)) for key in most}
        if shuffle:
            samples = {key: _shuffled(each, part.name, key) for key, each in samples.items()}
        found.append({key: _enough(each, most[key], wanted.tokens or _WORDS) for key, each in samples.items()})
    if wanted.tokenizer is not None:
        known = vocabulary.of_model(wanted.tokenizer)
    else:
        learned = (line for part in found for sample in part["train"] for line in _lines(sample))
        known = vocabulary.trained(learned, wanted.vocabulary, answers=answers)
    tokens = wanted.tokens or (_longest(known, found) if answers else _WORDS)
    made = answered if answers else blocks
    rows = [{key: made(known, part[key], tokens, most[key]) for key in most} for part in found]
    stream = stream_of(name, list(zip((part.name for part in parts), rows, strict=True)), known)
    return stream, sum(each.shortened for part in rows for each in part.values())


def _enough(samples: Sequence[Sample], rows: int, tokens: int) -> list[Sample]:
    """So many pairs of prompt and answer; of texts no more than make so many rows.

    No text has fewer words than it has spaces between them: more are never needed, and to read all takes long.
    """
    kept: list[Sample] = []
    words = rows * tokens
    for sample in samples:
        if words <= 0 or (isinstance(sample, tuple) and len(kept) == rows):
            break
        kept.append(sample)
        words -= len(sample.split()) if isinstance(sample, str) else 0
    return kept


def _lines(sample: Sample) -> tuple[str, ...]:
    return (sample,) if isinstance(sample, str) else sample


def _longest(known: Vocabulary, parts: Sequence[Mapping[str, Sequence[tuple[str, str]]]]) -> int:
    """How many words the longest pair to train on has with its marks; 128 at most."""
    pairs = [pair for part in parts for pair in part["train"]]
    prompts, answers = _numbered(known, pairs)
    return min(_LONGEST_ANSWERED, max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)))


def _numbered(known: Vocabulary, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and answers with their marks."""
    prompts = known.numbers([prompt + known.between for prompt, _ in pairs])
    answers = known.numbers([answer for _, answer in pairs])
    return [[*known.begin, *each] for each in prompts], [[*each, known.end] for each in answers]


def stream_of(name: str, tasks: Sequence[tuple[str, Mapping[str, Rows]]], known: Vocabulary) -> Stream:
    """A stream of rows of words.

    Args:
        name: of the stream.
        tasks: in order of arrival: a name, and the rows of its parts, ``train``, ``test`` and perhaps ``valid``.
        known: whose numbers these are.

    Raises:
        DataError: for a part to train on or to test that makes fewer than two rows.
    """
    size = known.size
    words_known = tuple(range(size))
    made = []
    # The mean loss is over words either way. Importances square the gradient of a whole row: to square each word's
    # for itself takes a backward pass for every place in a row.
    asked_for, learned = CausalLM(per="token"), CausalLM(per="sequence")
    for index, (task, parts) in enumerate(tasks):
        splits = {}
        for part, what in (("train", "training"), ("test", "test"), ("valid", "validation")):
            rows = parts.get(part)
            if rows is None or not len(rows.words):
                rows = Rows(parts["train"].words[:0], parts["train"].labels[:0])
            if part != "valid" and len(rows.words) < 2:
                width = parts["train"].words.shape[1]
                raise DataError(
                    f"the {what} part of {task} makes {len(rows.words)} rows of {width} words; expected at least 2: "
                    "more text, or shorter rows (text.tokens)"
                )
            splits[part] = Split(rows.words, torch.arange(len(rows.words)), rows.labels)
        train, valid, test = (splits[part] for part in ("train", "valid", "test"))
        made.append(Task(task, index, train, valid, test, words_known, words_known, asked_for, learned))
    return Stream(
        name=name,
        scenario="domain",
        training_outputs="all",
        tasks=tuple(made),
        num_outputs=size,
        heads=None,
        input_shape=(tasks[0][1]["train"].words.shape[1],),
        tokenizer=known.tokenizer,
        vocabulary=known,
        holds=HOLDS,
    )


def digest(stream: Stream) -> str:
    """What tells the rows and the words of a stream from any others."""
    assert stream.tokenizer is not None
    found = hashlib.sha256(stream.tokenizer.encode())
    for task in stream:
        for split in (task.train, task.valid, task.test):
            for tensor in (split.samples, split.targets):
                found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
