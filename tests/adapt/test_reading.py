"""Data of one's own: what lies at a place is found, cut into parts that share nothing, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.adapt.reading import Reader
from holdfast.errors import DataError
from tests.adapt.conftest import draw, reviews, table


def reader(kind: str = "texts", **options) -> Reader:
    given = {"text": None, "label": None, "skip_broken": False, "seed": 0, **options}
    return Reader(kind, given["text"], given["label"], given["skip_broken"], given["seed"], given.get("say", print))


def test_images_by_class_without_parts_are_cut_class_by_class(tmp_path: Path) -> None:
    draw(tmp_path / "all", ("dark", "bright"), 10, 0)
    parts = reader("images").parts(str(tmp_path / "all"))
    assert [len(part) for part in parts] == [12, 4, 4]
    names = [set(part.names) for part in parts]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert all(part.labels.count("dark") == part.labels.count("bright") for part in parts)
    assert parts[0].samples[0].size == (4, 4) and parts[0].names[0].startswith("bright/")
    again = reader("images").parts(str(tmp_path / "all"))
    assert [part.names for part in again] == [part.names for part in parts]


def test_parts_that_are_there_are_taken(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        draw(tmp_path / "all" / part, ("dark", "bright"), count, count)
    assert [len(part) for part in reader("images").parts(str(tmp_path / "all"))] == [12, 6, 8]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path: Path, ending: str) -> None:
    import datasets

    rows = reviews(20, 0)
    file = tmp_path / f"reviews.{ending}"
    columns = {"Text": [text for text, _ in rows], "category": [label for _, label in rows]}
    if ending in ("csv", "tsv"):
        mark = "," if ending == "csv" else "\t"
        file.write_text("\n".join([mark.join(columns), *(mark.join(row) for row in rows)]) + "\n")
    elif ending == "jsonl":
        file.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
    else:
        datasets.Dataset.from_dict(columns).to_parquet(str(file))
    (found,) = reader().found(str(file)).values()
    assert list(zip(found.samples, found.labels, strict=True)) == rows
    assert found.names[0] == f"1: {rows[0][0]}"


def test_saved_datasets_have_the_names_of_their_classes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    found = reader().found(str(tmp_path / "saved"))
    assert set(found) == {"train", "test"} and found["test"].labels == ["yes", "no"]


def test_a_text_is_its_paragraphs_or_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    assert list(reader("language").found(str(tmp_path / "a.txt"))["all"].samples) == ["one\ntwo", "three"]
    assert list(reader("language").found(str(tmp_path / "b.txt"))["all"].samples) == ["one", "two"]


def test_what_is_broken_is_named_or_left_out(tmp_path: Path) -> None:
    draw(tmp_path / "all", ("dark", "bright"), 4, 0)
    (tmp_path / "all" / "dark" / "00.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dark/00\.png is no image .*skip_broken leaves such out"):
        reader("images").found(str(tmp_path / "all"))
    said: list[str] = []
    found = reader("images", skip_broken=True, say=said.append).found(str(tmp_path / "all"))["all"]
    assert len(found) == 7 and "left out: 1 image that cannot be read: dark/00.png" in said[0]
    file = table(tmp_path / "a.csv", [("good film", "yes"), ("", "no"), ("bad film", "no")])
    with pytest.raises(DataError, match=r"row 2 of .* has no text in 'sentence'"):
        reader().found(str(file))
    assert len(reader(skip_broken=True).found(str(file))["all"]) == 2


@pytest.mark.parametrize(
    ("kind", "make", "words"),
    [
        ("images", lambda p: p / "none", "there is no .*none"),
        ("images", lambda p: table(p / "a.csv", []), "is a file; expected a folder of images by class"),
        ("images", lambda p: (p / "empty").mkdir() or p / "empty", "has no folders; expected one for each class"),
        ("images", lambda p: (p / "x" / "cat").mkdir(parents=True) or p / "x", "cat holds no image"),
        ("texts", lambda p: table(p / "a.csv", [("x", "y")], ("words", "label")), "has columns words, label, none of"),
        ("texts", lambda p: table(p / "a.csv", [("x", "0.5")]), "holds 0.5; expected names or whole numbers"),
        ("texts", lambda p: table(p / "a.csv", [("x y", "a"), ("z", "b")]), "class 'a' of .* has 1 sample"),
        ("texts", lambda p: (p / "a.txt").write_text("x") and p / "a.txt", "a text without labels"),
        ("language", lambda p: (p / "a.txt").write_text("\n\n") and p / "a.txt", "holds no text"),
        ("texts", lambda p: (p / "a.doc").write_text("x") and p / "a.doc", "expected csv, jsonl, parquet or txt"),
        ("texts", lambda p: (p / "e").mkdir() or p / "e", "holds neither tables"),
    ],
)
def test_bad_input(tmp_path: Path, kind: str, make, words: str) -> None:
    with pytest.raises(DataError, match=words):
        reader(kind).parts(str(make(tmp_path)))


def test_a_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", [("x", "y")])
    with pytest.raises(DataError, match="has no column 'body'; it has sentence, label"):
        reader(text="body").found(str(file))
