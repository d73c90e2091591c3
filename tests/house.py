"""The rooms of the house from the ground up, and who may import whom: the list that ``docs/architecture.md`` shows.

``python -m tests.house`` prints the table of that page.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "holdfast"

# Files that lie in the package itself belong together in threes and fours; every folder is a room of its own.
FILES: Mapping[str, tuple[str, ...]] = {
    "ground": ("_version", "checks", "errors", "files", "metrics", "pieces", "processes", "structure", "student"),
    "names": ("names", "parts", "sharding", "state", "wrappers"),
    "steps": (
        "attaching",
        "dispatch",
        "guards",
        "method",
        "rebinding",
        "sizes",
        "step_size",
        "strength",
        "travelling",
        "watching",
    ),
    "curvature": ("curvature", "drawing"),
    "generating": ("generating", "selecting"),
    "prequential": ("prequential",),
    "registry": ("entry", "registry"),
    "door": ("__init__",),
    "bench": ("bench.__init__",),
    "bench.moved": ("bench.moved",),
    "__main__": ("__main__",),
}

# Room -> what it may import. A room may import only those that stand above it here, so there is no circle.
ALLOWED: Mapping[str, tuple[str, ...]] = {
    "ground": (),
    "names": ("ground",),
    "objectives": ("ground", "names"),
    "importance": ("ground", "names", "objectives"),
    "optim": ("ground", "names"),
    "steps": ("ground", "names", "objectives", "optim"),
    "penalties": ("ground", "names", "objectives", "importance", "steps"),
    "projections": ("ground", "names", "objectives", "importance", "steps", "penalties"),
    "reparam": ("ground", "names", "objectives", "importance", "steps", "projections"),
    "distillation": ("ground", "names", "objectives", "importance", "steps"),
    "merging": ("ground", "names", "objectives", "importance", "steps"),
    "heads": ("ground", "names", "objectives", "importance"),
    "curvature": ("ground", "names", "objectives", "importance"),
    "auditing": ("ground", "names", "objectives", "importance", "curvature"),
    "generating": ("ground", "names", "objectives", "importance", "distillation"),
    "prequential": ("ground", "objectives", "heads"),
    "registry": ("ground",),
    "door": (
        "ground", "names", "objectives", "importance", "optim", "steps", "penalties", "projections", "reparam",
        "distillation", "merging", "heads", "auditing", "curvature", "generating", "registry",
    ),
    "integrations": (
        "ground", "names", "objectives", "importance", "steps", "penalties", "projections", "distillation", "merging",
        "door",
    ),
    "testing": ("ground", "names", "objectives", "steps", "penalties", "heads", "registry", "door"),
    "bench.moved": (),
    "bench.records": ("ground",),
    "bench.data": ("ground", "objectives", "bench.moved", "bench.records"),
    "doctor": ("ground", "bench.data"),
    "bench.models": ("ground", "heads", "bench.moved", "bench.records", "bench.data"),
    "bench.training": (
        "ground", "generating", "distillation", "names", "objectives", "optim", "steps", "heads", "curvature",
        "prequential", "registry", "integrations", "bench.records", "bench.data", "bench.models",
    ),
    "bench.report": ("ground", "auditing", "registry", "bench.records"),
    "bench.jobs": ("ground", "bench.moved", "bench.records", "bench.data", "bench.training"),
    "bench.comparing": (
        "ground", "objectives", "steps", "registry", "bench.records", "bench.data", "bench.training", "bench.report",
        "bench.jobs",
    ),
    "bench.recipes": (
        "ground", "names", "objectives", "importance", "steps", "penalties", "registry", "bench.records", "bench.data",
        "bench.report", "bench.jobs", "bench.comparing",
    ),
    "bench.evidence": ("ground", "registry", "bench.records", "bench.report", "bench.comparing", "bench.recipes"),
    "bench.export": (
        "ground", "objectives", "reparam", "heads", "registry", "bench.moved", "bench.records", "bench.data",
        "bench.models", "bench.training",
    ),
    "bench.study": (
        "ground", "names", "objectives", "importance", "steps", "penalties", "projections", "heads", "registry",
        "bench.records", "bench.data", "bench.models", "bench.training",
    ),
    "bench": ("bench.moved", "bench.data", "bench.comparing"),
    "adapt": (
        "ground", "names", "objectives", "importance", "steps", "merging", "auditing", "generating", "registry",
        "bench.records", "bench.data", "bench.models", "bench.training", "bench.report", "bench.export",
    ),
    "cli": (
        "ground", "auditing", "registry", "doctor", "bench.records", "bench.data", "bench.models", "bench.report",
        "bench.jobs", "bench.comparing", "bench.recipes", "bench.evidence", "bench.export", "bench.study", "bench",
        "adapt",
    ),
    "__main__": ("ground", "doctor", "cli"),
}  # fmt: skip


def sources(root: Path = SOURCE) -> dict[str, str]:
    """Module, without the package's name (``bench.data.tasks``) -> its text."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*.py"))
    }


def room_of(module: str) -> str:
    """The room of a module."""
    for room, files in FILES.items():
        if module in files:
            return room
    folder = module.rpartition(".")[0].split(".")
    room = ".".join(folder[: 2 if folder[0] == "bench" else 1])
    if room not in ALLOWED:
        raise AssertionError(f"holdfast.{module} is in no room: give it one in tests/house.py")
    return room


def _imported(text: str, known: Collection[str]) -> Iterator[str]:
    """Modules of the package that a file imports, anywhere in it."""

    def real(dotted: str) -> str | None:
        init = f"{dotted}.__init__" if dotted else "__init__"
        return dotted if dotted in known else init if init in known else None

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "holdfast"]
            yield from (found for name in names if (found := real(name.partition(".")[2])) is not None)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which way an arrow goes"
            package, _, inner = (node.module or "").partition(".")
            if package == "holdfast":
                for alias in node.names:
                    found = real(f"{inner}.{alias.name}" if inner else alias.name) or real(inner)
                    assert found is not None, f"there is no holdfast.{inner}"
                    yield found


def wrong(files: Mapping[str, str]) -> list[str]:
    """One sentence for every arrow that is not allowed.

    Args:
        files: as :func:`sources` gives them.
    """
    found = []
    for module, text in files.items():
        here = room_of(module)
        for there in sorted({room_of(other) for other in _imported(text, files)} - {here, *ALLOWED[here]}):
            found.append(f"holdfast.{module}: {here} may not import {there}")
    return found


def circle(files: Mapping[str, str]) -> list[str]:
    """Files that import one another in a circle, for whatever reason; empty: there are none."""
    arrows = {module: sorted(set(_imported(text, files)) - {module}) for module, text in files.items()}
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        found = next((round_ for other in arrows[module] if (round_ := walk(other, [*path, module]))), [])
        done.add(module)
        return found

    return next((found for module in arrows if (found := walk(module, []))), [])


def table() -> str:
    """Who may import whom, as ``docs/architecture.md`` shows it: from the ground up."""
    lines = ["| room | may import |", "|---|---|"]
    for room, others in ALLOWED.items():
        shown = f"`{room}`" + (f" ({', '.join(FILES[room])})" if len(FILES.get(room, ())) > 1 else "")
        lines.append(f"| {shown} | {', '.join(f'`{each}`' for each in others) or 'nobody'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
