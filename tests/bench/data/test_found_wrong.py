"""What is wrong with one's own data is said in one sentence, or left out and counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.bench.data import found
from holdfast.errors import DataError, Option
from tests.bench.data.made import CSV, picture, pictures, table


@pytest.fixture(autouse=True)
def _cached_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))


def pixels(value: Any) -> Any:
    def make(root: Path) -> Path:
        pictures(root / "pets")
        value(root / "pets")
        return root / "pets"

    return make


def a_broken_one(root: Path) -> None:
    whole = (root / "a" / "1.png").read_bytes()
    (root / "a" / "1.png").write_bytes(whole[:50])


def an_only_one(root: Path) -> None:
    for k in range(1, 5):
        (root / "a" / f"{k}.png").unlink()


def lines(*rows: str, name: str = "a.csv") -> Any:
    return lambda root: table(root / name, *rows)


def arrays(**values: Any) -> Any:
    def make(root: Path) -> Path:
        np.savez(root / "a.npz", **values)
        return root / "a.npz"

    return make


X = np.zeros((4, 2), np.float32)

WRONG: list[tuple[str, Any, dict[str, Any], str]] = [
    (
        "a near name",
        lambda root: pictures(root / "pets").parent / "pest",
        {},
        r"there is no .*/pest; the nearest .* pets$",
    ),
    ("nothing near", lambda root: root / "zzz", {}, r"there is no .*/zzz; expected a folder of images by class"),
    ("no such folder", lambda root: root / "x" / "y", {}, r"there is no .*/x/y; nor is there a folder .*/x$"),
    ("nothing in it", lambda root: root, {}, r"holds neither tables"),
    ("another kind of file", lines("x", name="a.doc"), {}, r"a\.doc is a \.doc; expected csv, jsonl"),
    (
        "an image that is none",
        pixels(a_broken_one),
        {},
        r"pets/a/1\.png is no image that can be read \(.*\); --skip-broken",
    ),
    (
        "an empty class",
        pixels(lambda r: (r / "c").mkdir()),
        {},
        r"pets/c holds no image; expected files such as c/1\.png",
    ),
    ("part and class", pixels(lambda r: (r / "train").mkdir()), {}, r"pets/train holds no image"),
    (
        "images, no class",
        lambda r: picture(r / "p" / "1.png") or r / "p",
        {},
        r"p has no folders; expected one for each",
    ),
    ("deeper", pixels(lambda r: picture(r / "a" / "b" / "1.png")), {}, r"a holds images, and so does b in it"),
    ("beside parts", lambda r: pictures(r / "train") and pictures(r / "more").parent, {}, r"more lies beside train"),
    ("texts wanted", pixels(lambda r: None), {"kind": "texts"}, r"holds images by class; expected texts with labels"),
    ("images wanted", lines(*CSV), {"kind": "images"}, r"a\.csv is a file; expected a folder of images"),
    ("no such column", lines(*CSV), {"label": "lable"}, r"a\.csv has no column 'lable'; it has text, label, id"),
    ("no such task", lines(*CSV), {"task": "day"}, r"a\.csv has no column 'day'; it has text, label, id"),
    ("no text", lines("a,label", "x,1"), {}, r"has columns a, label, none of which is called text, .* with --text"),
    ("no label", lines("text,b", "x,1"), {"kind": "texts"}, r"has columns text, b, .* with --label"),
    ("a gap", lines("text,label", "x,a", ",b"), {}, r"row 2 of .*a\.csv has no text in 'text'; --skip-broken leaves"),
    (
        "no label there",
        lines("text,label", "x,a", "y,"),
        {},
        r"row 2 of .*a\.csv has no label in 'label'; --skip-broken",
    ),
    ("fields", lines("text,label", "x,a,b"), {}, r"row 1 of .*a\.csv \(line 2\) has 3 fields; expected 2; --skip"),
    ("quotes", lines("text,label", '"x"y,a'), {}, r"row 1 of .*a\.csv \(line 2\) is no CSV: "),
    ("twice", lines("text,text", "x,a"), {}, r"a\.csv has the column 'text' twice"),
    (
        "floats",
        lines("text,label", "x,1", "y,0.5"),
        {},
        r"the column 'label' of .*a\.csv holds 0\.5; expected names or",
    ),
    ("no rows", lines("text,label"), {}, r"a\.csv has no row; expected one"),
    (
        "no JSON",
        lines('{"text": "x", "label": 1}', "{", name="a.jsonl"),
        {},
        r"row 2 of .*a\.jsonl is no JSON: .*--skip",
    ),
    ("no object", lines("3", name="a.jsonl"), {}, r"row 1 of .*a\.jsonl is 3; expected an object"),
    (
        "no texts",
        lines('{"text": 3, "label": 1}', name="a.jsonl"),
        {},
        r"the column 'text' of .* holds 3; expected texts",
    ),
    ("no Parquet", lines("x", name="a.parquet"), {}, r"a\.parquet could not be read as Parquet: "),
    (
        "no labels at all",
        lines("words", name="a.txt"),
        {"kind": "texts"},
        r"a\.txt is a text without labels; expected a",
    ),
    ("no words", lines("", name="a.txt"), {}, r"a\.txt holds no text"),
    ("no y", arrays(x=X), {}, r"a\.npz holds x; expected x and y, or train_x"),
    ("float y", arrays(x=X, y=X[:, 0]), {}, r"a\.npz: y is torch\.float32; expected names or whole numbers"),
    ("short y", arrays(x=X, y=np.zeros(3, int)), {}, r"a\.npz: y has shape \(3,\); expected \[4\]"),
    ("flat x", arrays(x=X[:, 0], y=np.zeros(4, int)), {}, r"a\.npz: x is torch\.float32 \(4,\); expected numbers \[N"),
    ("not finite", arrays(x=X * np.nan, y=np.zeros(4, int)), {}, r"a\.npz: sample 1 is not finite"),
    ("a pickle", arrays(x=np.array([{}]), y=np.zeros(1, int)), {}, r"a\.npz could not be read as arrays: .*pickle"),
    ("no tensors", lines("x", name="a.safetensors"), {}, r"a\.safetensors could not be read as safetensors"),
]


@pytest.mark.parametrize(("make", "told", "sentence"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG])
def test_what_is_wrong_is_one_sentence(tmp_path: Path, make: Any, told: dict[str, Any], sentence: str) -> None:
    place = make(tmp_path)
    with pytest.raises(DataError) as caught:
        found.read(place, **told)
    said = caught.value.worded(lambda option: f"--{option.name.replace('_', '-')}")
    assert "\n" not in said
    assert re.search(sentence, said), said


def test_a_class_with_one_sample_cannot_be_tested(tmp_path: Path) -> None:
    place = pixels(an_only_one)(tmp_path)
    with pytest.raises(DataError, match=r"the class 'a' of .*pets has 1 sample; expected at least 2, so that some"):
        found.read(place).with_test()


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(DataError, match=r"the folder .* cannot be read: Permission denied"):
        found.read(tmp_path)


def test_what_is_broken_is_left_out_and_counted(tmp_path: Path) -> None:
    place = pixels(a_broken_one)(tmp_path)
    it = found.read(place, skip_broken=True)
    assert len(it.parts()["all"]) == 9 and it.left_out == ("1 image that cannot be read: a/1.png",)
    file = table(tmp_path / "a.csv", "text,label", "x,a", "y", ",b", "z,", "w,b")
    it = found.read(file, skip_broken=True)
    assert it.parts()["all"].names == ["1: x", "5: w"]
    assert it.left_out == ("1 row that cannot be read: 2", "2 rows without a text or a label: 3, 4")


def test_all_of_a_class_broken_is_an_error_even_then(tmp_path: Path) -> None:
    place = pixels(an_only_one)(tmp_path)
    (place / "a" / "0.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"pets/a holds no image that can be read; expected one, or no such folder"):
        found.read(place, skip_broken=True)


def test_a_file_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    place = pictures(tmp_path / "pets")
    found.read(place)
    a_broken_one(place)
    with pytest.raises(DataError, match="no image that can be read"):
        found.read(place)


def test_a_long_field_is_no_error(tmp_path: Path) -> None:
    it = found.read(table(tmp_path / "a.csv", "text,label", f"{'word ' * 40_000},a"))
    assert len(it.parts()["all"].samples[0]) == 200_000


def test_the_option_is_named_as_its_reader_knows_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        found.read(table(tmp_path / "a.csv", "a,label", "x,1"))
    assert Option("text") in caught.value.args
