"""The version stands in one place, and fits the changelog."""

from __future__ import annotations

import re
from pathlib import Path

import holdfast
from holdfast import _version
from holdfast.bench.training import environment

ROOT = Path(__file__).resolve().parent.parent


def test_one_place() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^dynamic = \[.*"version"', text, flags=re.MULTILINE)
    assert 'attr = "holdfast._version.__version__"' in text
    assert not re.search(r"^version = \"", text, flags=re.MULTILINE)
    assert holdfast.__version__ == _version.__version__ == environment.describe("cpu").holdfast


def test_changelog_leads_to_it() -> None:
    """While something is unreleased the version is a development version; then it is the newest heading."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading, body = re.findall(r"^## \[([^\]]+)\][^\n]*\n(.*?)(?=^## \[|\Z)", text, flags=re.MULTILINE | re.DOTALL)[0]
    if heading == "Unreleased" and body.strip():
        assert re.fullmatch(r"\d+\.\d+\.\d+\.dev0", holdfast.__version__), (
            "CHANGELOG.md has unreleased lines: src/holdfast/_version.py must say the next version with .dev0"
        )
    else:
        released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text, flags=re.MULTILINE)[0]
        assert holdfast.__version__ == released, "src/holdfast/_version.py must say what CHANGELOG.md's heading says"
