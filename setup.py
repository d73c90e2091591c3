"""What ``pyproject.toml`` cannot say: on a package index, the README's links must not be relative.

With a line ``Repository = "https://…"`` under ``[project.urls]`` in ``pyproject.toml`` they lead to the files of this
version there; without one, their words remain and the links go.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
_RELATIVE = r"(?!https?://|mailto:|#)"
_LINK = re.compile(rf"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\({_RELATIVE}([^()\s]+)((?:\s+\"[^\"]*\")?)\)")
_HTML = re.compile(rf"\b(src|href)=\"{_RELATIVE}([^\"]+)\"")


def for_an_index(text: str, repository: str | None, version: str) -> str:
    """The README as a package index can show it.

    Args:
        text: Markdown, the links of which are relative to the repository; what stands in code blocks stays as it is.
        repository: its address; ``None``: there is none.
        version: of which the files are shown.
    """

    def address(path: str, *, shown: bool) -> str:
        return f"{repository}/{'raw' if shown else 'blob'}/v{version}/{path}"

    def link(match: re.Match[str]) -> str:
        image, words, path, title = match.groups()
        words = _LINK.sub(link, words)  # an image may be what a link shows
        return f"{image}[{words}]({address(path, shown=bool(image))}{title})" if repository else words

    def html(match: re.Match[str]) -> str:
        return f'{match[1]}="{address(match[2], shown=match[1] == "src")}"' if repository else ""

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _HTML.sub(html, _LINK.sub(link, part)) for part in parts)


def _found(pattern: str, file: str) -> str | None:
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1] if found else None


if __name__ == "__main__":
    own = _found(r'^__version__ = "(.+)"', "src/holdfast/_version.py")
    assert own is not None
    setup(
        long_description=for_an_index(
            (ROOT / "README.md").read_text(encoding="utf-8"),
            _found(r'^Repository = "(.+?)/?"', "pyproject.toml"),
            own,
        ),
        long_description_content_type="text/markdown",
    )
