"""One's own texts and prompts as streams: which words are whose, what is asked, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.bench.data import found, language, named, placed, saved, vocabulary
from holdfast.bench.data.arranging import stream_of
from holdfast.bench.data.finding import is_place
from holdfast.bench.data.sets import TextDataset
from holdfast.bench.training import own_texts
from holdfast.errors import ConfigurationError, DataError

pytest.importorskip("tokenizers", reason="the bench's packages are not installed")


def texts(path: Path, word: str, count: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(f"{word} {k} goes on" for k in range(count)), encoding="utf-8")
    return path


def pairs(path: Path, count: int = 10, **further: Any) -> Path:
    rows = [{"prompt": f"what is {k}", "answer": f"it is {k}", **further} for k in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_a_name_is_cut_where_something_lies(here: Path) -> None:
    for name in ("my-texts.txt", "b.txt"):
        texts(here / name, "a")
    wanted = placed.Placed("lm-sequence", "language", ("my-texts.txt", "imdb", "./b.txt"))
    assert placed.read("lm-sequence-my-texts.txt-imdb-./b.txt") == wanted
    assert placed.read("lm-sequence-imdb-financial_phrasebank") is None and placed.read("split-mnist") is None
    assert is_place("lm-sequence-my-texts.txt") and not is_place("lm-sequence-imdb-financial_phrasebank")
    texts(here / "my", "a")
    texts(here / "texts.txt", "a")
    with pytest.raises(ConfigurationError, match=r"can be read as my-texts\.txt or my, texts\.txt; expected"):
        placed.read("lm-sequence-my-texts.txt")
    with pytest.raises(ConfigurationError, match=r"'lm-sequence-imdb-no-such' has 'no-such', which is no file or fol"):
        placed.read("lm-sequence-imdb-no-such")
    with pytest.raises(ConfigurationError, match=r"'instruct-imdb' has 'imdb', which is no file or folder$"):
        placed.read("instruct-imdb")


def test_several_texts_are_tasks_in_the_order_of_their_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **_: Any) -> TextDataset:
        lines = tuple(f"film {k}" for k in range(9))
        return TextDataset(name, lines, torch.zeros(9, dtype=torch.int64), lines[:3], torch.zeros(3), ("a", "b"))

    monkeypatch.setattr(named, "load_text", load)
    texts(here / "b.txt", "boat")
    texts(here / "law" / "task-1.txt", "act")
    texts(here / "law" / "task-2.txt", "bill")
    there = found.read("lm-sequence-b.txt-imdb-law")
    assert there.name == "lm-sequence-b-imdb-law" and there.kind == "language"
    assert [task.name for task in there.tasks] == ["b", "imdb", "law/task-1", "law/task-2"]
    assert {name: len(part) for name, part in there.tasks[1].parts.items()} == {"train": 9, "test": 3}
    said: list[str] = []
    stream = stream_of("lm-sequence-b.txt-imdb-law", text_options={"tokens": 4}, say=said.append)
    assert (stream.scenario, stream.holds, stream.input_shape) == ("domain", "language", (4,))
    assert said == [
        "lm-sequence-b.txt-imdb-law has no part to test: 6 samples, 20% of each task, are held out for that, always "
        "the same."
    ]
    boat = next(vocabulary.Vocabulary(stream.tokenizer or "", 0).numbers(["boat"]))[0]
    assert [bool((task.train.samples == boat).any()) for task in stream] == [True, False, False, False]
    assert str(here) not in json.dumps(stream.about) and stream.about["text_options"] == {"tokens": 4}
    split = stream.with_validation(0.25, 0)
    for task, whole in zip(split, stream, strict=True):
        assert not set(task.train.rows.tolist()) & set(task.valid.rows.tolist())
        assert len(task.train) + len(task.valid) == len(whole.train) and len(task.valid)


def test_only_answers_are_asked_for(here: Path) -> None:
    stream = stream_of(str(pairs(here / "qa.jsonl")))
    known = stream.vocabulary
    assert known is not None
    task = stream.tasks[0]
    assert len(task.train) == 8 and len(task.test) == 2 and stream.name == "qa" and stream.input_shape == (8,)
    words, labels = task.batch(task.train, torch.tensor([0]))
    number = next(k for k in range(10) if next(known.numbers([str(k)])) == [int(words[0, 2])])
    prompt = next(known.numbers([f"what is {number}{known.between}"]))
    answer = [*next(known.numbers([f"it is {number}"])), known.end]
    assert len(prompt) == 4  # with the mark
    assert words.tolist() == [prompt + answer] and labels.tolist() == [[-100] * 4 + answer]
    assert int(task.answers_in(task.train.targets)) == 8 * 4
    shared = stream_of(str(pairs(here / "qa.jsonl")), text_options={"tokens": 20}).tasks[0].train
    assert torch.equal(shared.targets[:, :8], task.train.targets) and bool((shared.targets[:, 8:] == -100).all())
    assert bool((shared.samples[:, 8:] == known.padding).all())


@pytest.mark.parametrize(
    ("tokens", "prompt"), [(10, "p q r s t"), (9, "q r s t"), (7, "s t"), (6, "s t"), (4, "t"), (2, "")]
)
def test_a_pair_that_is_too_long_keeps_its_middle(tokens: int, prompt: str) -> None:
    known = vocabulary.trained(["a b c p q r s t"], 20, answers=True)
    rows = language.answered(known, [("p q r s t", "a b c")], tokens, 5)
    (before,), (after,) = known.numbers([prompt + known.between]), known.numbers(["a b c"])
    whole = [*before, *after, known.end][:tokens]
    assert rows.words[0, : len(whole)].tolist() == whole
    asked = rows.labels[0] != -100
    assert asked.tolist() == [len(before) <= k < len(before) + 4 for k in range(tokens)]
    assert rows.shortened == (tokens < 10)


class _Repeats(torch.nn.Module):
    """Says the end of an answer, always."""

    def __init__(self, words: int, end: int) -> None:
        super().__init__()
        self.answer = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(end), words) * 99.0)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.answer.expand(*words.shape, -1)


def test_own_answers_begin_with_prompts_of_all_tasks_so_far(here: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        pairs(here / name, source=name)
    stream = stream_of("instruct-a.jsonl-b.jsonl")
    assert [task.name for task in stream] == ["a", "b"] and stream.vocabulary is not None
    end = stream.vocabulary.end
    model = _Repeats(stream.num_outputs, end)
    draw = torch.Generator().manual_seed(0)
    written = own_texts.write(model, stream, draw, learned=1, samples=10)
    known = {tuple(row[:4]) for task in stream for row in task.train.samples.tolist()}
    for row, given, length in zip(
        written.tokens.tolist(), written.given.tolist(), written.lengths.tolist(), strict=True
    ):
        assert tuple(row[:given]) in known and row[given:length] == [end] and given == 4
    first = own_texts.write(model, stream, draw, learned=0, samples=10)
    assert {tuple(row[:4]) for row in first.tokens.tolist()} <= {
        tuple(r[:4]) for r in stream.tasks[0].train.samples.tolist()
    }
    plain = own_texts.write(model, stream_of(str(texts(here / "c.txt", "c", 90))), draw, learned=0, samples=2)
    assert plain.given.tolist() == [1, 1]


def test_a_stream_of_texts_travels_as_a_file(here: Path) -> None:
    stream = stream_of(str(pairs(here / "qa.jsonl", split="train")))
    again = saved.read(saved.write(stream, here / "stream.safetensors"))
    for name in ("name", "scenario", "own", "vocabulary", "tokenizer", "about", "holds", "num_outputs", "input_shape"):
        assert getattr(again, name) == getattr(stream, name)
    for mine, its in zip(stream.with_validation(0.2, 1), again.with_validation(0.2, 1), strict=True):
        for part in ("train", "valid", "test"):
            assert torch.equal(getattr(mine, part).samples, getattr(its, part).samples)
            assert torch.equal(getattr(mine, part).targets, getattr(its, part).targets)
        assert dataclasses.asdict(mine)["name"] == its.name
    other = stream_of(str(pairs(here / "qa.jsonl", count=11)))
    assert other.own != stream.own


@pytest.mark.parametrize(
    ("name", "options", "kind", "sentence"),
    [
        ("qa.jsonl", {"scenario": "task"}, ConfigurationError, "needs scenario='domain', got 'task'"),
        ("qa.jsonl", {"words": 3}, ConfigurationError, "words does not apply to qa.jsonl, which holds prompts"),
        (
            "qa.jsonl",
            {"classes_per_task": 3},
            ConfigurationError,
            "classes_per_task does not apply to qa.jsonl, which h",
        ),
        ("qa.jsonl", {"text_options": {"token": 3}}, ConfigurationError, "text.token is 3"),
        ("instruct-a.txt", {}, DataError, "a.txt holds texts without labels; expected prompts and answers"),
        ("a.txt", {"text_options": {"tokens": 99}}, DataError, "training part of a makes 0 rows of 99 words; expected"),
        (
            "a.txt",
            {"text_options": {"tokenizer": "no/such", "vocabulary": 9}},
            ConfigurationError,
            "expected one of text.vocabulary and text.tokenizer",
        ),
    ],
)
def test_what_makes_no_stream_of_texts(
    here: Path, name: str, options: dict[str, Any], kind: Any, sentence: str
) -> None:
    pairs(here / "qa.jsonl")
    texts(here / "a.txt", "a")
    with pytest.raises(kind, match=sentence):
        stream_of(name, **options)


def test_without_labels_it_is_said_what_a_table_is_taken_for(here: Path) -> None:
    said: list[str] = []
    (here / "a.csv").write_text("text,stars\n" + "\n".join(f"a b c d {k},{k}" for k in range(90)), encoding="utf-8")
    assert stream_of("a.csv", say=said.append).holds == "language"
    assert said[0].startswith("a.csv holds texts without labels. They are to be continued")
