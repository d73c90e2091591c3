"""`holdfast tune`, `holdfast runs`, and `compare` with a search, other processes and a tracker."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.bench.data import streams
from holdfast.bench.records import query as store
from holdfast.bench.records import record
from holdfast.cli import app
from tests.bench.records.make import make_record

QUICK = ["--model", "mlp-8", "--epochs", "1", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    build = streams.build
    monkeypatch.setattr(streams, "build", lambda *a, **k: build(*a, **{**k, "limit_per_class": 20}))


def holdfast(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="holdfast")


def succeed(*words: str) -> str:
    result = holdfast(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> str:
    result = holdfast(*words)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return " ".join(result.stderr.split())


def test_tune_chooses_and_then_tests_once_with_every_seed(tmp_path):
    out = tmp_path / "tuned"
    words = ["tune", "split-digits", "--method", "ewc", "--trials", "3", "--seeds", "2", "--tasks", "k=2", *QUICK]
    shown = succeed(*words, "--out", str(out))
    assert "best of 3 trials by validation accuracy over the first 2 tasks, seed 0" in shown
    assert len(list((out / "choices").glob("*.json"))) == 3 and (out / "search.db").is_file()
    records = record.load_all(out)
    assert [one.config.seed for one in records] == [0, 1]
    for one in records:
        strength = one.config.hyperparameters["strength"]
        assert strength.source == "tuned"
        assert strength.value == "auto" or f"--set strength={strength.value}" in one.command  # auto is the default
        assert one.config.tasks == 5 and len(one.matrix) == 5
    assert "tuned" in (out / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json") if "manifest" not in path.name}
    succeed("resume", str(out))  # finished: nothing is done again
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_tune_says_where_there_is_nothing_to_search(tmp_path):
    shown = succeed(
        "tune", "split-digits", "--method", "finetune", "--trials", "3", "--seeds", "1", *QUICK, "--out", str(tmp_path)
    )
    assert "Nothing to search: finetune runs untuned." in shown


def test_compare_searches_for_every_method_in_other_processes_and_tracks(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    words = ["compare", "split-digits", "--methods", "finetune,si", "--seeds", "1", "--tune", "2", *QUICK]
    monkeypatch.chdir(tmp_path)  # relative folders mean the same to the other processes
    shown = succeed(*words, "--executor", "processes", "--workers", "1", "--track", "tensorboard", "--out", "out")
    assert "finetune runs untuned" in shown and "Report: out/report.html" in shown
    one = record.load(tmp_path / "out" / "records" / "si-seed0.json")
    assert one.config.hyperparameters["strength"].source == "tuned"
    tracked = {path.parent.name for path in (tmp_path / "out" / "tracking").rglob("*tfevents*")}
    assert {"finetune-seed0", "si-seed0"} <= tracked


def test_an_automatic_strength_stands_in_the_record(tmp_path):
    words = ["run", "split-digits", "--method", "si", "--set", "strength=auto", "--batch-size", "2"]
    succeed(*words, "--model", "mlp-8", "--epochs", "1", "--out", str(tmp_path))
    (one,) = record.load_all(tmp_path)
    strength = one.config.hyperparameters["strength"]
    assert (strength.value, strength.source) == ("auto", "auto")
    assert strength.detail == "3 times the task's gradient over its first 10 steps"
    assert set(one.diagnostics["strength"]) == {"1", "2", "3", "4"}
    assert all(value > 0 for value in one.diagnostics["strength"].values())
    assert "--set strength=auto" in one.command


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["tune", "split-digits", "--method", "ewk"], "there is no method 'ewk'"),
        (["tune", "split-digits", "--method", "ewc", "--tasks", "some"], "--tasks is 'some'"),
        (["tune", "split-digits", "--method", "ewc", "--tasks", "0"], "--tasks is 0; expected at least 1"),
        (["tune", "split-digits", "--method", "ewc", "--executor", "slurm"], "executor is 'slurm'"),
        (["tune", "split-digits", "--method", "ewc", "--track", "paper"], "--track is 'paper'"),
        (["tune", "split-digits", "--method", "ewc", "--validation-fraction", "0"], "--validation-fraction is 0"),
        (["tune", "split-digits", "--method", "ewc", "--storage", "nonsense"], "the database of searches 'nonsense'"),
        (["compare", "split-digits", "--methods", "ewc", "--workers", "2"], "--workers 2 needs"),
        (["compare", "split-digits", "--methods", "lwf", "--set", "strength=auto"], "strength is 'auto'"),
        (["compare", "split-digits", "--methods", "ewc", "--ray-address", "a:1"], "--ray-address needs --executor ray"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, words, sentence):
    assert sentence in refused(*words, "--out", str(tmp_path / "out"))
    assert not list(tmp_path.rglob("records/*.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for method in ("ewc", "si"):
        for seed in range(3):
            one = make_record(method, seed)
            record.save(one, root / "first" / "records" / record.filename(one.config))
    (root / "first" / "records" / "broken.json").write_text("{")
    return root


def test_runs_lists_filters_and_sorts(folder):
    result = holdfast("runs", str(folder), "--where", "method = si", "--sort=-seed")
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "si-seed" in line]
    assert [line.split("si-seed")[1][0] for line in lines] == ["2", "1", "0"]
    assert "3 runs" in result.stdout and "broken.json is not a holdfast record" in " ".join(result.stderr.split())


def test_runs_compares_and_writes_other_formats(folder):
    groups = json.loads(succeed("runs", str(folder), "--compare", "--table", "json"))
    assert {(group["method"], group["seeds"]) for group in groups} == {("ewc", 3), ("si", 3)}
    assert groups[0]["accuracy"] >= groups[1]["accuracy"] and groups[0]["accuracy ±"] > 0
    rows = list(csv.DictReader(io.StringIO(succeed("runs", str(folder), "--table", "csv", "--limit", "4"))))
    assert len(rows) == 4 and rows[0]["stream"] == "split-digits" and rows[0]["file"].startswith("first/records/")


def test_a_long_list_of_runs_does_not_take_long(folder, monkeypatch):
    (row,) = store.read(folder, skipped=[])[:1]
    monkeypatch.setattr(store, "read", lambda *_, **__: [row] * 10_000)
    begun = time.process_time()
    shown = succeed("runs", str(folder))
    assert time.process_time() - begun < 2.0  # with Rich's own tables it was ten seconds
    assert shown.count("first/records/ewc-seed0.json") == 10_000 and "10000 runs" in shown


def test_a_list_of_runs_is_folded_on_a_narrow_terminal_only(folder, monkeypatch):
    wide = succeed("runs", str(folder)).splitlines()
    assert len(wide) == 2 + 6 + 1  # headers, rule, runs, their number
    assert all(line.endswith(".json") for line in wide[2:-1])
    monkeypatch.setenv("COLUMNS", "70")
    narrow = succeed("runs", str(folder)).splitlines()
    assert len(narrow) > len(wide) and max(map(len, narrow)) <= 70
    letters = sorted("".join("".join(wide).split()).replace("─", ""))
    assert sorted("".join("".join(narrow).split()).replace("─", "")) == letters  # nothing is cut off


def test_a_record_cannot_send_control_characters_to_the_terminal(tmp_path):
    one = make_record("ewc", 0)
    record.save(one, tmp_path / "records" / "a\x1b[2Jb.json")
    shown = succeed("runs", str(tmp_path))
    assert "\x1b" not in shown and r"a\x1b[2Jb.json" in shown


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["nowhere"], "nowhere is not a folder"),
        (["--where", "method"], "--where has 'method'"),
        (["--where", "metod = ewc"], "there is no column 'metod'"),
        (["--sort", "size"], "there is no column 'size'"),
        (["--table", "xml"], "--table is 'xml'"),
        (["--compare", "--sort", "seed"], "leave out --sort"),
    ],
)
def test_runs_refuses_in_a_sentence(folder, words, sentence):
    assert sentence in refused("runs", *([] if words[0] == "nowhere" else [str(folder)]), *words)
