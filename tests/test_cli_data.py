"""One's own data on the command line: what was found, a comparison to its end, stopped and gone on with, refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from holdfast.bench import compare
from holdfast.cli import app
from tests.bench.data.made import picture, pictures, table

FAST = ["--epochs", "1", "--seeds", "1", "--no-controls"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    failed = isinstance(result.exception, Exception)
    said = str(result.exception) if failed else result.output
    assert (2 if failed else result.exit_code) == code, said
    return " ".join(said.split())


def records(folder: str) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder, "records").glob("*.json"))}


def test_streams_says_what_was_found_and_what_would_be_done() -> None:
    pictures(Path("pets"), "abcd")
    said = call("streams", "pets", "--scenario", "class", "--classes-per-task", "2")
    for part in (
        "pets: images by class; 20 samples, 4 classes.",
        "a 5",
        "20% of every class, are held out",
        "learns 20 grey images of 4x4 in 4 classes in 2 tasks (a/b; c/d), class-incremental, with mlp",
        "holdfast compare pets --classes-per-task 2 --scenario class --methods A,B,C",
    ):
        assert part in said, said
    assert "split-digits" in call("streams")


def test_streams_says_what_is_wrong_beside_what_was_found() -> None:
    pictures(Path("pets"))
    Path("pets/a/9.png").write_bytes(b"none")
    said = call("streams", "pets", code=1)
    assert "pets: images by class; 10 samples, 2 classes." in said
    assert "a comparison would stop: pets/a/9.png is no image that can be read" in said and "--skip-broken" in said
    assert "Left out of pets: 1 image that cannot be read: a/9.png." in call("streams", "pets", "--skip-broken")


def test_a_comparison_and_its_records() -> None:
    pictures(Path("data/pets"), "abcd", count=8)
    call("compare", "data/pets", "--methods", "finetune,ewc,slda", "--backbone", "pixels", *FAST)
    found = records("holdfast-results/pets-task")
    assert list(found) == ["ewc-seed0", "finetune-seed0", "slda-seed0"]
    config = found["ewc-seed0"]["config"]
    assert (config["stream"], config["tasks"], config["model"]) == ("pets", 2, "mlp")
    assert config["stream_options"].pop("own") and config["stream_options"] == {
        "data": "32 grey images of 4x4 in 4 classes",
        "columns": {},
    }
    assert "32 grey images of 4x4 in 4 classes; 2 tasks" in Path("holdfast-results/pets-task/report.html").read_text()
    text = "".join(path.read_text() for path in Path("holdfast-results/pets-task/records").glob("*.json"))
    assert str(Path.cwd()) not in text  # nothing that breaks on another machine
    assert found["ewc-seed0"]["task_names"] == ["a/b", "c/d"]
    assert "own data, which no name brings back" in call(
        "export", "holdfast-results/pets-task/records/ewc-seed0.json", "out", code=2
    )


def test_it_is_gone_on_with_and_changed_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(Path("pets"), "abcd")
    words = ["compare", "pets", "--methods", "finetune,l2sp", "--out", "r", *FAST]
    call(*words)
    whole = records("r")
    Path("r/records/l2sp-seed0.json").unlink()
    monkeypatch.chdir(Path("r"))
    call("resume", ".")
    monkeypatch.chdir(Path.cwd().parent)
    again = records("r")
    assert again["finetune-seed0"] == whole["finetune-seed0"]  # not run again
    assert again["l2sp-seed0"]["matrix"] == whole["l2sp-seed0"]["matrix"]
    picture(Path("pets/a/0.png"), 99)
    assert "holds records of another comparison" in (said := call(*words, code=2))
    assert "differs in the data themselves" in said


def test_texts_and_features_are_learned_to_the_end() -> None:
    rows = [f"{label} {k},{label},{task}" for task in ("t1", "t2") for label in ("no", "yes") for k in range(6)]
    table(Path("mail.csv"), "text,label,task", *rows)
    call(
        "compare", "mail.csv", "--methods", "finetune,slda", "--scenario", "domain", "--words", "3", "--out", "m", *FAST
    )
    config = records("m")["finetune-seed0"]["config"]
    assert config["model"] == "transformer" and config["model_options"]["text"]["width"] == 128
    np.savez("f.npz", x=np.random.default_rng(0).normal(size=(40, 3)), y=np.arange(40) % 4)
    call("compare", "f.npz", "--methods", "finetune,ridge", "--scenario", "class", "--out", "f", *FAST)
    assert records("f")["ridge-seed0"]["config"]["backbone"] == "pixels"


def test_a_grid_chooses_on_validation_data_of_ones_own() -> None:
    pictures(Path("pets"), "abcd")
    call("compare", "pets", "--methods", "l2sp", "--grid", "l2sp.strength=1,10", "--out", "r", *FAST)
    chosen = records("r")["l2sp-seed0"]["config"]["hyperparameters"]["strength"]
    assert chosen["source"] == "grid" and len(chosen["choice"]["candidates"]) == 2


def test_python_takes_a_path_too() -> None:
    pictures(Path("pets"), "abcd")
    table_ = compare("./pets", ["finetune"], seeds=1, epochs=1, scenario="class", note=lambda sentence: None)
    assert table_.records[0].config.scenario == "class" and table_.records[0].task_names == ["a/b", "c/d"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "pest", "--methods", "ewc"], "there is no stream 'pest'; .* but pets"),
        (["compare", "./pest", "--methods", "ewc"], r"there is no \./pest; the nearest there are pets"),
        (["streams", "pest"], "there is no pest; the nearest there are pets"),
        (
            ["run", "split-digits", "--method", "ewc", "--image-size", "8"],
            "--image-size 8 is for data of your own; the",
        ),
        (["run", "split-digits", "--method", "ewc", "--skip-broken"], "--skip-broken is for data of your own"),
        (["compare", "pets", "--methods", "ewc", "--words", "3"], "--words does not apply to pets, which holds images"),
        (["compare", "pets", "--methods", "ewc", "--task", "day"], "pets holds images by .* 'day'; expected no --task"),
        (["streams", "pets", "--label", "kind"], "pets holds images by .* 'kind'; expected no --label"),
        (["compare", "a.csv", "--methods", "ewc"], "a.csv has columns words, label, .* say which with --text"),
        (["compare", "a.csv", "--methods", "ewc", "--text", "word"], "a.csv has no column 'word'; it has words, label"),
        (["compare", "pets", "--methods", "ewc", "--classes-per-task", "3"], "--classes-per-task is 3, but pets has 2"),
        (["compare", "pets", "--methods", "ewc", "--model", "cnn-classp"], "needs images .* of 6 pixels or more"),
    ],
)
def test_bad_input(words: list[str], sentence: str) -> None:
    pictures(Path("pets"))
    table(Path("a.csv"), "words,label", "x,1", "y,2")
    said = call(*words, code=2)
    assert re.search(sentence, said), said
    assert not Path("holdfast-results").exists()
