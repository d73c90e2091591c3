"""The words of texts to be continued: a vocabulary made of the texts themselves, or that of a pretrained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from holdfast.bench.data import pretrained
from holdfast.bench.data.text import PADDING, PADDING_WORD, UNKNOWN_WORD, train_words
from holdfast.errors import ConfigurationError, Option

__all__ = ["Vocabulary", "of_model", "trained"]

_END, _ANSWER = "[END]", "[ANSWER]"
_AT_ONCE = 256


@dataclass(frozen=True)
class Vocabulary:
    """How texts become numbers.

    Attributes:
        tokenizer: the JSON of the ``tokenizers`` library.
        end: what stands behind a text, and behind an answer.
        begin: what stands before a text; empty: nothing.
        between: what stands between a prompt and its answer, as text.
        padding: what fills up a row.
    """

    tokenizer: str
    end: int
    begin: tuple[int, ...] = ()
    between: str = "\n"
    padding: int = PADDING

    @property
    def size(self) -> int:
        """How many different words there are."""
        from tokenizers import Tokenizer

        found: int = Tokenizer.from_str(self.tokenizer).get_vocab_size()
        return found

    @property
    def opening(self) -> tuple[int, ...]:
        """What a text of a model's own begins behind."""
        return self.begin or (self.end,)

    def numbers(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The words of each text, without any mark; read a few at a time."""
        from tokenizers import Tokenizer

        found = Tokenizer.from_str(self.tokenizer)
        found.no_truncation()
        found.no_padding()
        for start in range(0, len(texts), _AT_ONCE):
            for each in found.encode_batch(list(texts[start : start + _AT_ONCE]), add_special_tokens=False):
                yield each.ids


def trained(texts: Iterable[str], most: int, *, answers: bool = False) -> Vocabulary:
    """A vocabulary of the texts' words, with a mark that stands between two texts.

    Args:
        texts: where the words are from.
        most: how many at most, the most frequent.
        answers: whether it has a mark that stands between a prompt and its answer.

    Raises:
        DependencyError: without the ``tokenizers`` library.
    """
    marks = (PADDING_WORD, UNKNOWN_WORD, _END, *([_ANSWER] if answers else []))
    found = train_words(texts, most, marks)
    end = found.token_to_id(_END)
    assert end is not None and found.token_to_id(PADDING_WORD) == PADDING
    return Vocabulary(str(found.to_str()), end, between=f" {_ANSWER}" if answers else "\n")


def of_model(source: str) -> Vocabulary:
    """The vocabulary of a pretrained language model: that of its own tokenizer.

    Args:
        source: a folder, or an id of the Hub.

    Raises:
        ConfigurationError: if it has none that can be read, or none that says where a text ends.
        DependencyError: if Transformers is not installed.
    """
    found = pretrained.tokenizer(source)
    if not found.is_fast:
        raise ConfigurationError(
            Option("model"), f" {source} has a tokenizer without a tokenizer.json; expected a fast one"
        )
    end = found.eos_token_id if found.eos_token_id is not None else found.bos_token_id
    if end is None:
        raise ConfigurationError(
            Option("model"), f" {source} has a tokenizer without an end-of-text token; expected one that has it: "
            "tokenizer.add_special_tokens({'eos_token': '…'})"
        )  # fmt: skip
    plain, marked = (found("a", add_special_tokens=marks)["input_ids"] for marks in (False, True))
    begins = found.bos_token_id is not None and marked[:1] == [found.bos_token_id] and plain[:1] != marked[:1]
    padding = end if found.pad_token_id is None else found.pad_token_id
    return Vocabulary(found.backend_tokenizer.to_str(), end, (found.bos_token_id,) if begins else (), padding=padding)
