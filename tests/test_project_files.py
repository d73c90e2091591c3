"""What stands around the code: the citation, the workflow, the hooks before a commit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_hooks_use_the_pinned_ruff() -> None:
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert pinned is not None and repository["rev"] == f"v{pinned[1]}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]


def test_citation_has_what_the_format_asks_for() -> None:
    """The schema of the Citation File Format 1.2.0; the version is left to ``holdfast --version``."""
    about = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= about.keys() and about["cff-version"] == "1.2.0"
    assert about["license"] == "Apache-2.0" and about["authors"] and "version" not in about


def test_workflow_runs_what_continuous_integration_runs() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands and "make floor" in commands
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert oldest is not None
    for name in ("newest", "floor"):
        assert jobs[name]["strategy"]["matrix"]["python"][0] == oldest[1]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= targets


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_issue_forms_are_whole(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_what_continuous_integration_runs_is_a_script() -> None:
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], capture_output=True).returncode == 0
