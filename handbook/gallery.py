"""The gallery: each file of ``examples/`` as a page, with what it printed and a picture of that."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.bench.report.svg import Drawing, Scale, axes, el, text

__all__ = ["OUTPUTS", "Outcome", "examples", "index", "lasting", "outcomes", "page", "picture"]

OUTPUTS = "docs/records/examples.json"
"""What each example printed, by name: ``python -m handbook run`` writes it, tests/test_examples.py compares."""

_LINE = re.compile(
    r"^(?P<task>old|new) task: (?P<kind>accuracy|loss) "
    r"(?P<without>\d+\.\d+) without protection, (?P<kept>\d+\.\d+) with$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Outcome:
    """What an example said of one task: ``kind`` is accuracy or loss."""

    task: str
    kind: str
    without: float
    kept: float


def examples(root: Path) -> list[Path]:
    """The files, by name."""
    return sorted((root / "examples").glob("*.py"))


def lasting(printed: str) -> str:
    """What an example prints, without the log of times that a trainer prints beside it."""
    return "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("{'train_runtime'"))


def outcomes(printed: str) -> list[Outcome]:
    """The lines in which an example says how it went."""
    return [
        Outcome(found["task"], found["kind"], float(found["without"]), float(found["kept"]))
        for found in _LINE.finditer(printed)
    ]


def picture(printed: str) -> str:
    """Bars, by task, without protection and with: an SVG of its own."""
    found = outcomes(printed)
    kind = found[0].kind
    most = max(max(each.without, each.kept) for each in found)
    width, height = 460.0, 250.0
    x, y = Scale(0.0, 2.0, 46.0, width - 10.0), Scale(0.0, 1.0 if kind == "accuracy" else 1.15 * most, 190.0, 34.0)
    parts = [axes(x, y, "", kind, x_ticks=[])]
    for place, each in enumerate(found):
        middle = (x(place) + x(place + 1)) / 2
        for side, (value, words) in enumerate([(each.without, "without"), (each.kept, "with Holdfast")]):
            left = middle - 62.0 + 66.0 * side
            parts += [
                el(
                    "rect",
                    x=left,
                    y=y(value),
                    width=58.0,
                    height=y.start - y(value),
                    class_="mark floor" if side == 0 else "mark c0",
                ),
                el("text", text(f"{value:.2f}"), x=left + 29.0, y=y(value) - 6.0, class_="value", text_anchor="middle"),
                el("text", text(words), x=left + 29.0, y=y.start + 16.0, class_="tick", text_anchor="middle"),
            ]
        parts.append(
            el("text", text(f"{each.task} task"), x=middle, y=y.start + 36.0, class_="label", text_anchor="middle")
        )
    spoken = "; ".join(f"{e.task} task: {e.kind} {e.without:.3f} without, {e.kept:.3f} with" for e in found)
    return Drawing(width, height - 10.0, f"{kind} of the old and the new task", spoken, tuple(parts)).alone()


def page(path: Path, printed: str) -> str:
    """An example's page."""
    title, rest = _said(path)
    source = path.read_text(encoding="utf-8")
    seen = ", ".join(
        f"{e.task} task: {e.kind} {e.without} without protection, {e.kept} with" for e in outcomes(printed)
    )
    return "\n".join(
        [
            f"# {title}", "", *([rest, ""] if rest else []), f"![{seen}]({path.stem}.svg)",
            "", "It prints:", "", "```text", f"$ python examples/{path.name}", printed.strip(), "```", "",
            f'```python title="examples/{path.name}"', source.strip(), "```", "",
        ]
    )  # fmt: skip


def index(root: Path, printed: Mapping[str, str]) -> str:
    """The page that opens the gallery."""
    lines = [
        "# Gallery", "",
        "Scripts that run as they stand, on a CPU, most in seconds: their data are made on the spot. Each trains a "
        "model on an old task and then a new one, without protection and with, and prints how well both are known at "
        "the end. The test suite runs them all.", "",
        '<div class="gallery" markdown>', "",
    ]  # fmt: skip
    for path in examples(root):
        title, _ = _said(path)
        lines += [f'[![]({path.stem}.svg){{ alt="" }} {title}]({path.stem}.md)', ""]
    return "\n".join([*lines, "</div>", ""])


def _said(path: Path) -> tuple[str, str]:
    """An example's title, which is the first sentence of its docstring, and the rest of it."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert said is not None, f"{path.name} has no docstring"
    first, _, rest = said.partition("\n\n")
    return " ".join(first.split()).removesuffix("."), rest


def printed(root: Path) -> dict[str, str]:
    """What every example printed when it was last run by the command."""
    found: dict[str, str] = json.loads((root / OUTPUTS).read_text(encoding="utf-8"))
    return found
