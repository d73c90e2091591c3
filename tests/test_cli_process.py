"""The command as a process: how soon it answers, and how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from holdfast.bench.records import record

PROGRAM = [sys.executable, "-m", "holdfast"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_help_does_not_wait_for_pytorch() -> None:
    code = """
import sys
from holdfast.cli import app
try:
    app(["compare", "--help"], prog_name="holdfast")
finally:
    print(sorted({"torch", "numpy", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--methods" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_ctrl_c_keeps_what_is_finished_and_says_so(tmp_path: Path) -> None:
    words = ["compare", "split-digits", "--methods", "finetune", "--seeds", "1000", "--out", str(tmp_path)]
    fast = ["--model", "mlp-4", "--epochs", "1"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([*PROGRAM, *words, *fast], text=True, env=ENVIRONMENT, **pipes) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[   2/1000]"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in rest
    found = record.load_all(tmp_path)
    assert 2 <= len(found) < 1000
    assert all(each.status == "finished" for each in found)
    assert f"{len(found)} finished runs" in rest
    assert "finetune" in (tmp_path / "report.html").read_text()
