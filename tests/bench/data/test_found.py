"""One's own data are recognised by what they are, and what is wrong with them is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from holdfast.bench.data import found, parts
from holdfast.errors import DataError
from tests.bench.data.made import CSV, pictures, table


@pytest.fixture(autouse=True)
def _cached_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))


def shape(place: Path | str, **told: Any) -> tuple[str, dict[str, dict[str, int]], tuple[str, ...]]:
    """Kind; task -> part -> how many; classes."""
    it = found.read(place, **told)
    return it.kind, {task.name: {name: len(part) for name, part in task.parts.items()} for task in it.tasks}, it.classes


def test_images_by_class(tmp_path: Path) -> None:
    pictures(tmp_path / "pets", "ba")
    assert shape(tmp_path / "pets") == ("images", {"": {"all": 10}}, ("a", "b"))
    part = found.read(tmp_path / "pets").parts()["all"]
    assert (part.labels[0], part.names[0], part.samples[6].getpixel((0, 0))) == ("a", "a/0.png", 1)


def test_parts_stand_above_classes_and_tasks_in_natural_order(tmp_path: Path) -> None:
    for name in ("train", "test", "val"):
        pictures(tmp_path / "parts" / name)
    assert shape(tmp_path / "parts")[1] == {"": {"test": 10, "train": 10, "validation": 10}}
    for name in ("task-1", "task-10", "task-2"):
        pictures(tmp_path / "tasks" / name, count=2)
    assert list(shape(tmp_path / "tasks")[1]) == ["task-1", "task-2", "task-10"]
    for name in ("train/t1", "train/t2", "test/t1", "test/t2"):
        pictures(tmp_path / "outer" / name, count=2)
    for name in ("t1/train", "t1/test", "t2/train", "t2/test"):
        pictures(tmp_path / "inner" / name, count=2)
    both = {"t1": {"test": 4, "train": 4}, "t2": {"test": 4, "train": 4}}
    assert shape(tmp_path / "outer")[1] == both == shape(tmp_path / "inner")[1]


def test_a_picture_is_upright_and_has_eight_bits(tmp_path: Path) -> None:
    wide = Image.fromarray(np.full((2, 2), 0x8042, dtype=np.uint16))
    (tmp_path / "a").mkdir()
    wide.save(tmp_path / "a" / "1.png")
    turned = Image.new("RGB", (6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "a" / "2.jpg", exif=exif)
    one, two = found.read(tmp_path).parts()["all"].samples
    assert (one.mode, one.getpixel((0, 0)), two.size) == ("L", 0x80, (4, 6))


def test_a_table_by_the_names_of_its_columns(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", *CSV)
    it = found.read(file)
    part = it.parts()["all"]
    assert (it.kind, it.classes, it.columns) == ("texts", ("neg", "pos"), {"text": "text", "label": "label"})
    assert list(part.samples) == ["good", "bad, very", "NA"] and list(part.labels) == ["pos", "neg", "pos"]
    assert part.names[1] == "2: bad, very"
    assert found.read(file, label="id").classes == ("1", "2", "3")


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"sentence": f"text {k}", "class": k % 2 + 9} for k in range(6)]
    table(tmp_path / "a.csv", "sentence,class", *(f"{row['sentence']},{row['class']}" for row in rows))
    table(tmp_path / "a.tsv", "sentence\tclass", *(f"{row['sentence']}\t{row['class']}" for row in rows))
    table(tmp_path / "b.csv", "sentence;class", *(f"{row['sentence']};{row['class']}" for row in rows))
    table(tmp_path / "a.jsonl", *map(json.dumps, rows))
    table(tmp_path / "a.json", json.dumps(rows))
    whole = datasets.Dataset.from_list(rows)
    whole.to_parquet(tmp_path / "a.parquet")
    whole.save_to_disk(tmp_path / "saved")
    for name in ("a.csv", "a.tsv", "b.csv", "a.jsonl", "a.json", "a.parquet", "saved"):
        it = found.read(tmp_path / name)
        assert (it.kind, it.classes) == ("texts", ("9", "10")), name  # by value
        assert list(it.parts()["all"].samples) == [row["sentence"] for row in rows], name
        assert list(it.parts()["all"].labels) == ["9", "10"] * 3, name


def test_classes_keep_the_order_that_the_source_says(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a", "n"])}
    )
    whole = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": whole, "test": whole, "unsupervised": whole}).save_to_disk(tmp_path / "saved")
    assert shape(tmp_path / "saved") == ("texts", {"": {"train": 2, "test": 2}}, ("z", "a"))
    assert list(found.read(tmp_path / "saved").parts()["train"].labels) == ["a", "z"]


def test_images_that_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pixels = [Image.new("L", (4, 4), k) for k in range(4)]
    whole = datasets.Dataset.from_dict({"image": pixels, "label": ["b", "a"] * 2}).cast_column(
        "image", datasets.Image()
    )
    whole.save_to_disk(tmp_path / "saved")
    it = found.read(tmp_path / "saved")
    assert (it.kind, it.classes, it.parts()["all"].samples[3].getpixel((0, 0))) == ("images", ("a", "b"), 3)


def test_tasks_and_parts_in_columns_and_in_files(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "text,label,task,split", "x,a,two,train", "y,b,one,train", "z,a,two,test")
    assert shape(file)[1] == {"one": {"train": 1}, "two": {"train": 1, "test": 1}}
    assert shape(file, task="label")[1] == {"a": {"train": 1, "test": 1}, "b": {"train": 1}}
    (tmp_path / "files").mkdir()
    for name in ("train", "test-0", "test-1"):
        table(tmp_path / "files" / f"{name}.csv", *CSV)
    table(tmp_path / "files" / "sample_submission.csv", "id", "1")
    assert shape(tmp_path / "files")[1] == {"": {"train": 3, "test": 6}}
    assert found.read(tmp_path / "files").left_out == ("sample_submission.csv: beside what was read",)
    for name in ("task-1", "task-2"):
        (tmp_path / "by task" / name).mkdir(parents=True)
        table(tmp_path / "by task" / name / "train.csv", *CSV)
        table(tmp_path / "by task" / name / "test.csv", *CSV)
    assert shape(tmp_path / "by task")[1] == {name: {"train": 3, "test": 3} for name in ("task-1", "task-2")}


def test_plain_texts(tmp_path: Path) -> None:
    table(tmp_path / "story.txt", "Once upon", "a time.", "", "The end.")
    it = found.read(tmp_path / "story.txt")
    assert (it.kind, it.classes, list(it.parts()["all"].samples)) == (
        "language",
        (),
        ["Once upon\na time.", "The end."],
    )
    for name in ("train/pos/1", "train/neg/1", "test/pos/1", "test/neg/1"):
        (tmp_path / "reviews" / name).parent.mkdir(parents=True)
        table(tmp_path / "reviews" / f"{name}.txt", "words", "", "more words")
    assert shape(tmp_path / "reviews") == ("texts", {"": {"test": 2, "train": 2}}, ("neg", "pos"))


def test_prompts_with_answers_and_texts_without_labels(tmp_path: Path) -> None:
    pairs = table(tmp_path / "a.jsonl", json.dumps({"prompt": "1 + 1", "answer": "2"}))
    assert list(found.read(pairs).parts()["all"].samples) == [("1 + 1", "2")]
    assert found.read(pairs).kind == "answers"
    assert list(found.read(pairs, kind="language").parts()["all"].samples) == ["1 + 1\n2"]
    assert found.read(table(tmp_path / "b.csv", "text", "one", "two")).kind == "language"
    assert found.read(table(tmp_path / "c.csv", *CSV), kind="language").parts()["all"].labels == []


def test_saved_features(tmp_path: Path) -> None:
    x = torch.arange(12.0).view(6, 2)
    save_file(
        {"x": x, "y": torch.tensor([1, 0] * 3)}, tmp_path / "a.safetensors", {"classes": json.dumps(["no", "yes"])}
    )
    it = found.read(tmp_path / "a.safetensors")
    assert (it.kind, it.classes, it.parts()["all"].labels[0]) == ("features", ("no", "yes"), "yes")
    assert torch.equal(torch.stack(list(it.parts()["all"].samples)), x)
    names = np.array(["b", "a"] * 3)
    np.savez(
        tmp_path / "b.npz", train_x=x.numpy(), train_y=names, test_x=x.numpy(), test_y=names, train_task=[1, 2] * 3
    )
    assert shape(tmp_path / "b.npz") == (
        "features",
        {"": {"test": 6}, "1": {"train": 3}, "2": {"train": 3}},
        ("a", "b"),
    )
    np.savez(tmp_path / "c.npz", x_train=np.full((2, 3), 255, np.uint8), y_train=np.array([3, 5], np.uint16))
    part = found.read(tmp_path / "c.npz").parts()["train"]
    assert part.samples[0].tolist() == [1, 1, 1] and part.labels == ["3", "5"]


def test_a_named_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    it = found.read("digits")
    assert (it.kind, it.name, len(it.classes)) == ("images", "digits", 10)
    assert it.parts()["train"].samples[0].size == (8, 8)


def test_a_test_part_is_held_out_by_class_and_seed(tmp_path: Path) -> None:
    pictures(tmp_path / "pets", "abc")
    it = found.read(tmp_path / "pets")
    first, again, other = (it.with_test(seed=seed).parts() for seed in (0, 0, 1))
    assert sorted(first["test"].labels) == ["a", "b", "c"] and len(first["train"]) == 12
    assert not set(first["test"].names) & set(first["train"].names)
    assert first["test"].names == again["test"].names != other["test"].names
    whole = found.read(tmp_path / "pets").parts()["all"]
    with pytest.raises(DataError, match=r"the class 'a' of pets has 5 samples; expected at least 6"):
        parts.cut(whole, 0.2, seed=0, what="pets", least=6)
