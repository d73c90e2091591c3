"""The package as a whole: what it exports, what it imports, and the rules that every file keeps."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import holdfast
from holdfast import registry

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILES = SOURCES + sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 350
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def requirements() -> list[Requirement]:
    return [Requirement(text) for text in importlib.metadata.requires("holdfast") or []]


def is_core(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def modules_of(distributions: set[str]) -> set[str]:
    """The top-level modules of the named distributions; for one that is not installed, its name stands in."""
    modules = {name.replace("-", "_") for name in distributions}
    for distribution in importlib.metadata.distributions():
        if canonicalize_name(distribution.name) in distributions:
            tops = {file.parts[0].removesuffix(".py") for file in distribution.files or []}
            modules |= {top for top in tops if top.isidentifier()} - {"__pycache__"}
    return modules


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its dotted name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_all_is_the_public_surface() -> None:
    for name in holdfast.__all__:  # each is imported when it is first used
        getattr(holdfast, name)
    public = {
        name
        for name, value in vars(holdfast).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    public -= {"annotations", "Any", "TYPE_CHECKING"}
    public |= {"__version__"} & set(vars(holdfast))
    assert set(holdfast.__all__) - {"__version__"} == public - {"__version__"}
    assert list(holdfast.__all__) == sorted(set(holdfast.__all__))


def test_type_checkers_read_what_is_imported() -> None:
    """The table of homes, and the imports that type checkers read in its place, name the same."""
    (checked,) = (node for node in ast.parse(Path(holdfast.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen.items() <= holdfast._HOMES.items()
    # A method needs no line there to be used: the module's __getattr__ makes it Any.
    assert set(holdfast._HOMES) - set(seen) <= {str(entry.home).rpartition(":")[2] for entry in registry.entries()}


def test_every_method_is_at_the_door() -> None:
    for entry in registry.entries():
        if entry.kind in ("method", "optimizer") and not str(entry.home).startswith("torch."):
            assert entry.build is not None
            assert getattr(holdfast, entry.build.__name__) is entry.build and entry.build.__name__ in holdfast.__all__


def test_import_needs_the_core_dependencies_only() -> None:
    extras = {canonicalize_name(r.name) for r in requirements() if not is_core(r)} - {"holdfast"}
    # torch itself imports numpy where it finds it.
    forbidden = modules_of(extras) - {"numpy"}
    assert {"datasets", "sklearn", "yaml", "ray", "pytest"} <= forbidden
    code = f"""
import sys
forbidden = {sorted(forbidden)!r}
import holdfast
[getattr(holdfast, name) for name in holdfast.__all__]
print(*sorted(set(forbidden) & {{name.partition(".")[0] for name in sys.modules}}))
for name in forbidden:  # and nothing is missed where an extra is not installed
    sys.modules[name] = None
for name in [name for name in sys.modules if name.partition(".")[0] == "holdfast"]:
    del sys.modules[name]
import holdfast
[getattr(holdfast, name) for name in holdfast.__all__]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_third_party_import_is_declared() -> None:
    # typing_extensions is torch's own dependency: wherever the core is installed, it is too. So is pytorch_lightning
    # lightning's, which it was before, and is imported where a user has the one without the other.
    declared = modules_of({canonicalize_name(r.name) for r in requirements()})
    declared |= {"typing_extensions", "pytorch_lightning"}
    undeclared = {
        f"{name_of(path)}: {module}"
        for path in SOURCES
        for module in {name.partition(".")[0] for name in imports_of(path)}
        if module not in declared | set(sys.stdlib_module_names) | {"holdfast"}
    }
    assert undeclared == set()


def test_every_dependency_of_the_core_and_the_bench_is_imported() -> None:
    imported = {name.partition(".")[0] for path in SOURCES for name in imports_of(path)}
    declared = {canonicalize_name(r.name) for r in requirements() if is_core(r) or 'extra == "bench"' in str(r.marker)}
    declared -= {"pillow", "numpy"}  # datasets decodes images with the one, tensors are made from arrays with the other
    assert {name for name in declared if not modules_of({name}) & imported} == set()


def test_floors_are_the_declared_lower_bounds() -> None:
    text = (ROOT / "constraints-floor.txt").read_text(encoding="utf-8")
    floors = dict(re.findall(r"^([\w-]+)==(\S+)", text, flags=re.MULTILINE))
    bounds = {}
    for requirement in (each for each in requirements() if each.name != "holdfast"):  # an extra may name others
        if requirement.marker is None or not any(requirement.marker.evaluate({"extra": e}) for e in ("dev", "docs")):
            (bound,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
            bounds[requirement.name] = bound
    # The suite runs on one release of torch: see the comment there.
    assert floors.pop("torch").startswith(bounds.pop("torch"))
    assert floors == bounds


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines; split it: no file has over {MAX_LINES}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_silenced_check_has_a_reason_beside_it(path: Path) -> None:
    silenced = re.compile(r"#\s*(?:noqa|type:\s*ignore)(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*|\[[\w, -]+\])?(.*)$")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if path != Path(__file__).resolve() and (match := silenced.search(line)):
            assert re.search(r"\w{3}", match[1]), f"{name_of(path)}:{number} silences a check and does not say why"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports_of(path)} & UNPICKLERS
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save") and isinstance(node.value, ast.Name):
            assert node.value.id != "torch", f"{name_of(path)}:{node.lineno} uses torch.{node.attr}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
