"""Streams of one's own data: whose labels are which outputs, what is set aside, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.bench.data import found, saved
from holdfast.bench.data.arranging import stream_of
from holdfast.errors import ConfigurationError, DataError
from tests.bench.data.made import picture, pictures, table


@pytest.fixture(autouse=True)
def _cached_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("scenario", "outputs", "heads", "classes", "answers"),
    [
        ("task", 5, (2, 3), [(0, 1), (0, 1, 2)], [("a", "b"), ("c", "d", "e")]),
        ("domain", 3, None, [(0, 1, 2), (0, 1, 2)], [("a", "b"), ("c", "d", "e")]),
        ("class", 5, None, [(0, 1), (2, 3, 4)], [("a", "b"), ("c", "d", "e")]),
    ],
)
def test_classes_are_dealt_out(
    tmp_path: Path, scenario: Any, outputs: int, heads: Any, classes: Any, answers: Any
) -> None:
    said: list[str] = []
    stream = stream_of(pictures(tmp_path / "pets", "abcde"), scenario=scenario, say=said.append)
    assert [task.name for task in stream] == ["a/b", "c/d/e"] and stream.name == "pets"
    assert (stream.num_outputs, stream.heads, stream.input_shape) == (outputs, heads, (1, 4, 4))
    assert [task.classes for task in stream] == classes and [task.answers for task in stream] == answers
    assert [(len(task.train), len(task.test)) for task in stream] == [(8, 2), (12, 3)]
    assert said == [
        f"{tmp_path / 'pets'} has no part to test: 5 samples, 20% of every class, are held out for that, always the "
        "same.",
        "5 classes do not divide into tasks of 2: the last has 3 (c, d, e).",
    ]
    assert (stream.about["data"], stream.holds) == ("25 grey images of 4x4 in 5 classes", "grey")


def test_pixels_are_normalised_by_the_training_parts_alone(tmp_path: Path) -> None:
    pictures(tmp_path / "pets" / "train", "ab")
    pictures(tmp_path / "pets" / "test", "ab", count=2)
    picture(tmp_path / "pets" / "test" / "a" / "9.png", 255)
    stream = stream_of(tmp_path / "pets")
    values = torch.tensor([0, 1, 2, 3, 4, 10, 11, 12, 13, 14], dtype=torch.float64) / 255
    assert stream.mean == pytest.approx([float(values.mean())], abs=1e-12)
    assert stream.std == pytest.approx([float(values.std(correction=0))], abs=1e-12)
    task = stream.tasks[0]
    inputs, targets = task.batch(task.train, torch.arange(10))
    assert inputs.mean() == pytest.approx(0, abs=1e-5) and inputs.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert targets.tolist() == [0] * 5 + [1] * 5


def test_images_become_one_size_and_one_mode(tmp_path: Path) -> None:
    picture(tmp_path / "pets" / "a" / "wide.png", 7, (80, 20))
    pictures(tmp_path / "pets", "ab", count=2)
    picture(tmp_path / "pets" / "b" / "colour.png", 9, (4, 4), "RGB")
    said: list[str] = []
    stream = stream_of(tmp_path / "pets", say=said.append)
    assert stream.input_shape == (3, 32, 32) and stream.holds == "colour"
    assert "have 4x4 to 80x20 pixels: they become 32x32 (image_size, or --image-size, says otherwise)" in said[0]
    assert "5 images of 6 in" in said[1] and "are grey: they become colour" in said[1]
    assert stream_of(tmp_path / "pets", image_size=8).input_shape == (3, 8, 8)


def test_decoded_images_are_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = pictures(tmp_path / "pets")
    first = stream_of(place)
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.bench.data.pictures._opened", lambda file: pytest.fail("decoded again"))
        assert stream_of(place).own == first.own
    picture(place / "a" / "0.png", 77)
    assert stream_of(place).own != first.own


def test_a_table_with_tasks(tmp_path: Path) -> None:
    rows = [f"{label} {k},{label},{day}" for day in ("day 2", "day 10") for label in ("no", "yes") for k in range(5)]
    stream = stream_of(table(tmp_path / "mail.csv", "text,label,when", *rows), task="when", scenario="domain")
    assert [(task.name, task.answers) for task in stream] == [("day 2", ("no", "yes")), ("day 10", ("no", "yes"))]
    assert (stream.num_outputs, stream.holds, stream.input_shape) == (2, "texts", (30,))
    assert stream.about["columns"] == {"text": "text", "label": "label", "task": "when"} and stream.tokenizer
    assert stream_of(tmp_path / "mail.csv", task="when", words=4).input_shape == (4,)


def test_a_validation_part_of_its_own_is_kept(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("val", 3), ("test", 2)):
        pictures(tmp_path / "pets" / name, "abcd", count=count)
    stream = stream_of(tmp_path / "pets").with_validation(0.5, 0)
    assert [(len(task.train), len(task.valid), len(task.test)) for task in stream] == [(10, 6, 4)] * 2


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_other_processes_read_the_same_stream(tmp_path: Path, scenario: Any) -> None:
    for name, count in (("train", 5), ("val", 3), ("test", 2)):
        pictures(tmp_path / "pets" / name, "abcde", count=count)
    stream = stream_of(tmp_path / "pets", scenario=scenario)
    back = saved.read(saved.write(stream, tmp_path / "stream.safetensors"))
    assert (back.own, back.outputs, back.about, back.holds) == (stream.own, stream.outputs, stream.about, stream.holds)
    for one, other in zip(stream, back, strict=True):
        assert (one.name, one.classes, one.seen, one.answers) == (other.name, other.classes, other.seen, other.answers)
        for mine, theirs in ((one.train, other.train), (one.test, other.test), (one.valid, other.valid)):
            every = torch.arange(len(mine))
            for left, right in zip(one.batch(mine, every), other.batch(theirs, every), strict=True):
                assert torch.equal(left, right)


def test_saved_features_are_given_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(tmp_path / "f.npz", x=x, y=np.arange(20) % 4)
    stream = stream_of(tmp_path / "f.npz", scenario="class")
    assert (stream.holds, stream.input_shape, stream.std) == (
        "features",
        (3,),
        (),
    )
    task = stream.tasks[0]
    rows, _ = task.batch(task.train, torch.arange(len(task.train)))
    assert all((x == row.numpy()).all(1).any() for row in rows)


def one_class(root: Path) -> Path:
    return pictures(root / "pets", "a")


def untaught(root: Path) -> Path:
    pictures(root / "pets" / "train", "abc")
    return pictures(root / "pets" / "test", "abcd").parent


def untested(root: Path) -> Path:
    pictures(root / "pets" / "train", "abcd")
    return pictures(root / "pets" / "test", "ab").parent


def only_tested(root: Path) -> Path:
    return pictures(root / "pets" / "test", "ab").parent


def in_tasks(root: Path) -> Path:
    pictures(root / "pets" / "t1", "ab")
    return pictures(root / "pets" / "t2", "ab").parent


@pytest.mark.parametrize(
    ("make", "options", "kind", "sentence"),
    [
        (one_class, {}, DataError, r"pets has one class, 'a'; expected at least two"),
        (untaught, {"scenario": "domain"}, DataError, "c/d is tested on the label d, which it does not train on"),
        (untaught, {}, DataError, "c/d is tested on the label d, which it does not train on"),
        (untested, {}, DataError, "the task c/d has no sample to test; expected some"),
        (only_tested, {}, DataError, "pets has a part for test, but none to train on; expected train"),
        (in_tasks, {"classes_per_task": 1}, ConfigurationError, r"classes_per_task does not apply .* \(t1, t2\)"),
        (in_tasks, {"words": 3}, ConfigurationError, "words does not apply to .*pets, which holds images"),
        (in_tasks, {"image_size": 0}, ConfigurationError, "image_size is 0; expected at least 1"),
        (in_tasks, {"scenario": "tasks"}, ConfigurationError, "scenario is 'tasks'"),
        (one_class, {"classes_per_task": 3}, DataError, "has one class"),
        (
            lambda root: pictures(root / "pets"),
            {"classes_per_task": 3},
            ConfigurationError,
            "is 3, but .* has 2 classes",
        ),
        (lambda root: table(root / "a.txt", "words"), {}, DataError, r"a\.txt has 1 sample; expected at least 2"),
        (in_tasks, {"text_options": {}}, ConfigurationError, "text does not apply to .*pets, which holds images"),
    ],
)
def test_what_makes_no_stream(tmp_path: Path, make: Any, options: dict[str, Any], kind: Any, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        stream_of(make(tmp_path), **options)


def test_a_folder_called_like_a_stream_has_another_name(tmp_path: Path) -> None:
    assert stream_of(pictures(tmp_path / "split-mnist")).name == "own-split-mnist"


def test_a_class_without_a_second_sample_is_named(tmp_path: Path) -> None:
    pictures(tmp_path / "pets")
    picture(tmp_path / "pets" / "c" / "0.png")
    with pytest.raises(DataError, match=r"the class 'c' of .*pets has 1 sample; expected at least 2"):
        found.read(tmp_path / "pets").with_test()
