"""``holdfast adapt`` and ``holdfast audit`` as they are typed."""

from __future__ import annotations

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

TRAIN = "--epochs 4 --batch-size 8 --lr 1e-2".split()


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
    found = run("audit", "mine:make", "better", "--data", "old", "--data", "new", "--out", "audit")
    assert found.exit_code == 0, found.output
    old, new = Audit.load("audit/audit.json").data
    written = Audit.load("better/audit.json").data
    assert (old.name, new.name) == ("old", "new")
    assert old.accuracy == written[0].accuracy and new.accuracy == written[1].accuracy
    assert "holdfast audit mine:make better" in (place / "audit" / "report.html").read_text()


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
        ("adapt mine:make --data new --out old", "--out is old, which is not empty"),
        ("adapt mine:make --data new --optimizer adamm --out x", "--optimizer is 'adamm'"),
        ("adapt mine:make --data new --methods ewc --keep old --set l2sp.strength=1 --out x", "l2sp"),
        ("audit mine:make mine:make --data new", "has classes left, right that mine:make lacks"),
        ("audit mine:make nowhere:make --data new", "could not be imported"),
    ],
)
def test_bad_input_is_a_sentence(place: Path, words: str, sentence: str) -> None:
    done = run(*words.split())
    assert done.exit_code == 2 and sentence in " ".join(done.output.split()), done.output
    assert not (place / "x" / "model.safetensors").exists()


def test_two_processes_give_the_model_of_one(place: Path) -> None:
    words = ["adapt", "mine:make", "--data", "new", "--keep", "old", "--methods", "ewc,lwf", *TRAIN]
    assert run(*words, "--out", "one").exit_code == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "holdfast",
         *words, "--out", "two"],
        env=environment, cwd=place, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Model: two") == 1  # said once
    one, two = (load_file(place / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-5)


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
