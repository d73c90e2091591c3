"""``holdfast adapt`` and ``holdfast audit`` as they are typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from holdfast.auditing import Audit
from holdfast.cli import app
from tests.adapt.conftest import CLASSES, FURTHER, draw

TRAIN = "--epochs 4 --batch-size 8 --lr 1e-2".split()


LAUNCH = "accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0".split()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_adapt_and_audit(place: Path) -> None:
    done = run(
        "adapt",
        "mine:make",
        "--data",
        "new",
        "--keep",
        "old",
        "--methods",
        "finetune,wise-ft",
        *TRAIN,
        "--out",
        "better",
    )
    assert done.exit_code == 0, done.output
    assert "Model: better" in done.output and "old data (20 samples)" in done.output
    found = run("audit", "mine:make", "better", "--data", "old", "--data", "new", "--hessian", "--out", "audit")
    assert found.exit_code == 0, found.output
    old, new = Audit.load("audit/audit.json").data
    written = Audit.load("better/audit.json").data
    assert (old.name, new.name) == ("old", "new")
    assert old.accuracy == written[0].accuracy and new.accuracy == written[1].accuracy
    assert "holdfast audit mine:make better" in (place / "audit" / "report.html").read_text()


def test_an_audit_leaves_out_what_the_model_was_trained_on(place: Path) -> None:
    """Of data without parts an adaptation cuts them: an audit of the same data asks the same test part."""
    for name, kinds, seed in (("was", CLASSES, 0), ("is", FURTHER, 1)):
        draw(place / name, kinds, 15, seed)
    run(
        "adapt",
        "mine:make",
        "--data",
        "is",
        "--keep",
        "was",
        "--methods",
        "finetune",
        *TRAIN,
        "--seed",
        "3",
        "--out",
        "a",
    )
    done = run("audit", "mine:make", "a", "--data", "was", "--data", "is", "--out", "audit")
    assert "was: a was trained on some of them; the 6 of its test part are asked" in done.output
    for found, written in zip(Audit.load("audit/audit.json").data, Audit.load("a/audit.json").data, strict=True):
        assert found.samples == 6 and found.accuracy == written.accuracy and found.loss == written.loss
    draw(place / "other", CLASSES, 15, 4)
    done = run("audit", "mine:make", "a", "--data", "other")
    assert "other: no test part, so all 30 are asked" in done.output and "other (30 samples)" in done.output
    assert "was (30 samples)" in run("audit", "mine:make", "a", "--data", "was", "--whole").output


def test_settings_are_read_as_numbers(place: Path) -> None:
    words = ["adapt", "mine:make", "--data", "new", "--methods", "l2sp", *TRAIN]
    assert run(*words, "--set", "l2sp.strength=2e-3", "--out", "a").exit_code == 0
    assert json.loads((place / "a" / "candidates.json").read_text())["chosen"]["settings"] == {"strength": 2e-3}


def test_a_gate(place: Path) -> None:
    run("adapt", "mine:make", "--data", "new", "--methods", "finetune", *TRAIN, "--out", "worse")
    lost = run("audit", "mine:make", "worse", "--data", "old", "--fail-above", "1")
    assert lost.exit_code == 1 and "old lost" in lost.output and "more than 1" in lost.output
    assert run("audit", "mine:make", "worse", "--data", "old", "--fail-above", "100").exit_code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("adapt mine:make --data none --out x", "there is no none"),
        ("adapt mine:make --data new --methods ewc --out x", "--methods has ewc, which needs data"),
        ("adapt mine:make --data new --hold 1 --out x", "--hold is 1, but there are no old data"),
        ("adapt mine:make --data new --text body --out x", "new holds images by class, and no table with a column"),
        ("adapt mine:make --data new --out old", "--out is old, which is not empty"),
        ("adapt mine:make --data new --optimizer adamm --out x", "--optimizer is 'adamm'"),
        ("adapt mine:make --data new --methods ewc --keep old --set l2sp.strength=1 --out x", "l2sp"),
        ("adapt mine:make --data new --methods l2sp --set l2sp.strenth=1 --out x", "l2sp has no setting 'strenth'; it"),
        ("adapt mine:make --data new --methods l2sp --set strength=much --out x", "l2sp.strength is 'much'; expected"),
        ("adapt mine:make --data new --methods l2sp --set strength=-1 --out x", "strength is -1.0; expected"),
        ("adapt mine:make --data new --set l2sp.strength=1 --out x", "--set needs --methods"),
        (
            "adapt mine:make --data new --methods wise-ft --set wise-ft.weight=1 --out x",
            "wise-ft has no setting 'weight'",
        ),
        ("audit mine:make mine:make --data new", "has classes left, right that mine:make lacks"),
        ("audit mine:make nowhere:make --data new", "could not be imported"),
    ],
)
def test_bad_input_is_a_sentence(place: Path, words: str, sentence: str) -> None:
    done = run(*words.split())
    assert done.exit_code == 2 and sentence in " ".join(done.output.split()), done.output
    assert not (place / "x").exists()


def test_two_processes_give_the_model_of_one(place: Path) -> None:
    words = ["adapt", "mine:Partly", "--data", "new", "--keep", "old", "--methods", "ewc,lwf", *TRAIN]
    assert run(*words, "--out", "one").exit_code == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCH, "-m", "holdfast", *words, "--out", "two"],
        env=environment, cwd=place, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Model: two") == 1  # said once
    one, two = (load_file(place / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-5)


def test_what_was_stopped_says_how_to_go_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.adapt import running

    watcher = running.Watcher
    monkeypatch.setattr(
        "holdfast.cli.stepping.Watcher", lambda say, step, stop, begun: watcher(say, step, lambda: True, begun)
    )
    done = run("adapt", "mine:make", "--data", "new", *TRAIN, "--out", "a")
    assert done.exit_code == 130 and "to go on: holdfast resume a" in done.output
    monkeypatch.setattr("holdfast.cli.stepping.Watcher", watcher)
    assert run("resume", "a").exit_code == 0 and (place / "a" / "report.html").is_file()


def test_resume_goes_on_after_a_kill(place: Path) -> None:
    words = ["adapt", "mine:make", "--data", "new", "--keep", "old", "--methods", "lwf", *TRAIN]
    assert run(*words, "--out", "whole").exit_code == 0
    from holdfast.adapt import running

    class Killed(BaseException):
        pass

    def die(*step: object) -> None:
        raise Killed

    watcher = running.Watcher
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.cli.stepping.Watcher", lambda say, step, stop, begun: watcher(say, die, stop, begun))
        with pytest.raises(Killed):
            CliRunner().invoke(app, [*words, "--out", "killed"], catch_exceptions=False)
    assert not (place / "killed" / "model.safetensors").exists()
    done = run("resume", "killed")
    assert done.exit_code == 0, done.output
    assert (place / "whole" / "model.safetensors").read_bytes() == (place / "killed" / "model.safetensors").read_bytes()
