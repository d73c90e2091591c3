"""``python -m handbook`` writes what ``docs/`` has from records.

``python -m handbook run`` makes those records anew first: it runs the examples and the guide's computations, or those
of them that are named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handbook import deciding, gallery, measured
from handbook.pictures import PICTURES

ROOT = Path(__file__).parent.parent
NUMBERS = "docs/records/guide.json"


def made(root: Path) -> dict[str, str]:
    """Every file that follows from records: path from the root -> text."""
    numbers = json.loads((root / NUMBERS).read_text(encoding="utf-8"))
    drawn = {name: draw(numbers[name]) for name, draw in PICTURES.items()}
    drawn |= {"heads": measured.heads(root), "language-models": measured.language_models(root)}
    files = {f"docs/images/guide/{name}.svg": drawing.alone() for name, drawing in drawn.items()}
    return files | {"docs/which-method.md": deciding.page(root)}


def write(root: Path) -> None:
    """Write them."""
    for place, text in made(root).items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text, encoding="utf-8")


def run(root: Path, only: list[str]) -> None:
    """Run examples and computations, those named or all, and note what they print or return."""
    outputs, numbers = _read(root / gallery.OUTPUTS), _read(root / NUMBERS)
    for path in gallery.examples(root):
        if not only or path.stem in only:
            print(path.name, flush=True)
            outputs[path.stem] = _printed(path, root)
            names = [each.stem for each in gallery.examples(root)]
            _note(root / gallery.OUTPUTS, {name: outputs[name] for name in names if name in outputs}, indent=1)
    from handbook.computations import COMPUTATIONS  # they need the bench's extra, and minutes

    for name, compute in COMPUTATIONS.items():
        if not only or name in only:
            print(name, flush=True)
            numbers[name] = compute()
            _note(root / NUMBERS, {each: numbers[each] for each in COMPUTATIONS if each in numbers})


def _printed(path: Path, root: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(path)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return gallery.lasting(done.stdout)


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _note(file: Path, found: Mapping[str, Any], indent: int | None = None) -> None:
    file.write_text(json.dumps(found, indent=indent) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(ROOT, sys.argv[2:])
    write(ROOT)
