"""Links that leave ``docs/``, such as to a record: the site takes what they lead to along."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MOVED", "listing", "outside", "records_of", "rewritten"]

MOVED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages that stand at the root of the repository -> where the site has them."""

_LINK = re.compile(r'(\]\()([^)\s#]+)((?:#[^)\s]*)?(?:\s+"[^"]*")?\))')
_TAKEN = ("results", "docs/records")


def rewritten(markdown: str, page: str, root: Path, *, home: str | None = None) -> str:
    """A page whose links lead to where the site has what they lead to in the repository.

    Args:
        markdown: the page.
        page: where the site has it, from ``docs/``.
        root: of the repository.
        home: the folder in the repository that its links start from; ``docs/`` and its own folder, unless told.
    """
    start = posixpath.join("docs", posixpath.dirname(page)) if home is None else home

    def moved(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target or target.startswith(("mailto:", "/")):
            return found[0]
        place = posixpath.normpath(posixpath.join(start, target))
        within = _on_site(place, root)
        if within is None:
            return found[0]
        return found[1] + posixpath.relpath(within, posixpath.dirname(page) or ".") + found[3]

    return _LINK.sub(moved, markdown)


def _on_site(place: str, root: Path) -> str | None:
    """Where the site has a file of the repository, from ``docs/``; ``None`` where there is no such file."""
    if place in MOVED:
        return MOVED[place]
    if place.startswith("examples/") and place.endswith(".py"):
        return f"gallery/{Path(place).stem}.md"
    path = root / place
    if path.is_dir() and any(place == taken or place.startswith(f"{taken}/") for taken in _TAKEN):
        return posixpath.join(outside(place), "index.md")
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    return outside(place) if path.is_file() and place.startswith("results/") else None


def outside(place: str) -> str:
    """Where the site has a file or folder of records."""
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    return posixpath.join("evidence", posixpath.relpath(place, "results")).removesuffix("/.")


def records_of(root: Path) -> Iterator[str]:
    """Every folder that holds records or has folders that do, from the root of the repository."""
    for taken in _TAKEN:
        for folder, _, _ in os.walk(root / taken):
            yield Path(folder).relative_to(root).as_posix()


def listing(place: str, root: Path) -> str:
    """The page of a folder of records: what lies in it."""
    names = sorted((root / place).iterdir(), key=lambda path: (path.is_file(), path.name))
    lines = [f"- [{path.name}]({path.name}{'/index.md' if path.is_dir() else ''})" for path in names]
    return "\n".join(["---", "search: {exclude: true}", "hide: [navigation]", "---", f"# {place}", "", *lines, ""])
