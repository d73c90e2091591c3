"""Every file of examples/ runs as it stands, and protection is worth its while: the old task is better with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from handbook import gallery

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LINE = re.compile(r"^(old|new) task: (accuracy|loss) (\d+\.\d+) without protection, (\d+\.\d+) with$", re.MULTILINE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_protects(path, tmp_path):
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {task: (kind, float(without), float(kept)) for task, kind, without, kept in LINE.findall(done.stdout)}
    assert set(found) == {"old", "new"}, f"expected two lines, 'old task: …' and 'new task: …', in:\n{done.stdout}"
    kind, without, kept = found["old"]
    assert kept > without + 0.05 if kind == "accuracy" else kept < 0.9 * without
    kind, without, learned = found["new"]  # and it still learned
    assert learned > 0.7 * without if kind == "accuracy" else learned < without + 0.7
    shown = gallery.printed(ROOT)[path.stem]  # and the gallery shows what it prints
    assert NUMBER.sub("0", gallery.lasting(done.stdout)) == NUMBER.sub("0", shown)
    for ours, theirs in zip(gallery.outcomes(done.stdout), gallery.outcomes(shown), strict=True):
        assert (ours.without, ours.kept) == pytest.approx((theirs.without, theirs.kept), abs=0.1), (
            "python -m handbook run"
        )


def test_there_are_examples():
    assert {"add_class", "add_word", "detector_model_loss"} <= {path.stem for path in EXAMPLES}
