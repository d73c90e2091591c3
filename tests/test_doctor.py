"""``holdfast doctor``, ``--version`` and what the command says where its packages are missing."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from typer.testing import CliRunner

import holdfast
from holdfast import doctor, registry
from holdfast.__main__ import without_typer
from holdfast.cli import app
from holdfast.doctor import machine, packages

EXTRAS = set(metadata.metadata("holdfast").get_all("Provides-Extra") or [])


def test_every_extra_is_said_what_for() -> None:
    assert {*packages.USES, *packages.OWN} - {"", "docs"} == EXTRAS - {"docs"}


def test_needs_are_those_that_pip_reads() -> None:
    declared = [Requirement(line) for line in metadata.requires("holdfast") or []]

    def of(extra: str) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        for each in declared:
            in_core = each.marker is None or each.marker.evaluate({"extra": ""})
            if each.marker is None if not extra else not in_core and each.marker.evaluate({"extra": extra}):
                if each.name == "holdfast":
                    found = found.union(*map(of, each.extras))
                else:
                    found.add((each.name, *(spec.version for spec in each.specifier)))
        return found

    needs = {need.extra: {(package.name, package.floor) for package in need.packages} for need in packages.needs()}
    assert needs == {extra: of(extra) for extra in packages.USES}
    assert ("peft", "0.18.0") in needs["adapt"] and ("typer", "0.16.0") in needs["adapt"]


def test_states_are_told_apart() -> None:
    fine = packages.Package("torch", "2.6.0", "2.13.0+cpu")
    old = packages.Package("torch", "2.6.0", "2.5.1")
    gone = packages.Package("peft", "0.18.0", None)
    alone = packages.Package("timm", "1.0.31", "1.0.31", ("torchvision",))
    assert [each.is_fine for each in (fine, old, gone, alone)] == [True, False, False, False]
    lines = list(packages.Need("adapt", (fine, old, gone, alone)).lines())
    assert lines[0].split()[:2] == ["missing", "adapt"]
    said = " ".join(" ".join(lines[1:]).split())
    assert said == (
        "needs torch>=2.6.0, not 2.5.1, peft>=0.18.0, torchvision (which timm 1.0.31 needs) "
        'pip install "holdfast[adapt]"'
    )
    ready = [line.split() for line in packages.Need("", (fine,)).lines()]
    assert ready[0][:2] == ["ready", "core"] and ready[1] == ["torch", "2.13.0+cpu"]


@pytest.mark.parametrize(
    ("torch", "torchvision", "typed"),
    [
        ("2.13.0+cpu", None, "pip install torchvision --index-url https://download.pytorch.org/whl/cpu"),
        (
            "2.13.0+cpu", "0.28.0",  # of the package index: built for CUDA
            "pip install --force-reinstall --no-deps torchvision --index-url https://download.pytorch.org/whl/cpu",
        ),
        ("2.13.0+cpu", "0.28.0+cpu", ""), ("2.13.0", "0.28.0", ""), ("2.13.0", None, ""), ("2.13.0+cu128", None, ""),
    ],
)  # fmt: skip
def test_what_must_be_of_pytorchs_build_is_asked_for_where_it_is_not(
    torch: str, torchvision: str | None, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_version", {"torch": torch, "torchvision": torchvision}.get)
    timm = packages.Package("timm", "1.0.31", "1.0.31")
    lines = list(packages.Need("vision", (timm,), packages._first("vision")).lines())
    assert lines[0].startswith("missing" if typed else "ready") and packages._first("bench") == ""
    assert not typed or " ".join(" ".join(lines[1:]).split()).endswith(f"the package index has another {typed}")


@pytest.mark.parametrize(
    ("found", "floor"),
    [("2.6", "2.6.0"), ("2.10.0", "2.9.0"), ("1.1.0.post1", "1.1.0"), ("2.5.9", "2.6"), ("3.0.0rc1", "2.9")],
)
def test_versions_compare_as_numbers(found: str, floor: str) -> None:
    assert packages.Package("x", floor, found).is_fine == (Version(found) >= Version(floor))


def test_a_missing_module_names_its_extra() -> None:
    assert (
        packages.extra_of("yaml") == packages.extra_of("sklearn.datasets") == packages.extra_of("pydantic") == "bench"
    )
    assert packages.extra_of("trl") == "trl" and packages.extra_of("torch") == ""
    assert packages.extra_of("my_own_factory") is None


def test_data_sets_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    assert "HOLDFAST_DATA is not set" in machine.data_sets()
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path / "gone"))
    assert "is no folder" in machine.data_sets()
    (tmp_path / "mnist" / "deep").mkdir(parents=True)
    (tmp_path / "imdb").mkdir()
    (tmp_path / "mnist" / "deep" / "train.parquet").touch()
    said = machine.data_sets(tmp_path)
    assert said.startswith(f"--data-dir is {tmp_path}, with mnist; without ") and "imdb" in said.partition("without")[2]


def test_report_says_it_all() -> None:
    text = "\n".join(doctor.report())
    for word in (holdfast.__version__, *packages.USES, "device", "CPU", "data", "browser"):
        assert word in text
    for need in packages.needs():
        assert re.search(rf"^(ready|missing)\s+{need.extra or 'core'}\s", text, flags=re.MULTILINE)


def test_without_typer(capsys: pytest.CaptureFixture[str]) -> None:
    assert without_typer(["--version"]) == 0
    assert capsys.readouterr().out == f"holdfast {holdfast.__version__}\n"
    assert without_typer(["compare", "split-digits"]) == without_typer([]) == 2
    said = capsys.readouterr()
    assert not said.out and 'pip install "holdfast[bench]"' in said.err
    assert without_typer(["doctor", "--data-dir", "."]) == 0
    assert "ready     core" in capsys.readouterr().out


def test_command_in_an_environment_without_extras() -> None:
    """Every package of an extra is hidden; the core's are there."""
    hidden = {package.name for need in packages.needs() if need.extra for package in need.packages}
    tops = {name.replace("-", "_").lower() for name in hidden} | {"yaml", "sklearn", "PIL", "mlflow"}
    code = f"""
import importlib.abc, sys
class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(tops)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Gone())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {sorted(tops)!r} else real(name, *more)
from holdfast.__main__ import main
sys.argv = ["holdfast", *sys.argv[1:]]
main()
"""
    for words, code_wanted in ((["doctor"], 0), (["--version"], 0), (["methods"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == code_wanted and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(("module", "known"), [("pydantic", True), ("someones_own", False)])
def test_a_command_says_which_extra_it_lacks(module: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(registry, "entries", gone)
    done = CliRunner().invoke(app, ["methods"])
    if known:
        assert done.exit_code == 2 and 'this needs pydantic: pip install "holdfast[bench]"' in done.stderr
    else:
        assert isinstance(done.exception, ModuleNotFoundError)
