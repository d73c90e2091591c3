"""``holdfast resume``: what was asked for is written down, and repeated from where it stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench.jobs import interrupt, manifest
from holdfast.bench.jobs.interrupt import asked_to_stop
from holdfast.bench.records import record as records
from holdfast.bench.training.learner import Learner
from holdfast.cli import app
from holdfast.errors import StateError
from tests.disks import files_in, fill, make_read_only, small_disk

COMPARE = ["compare", "split-digits", "--methods", "finetune,ewc", "--seeds", "1", "--model", "mlp-12", "--epochs", "1"]


def holdfast(*words: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as exit_:
        app(list(words), prog_name="holdfast")
    code = exit_.value.code
    assert isinstance(code, int)
    return code


def stops_after(steps: int) -> Callable[..., Any]:
    """Ctrl-C after so many steps."""

    @contextmanager
    def stopping(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
        calls = iter(range(10**9))
        yield lambda: next(calls) >= steps

    return stopping


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: records.without_times(records.load(path)) for path in folder.glob("records/*.json")}


def test_a_stopped_command_goes_on_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert holdfast(*COMPARE, "--out", "alone") == 0
    expected = results(tmp_path / "alone")
    assert len(expected) == 2

    with monkeypatch.context() as interrupted:
        interrupted.setattr(interrupt, "asked_to_stop", stops_after(60))
        assert holdfast(*COMPARE, "--out", "out") == 130
        said = capsys.readouterr().err
        assert "stopped; 1 finished run and their report are in out. To go on: holdfast resume out" in said
        assert "Traceback" not in said
        left = files_in(tmp_path / "out")
        assert "checkpoints/ewc-seed0/checkpoint-000001.safetensors" in left
        interrupted.setattr(interrupt, "asked_to_stop", stops_after(3))
        assert holdfast("resume", "out") == 130

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert holdfast("resume", "../out") == 0
    assert "finetune, seed 0: average test accuracy" in capsys.readouterr().err
    assert results(tmp_path / "out") == expected
    names = ["checkpoints/manifest.json", "records/ewc-seed0.json", "records/finetune-seed0.json", "report.html"]
    assert files_in(tmp_path / "out") == names
    assert files_in(elsewhere) == []
    # Once more, on what is finished: it is read, not run again.
    dates = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir()}
    assert holdfast("resume", "../out") == 0
    assert dates == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir()}


def test_results_that_were_moved_go_on_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "split-digits", "--method", "ewc", "--model", "mlp-12", "--epochs", "1", "--out", "old"]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(interrupt, "asked_to_stop", stops_after(20))
        assert holdfast(*words) == 130
    (tmp_path / "old").rename(tmp_path / "new")
    assert holdfast("resume", "new") == 0
    assert not (tmp_path / "old").exists()
    assert list(results(tmp_path / "new")) == ["ewc-seed0.json"]


def test_another_command_in_the_same_folder_is_refused_with_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "split-digits", "--method", "ewc", "--model", "mlp-12", "--epochs", "1", "--out", str(tmp_path)]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(interrupt, "asked_to_stop", stops_after(20))
        assert holdfast(*words) == 130
    capsys.readouterr()
    assert holdfast(*words, "--lr", "0.02") == 2
    said = capsys.readouterr().err
    assert "is a checkpoint of another run: lr was 0.01 and is 0.02 now" in said
    assert holdfast("resume", str(tmp_path)) == 0  # what was asked for first is still what is gone on with


def test_one_signal_asks_and_two_stop() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with asked_to_stop(said.append) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_beside_the_main_thread_nothing_listens() -> None:
    answers: list[bool] = []

    def work() -> None:
        with asked_to_stop(lambda sentence: None) as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds nothing to resume: there is no .*manifest.json"),
        ("", "is not a manifest of holdfast"),
        ("{}", "is not a manifest of holdfast .*words: Field required"),
        ('{"words": ["run"], "here": "/", "folder": "x", "schema_version": 2}', "schema_version: Input should be 1"),
        ('{"words": ["resume", "."], "here": "/", "folder": "x"}', "it asks to resume, not for a run"),
    ],
)
def test_what_cannot_be_resumed_is_said(
    content: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "manifest.json").write_text(content)
    with pytest.raises(StateError, match=sentence):
        manifest.read(tmp_path)
    assert holdfast("resume", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert said.startswith("holdfast: ")
    assert said.count("\n") == 1


def test_a_manifest_says_what_was_asked_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest.write(Path("out"), ["run", "x"])
    text = (tmp_path / "out" / "checkpoints" / "manifest.json").read_text()
    expected = {"schema_version": 1, "words": ["run", "x"], "here": str(tmp_path), "folder": "out"}
    assert json.loads(text) == expected
    found = manifest.read(tmp_path / "out")
    assert found.words_for(tmp_path / "out") == ["run", "x"]
    assert found.words_for(tmp_path / "moved") == ["run", "x", "--out", str(tmp_path / "moved")]


@pytest.mark.parametrize(
    "words", [["run", "split-digits", "--method", "ewc"], ["importance", "split-digits"]], ids=lambda words: words[0]
)
def test_a_read_only_folder_is_refused_before_anything_is_trained(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Learner, "step", lambda *_, **__: pytest.fail("a step was taken"))
    with small_disk(tmp_path / "disk") as disk:
        make_read_only(disk)
        assert holdfast(*words, "--out", str(disk / "out")) == 2
    said = capsys.readouterr().err
    assert said == f"holdfast: the folder {disk / 'out'} cannot be written: Read-only file system\n"


def test_a_disk_that_fills_up_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "split-digits", "--method", "ewc", "--model", "mlp-100", "--epochs", "1", "--checkpoint-every", "0"]
    assert holdfast(*words, "--out", str(tmp_path / "alone")) == 0
    with small_disk(tmp_path / "disk", "1m") as disk:
        out = str(disk / "out")
        with monkeypatch.context() as interrupted:
            interrupted.setattr(interrupt, "asked_to_stop", stops_after(20))
            assert holdfast(*words, "--out", out) == 130
        before = files_in(disk)
        assert any(name.startswith("out/checkpoints/ewc-seed0/checkpoint-") for name in before)
        fill(disk)
        capsys.readouterr()
        assert holdfast("resume", out) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("holdfast: Cannot write the ") and said[-1].endswith(": No space left on device.")
        assert files_in(disk) == sorted([*before, "filler"])
        (disk / "filler").unlink()
        assert holdfast("resume", out) == 0
        assert results(disk / "out").keys() == results(tmp_path / "alone").keys()
        for name, record in results(disk / "out").items():
            assert {**record, "command": ""} == {**results(tmp_path / "alone")[name], "command": ""}
