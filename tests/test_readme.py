"""The table of methods says what the registry says; README and pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast import registry

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "methods" / "index.md").read_text(encoding="utf-8")


def row(entry: registry.Entry) -> str:
    """The table's line for an entry."""
    data = "all of it" if entry.name == "joint" else "the last task's, once" if entry.needs_data else "no"
    control = " (control)" if entry.control else ""
    test = "at test" if entry.needs_task_id else "no"
    return f"| [{entry.name}]({entry.name}.md){control} | {entry.family} | {data} | {test} | {entry.state} |"


SHOWN = re.findall(r"^\| \[(.+?)\]\(\S+\.md\).*$", TABLE, re.MULTILINE)


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_method_table_says_is_so(name):
    entry = registry.lookup(name)
    assert entry in registry.entries()
    assert f"{row(entry)} {entry.source} |" in TABLE.splitlines()


def test_the_method_table_shows_each_method_once_and_the_controls_among_them():
    """Not all of them: a new method has its line in the registry, and ``holdfast methods`` prints that."""
    assert len(SHOWN) == len(set(SHOWN))
    assert {entry.name for entry in registry.entries() if entry.control or entry.bound} <= set(SHOWN)


MADE = ("gallery/", "reference/", "changelog.md")  # when the site is built, which looks at links to them itself


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(p.name for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page if (ROOT / page).is_file() else ROOT / "docs" / page
    for target in re.findall(r'\]\(([^)# ]+)(?:#[^) ]*)?(?: "[^"]*")?\)', path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", *MADE)):
            assert (path.parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs/**/*.md"])
def test_a_table_ends_before_what_follows_it(page):
    """Otherwise GitHub and package indices make the next paragraph the table's last row."""
    for path in sorted(ROOT.glob(page)):
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r"^\|.*\n(?!\||\n|\Z).*", text, re.MULTILINE) == [], path


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_contributing_fits_one_screen_and_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 45
    part = text[text.index("**A new method**") : text.index("**How code reads here**")]
    paths = [name for name in re.findall(r"[`\s](\w[\w./]*/\w*[\w.]*)[`\s\"]", part) if "NAME" not in name]
    assert {"src/holdfast/registry.py", "tests/contract", "merging/running.py"} <= set(paths)
    assert [name for name in paths if not any((top / name).exists() for top in (ROOT, ROOT / "src/holdfast"))] == []
