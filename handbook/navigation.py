"""The sections of the navigation that follow from what there is: methods, results, gallery, reference."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from handbook import gallery, reference
from holdfast import registry

__all__ = ["filled"]

_FAMILIES = {
    "penalty": "Penalties", "projection": "Projections", "distillation": "Distillation", "merging": "Merging",
    "optimizer": "Optimizers", "head": "Heads", "baseline": "Controls",
}  # fmt: skip

GUIDE = ("forgetting", "fisher", "class-incremental", "heads", "subspaces", "language-models")
_IDEAS = ("importance.md", "objectives.md", "reparam.md", "curvature.md")


def filled(nav: list[Any], root: Path) -> list[Any]:
    """The navigation with lists in place of the entries that end in ``/``."""
    sections = {
        "guide/": ["guide/index.md", *(f"guide/{stem}.md" for stem in GUIDE), {"In detail": list(_IDEAS)}],
        "methods/": _methods(root),
        "gallery/": [
            "gallery/index.md",
            *({_short(path): f"gallery/{path.stem}.md"} for path in gallery.examples(root)),
        ],
        "results/": ["results.md", *_results(root)],
        "reference/": [
            "reference/index.md",
            *({page.title: f"reference/{page.stem}.md"} for page in reference.pages()),
        ],
    }

    def fill(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {title: fill(value) for title, value in entry.items()}
        if isinstance(entry, list):
            return [fill(each) for each in entry]
        return sections.get(entry, entry)

    found: list[Any] = fill(nav)
    return found


def _methods(root: Path) -> list[Any]:
    """Every page of a method, by family; a page of no registry entry stands last."""
    pages = {path.stem: f"methods/{path.name}" for path in sorted((root / "docs/methods").glob("*.md"))}
    by_family: dict[str, list[Any]] = {}
    for entry in registry.entries():
        if entry.name in pages:
            by_family.setdefault(_FAMILIES[entry.family], []).append({entry.name: pages.pop(entry.name)})
    found: list[Any] = ["methods/index.md"] if pages.pop("index", None) else []
    found += [{title: by_family[title]} for title in _FAMILIES.values() if title in by_family]
    return found + [{stem: place} for stem, place in pages.items()]


def _results(root: Path) -> list[Any]:
    return [{path.stem: f"results/{path.name}"} for path in sorted((root / "docs/results").glob("*.md"))]


def _short(path: Path) -> str:
    """What an example is called where there is little room."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem
    return said.split(":")[0].split(",")[0].split(". ")[0]
