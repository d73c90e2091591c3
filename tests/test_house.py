"""Arrows between rooms run one way, files are small, and every wing says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from holdfast import registry
from tests import house

ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_FUNCTION = 350, 60


def test_every_arrow_is_allowed() -> None:
    assert house.wrong(house.sources()) == []


def test_every_allowed_arrow_runs_downwards() -> None:
    rooms = list(house.ALLOWED)
    for room, others in house.ALLOWED.items():
        assert all(rooms.index(other) < rooms.index(room) for other in others), room


@pytest.mark.parametrize(
    ("module", "line", "sentence"),
    [
        ("penalties.ewc", "from holdfast.bench.records import record", "penalties may not import bench.records"),
        ("bench.records.record", "import holdfast.cli", "bench.records may not import cli"),
        ("bench.data.own", "from holdfast.bench import compare", "bench.data may not import bench"),
        ("objectives.base", "def late():\n    from holdfast import method", "objectives may not import steps"),
    ],
)
def test_an_upward_import_is_noticed(module: str, line: str, sentence: str) -> None:
    files = house.sources()
    (found,) = house.wrong({**files, module: f"{files[module]}\n{line}\n"})
    assert found == f"holdfast.{module}: {sentence}"


def test_no_files_import_one_another_in_a_circle() -> None:
    files = house.sources()
    assert house.circle(files) == []
    files["bench.records.writing"] += "\nfrom holdfast.bench.records import record\n"
    assert set(house.circle(files)) == {"bench.records.writing", "bench.records.record"}


def test_a_file_without_a_room_is_noticed() -> None:
    with pytest.raises(AssertionError, match="misc is in no room"):
        house.wrong({**house.sources(), "misc": ""})


def test_the_architecture_page_shows_the_list() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert house.table() in page, "print it anew: python -m tests.house"


def test_every_wing_says_what_it_is_for() -> None:
    for init in house.SOURCE.rglob("__init__.py"):
        said = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
        assert said and said.split("\n")[0].endswith("."), init


NAMED = {
    ("bench/records/legacy.py", "ewc"),  # what records of version 0.1 say
    ("bench/records/legacy.py", "ewc-foreign"),
    ("bench/data/drafts.py", "anpyc"),  # a permutation
    ("importance/__init__.py", "mas"),  # functions
    ("importance/mas.py", "mas"),
    ("reparam/__init__.py", "inrank"),
    ("reparam/lowrank.py", "inrank"),
}
"""Where a word that is also a method's name stands in the code, and may."""


def _named(code: str, methods: set[str]) -> set[str]:
    """The methods that code names in a text, alone or in a list with commas."""
    texts = [
        node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant) and type(node.value) is str
    ]
    lists = [{word.strip() for word in each.split(",")} for each in texts]
    return {word for each in lists if each <= methods for word in each}


def test_nothing_but_the_registry_names_a_method() -> None:
    methods = {entry.name for entry in registry.entries()} | {"ewc-foreign"}
    found = {
        (path.relative_to(house.SOURCE).as_posix(), word)
        for path in house.SOURCE.rglob("*.py")
        if path.name != "registry.py"
        for word in _named(path.read_text(encoding="utf-8"), methods)
    }
    assert found == NAMED


def test_a_named_method_is_noticed() -> None:
    assert _named('def f(reference="finetune"): return ["ewc, mas", "an ewc"]', {"finetune", "ewc", "mas"}) == {
        "finetune",
        "ewc",
        "mas",
    }


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _functions(path: Path) -> list[tuple[str, int]]:
    """Name and number of lines of every function, its docstring aside."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = node.body[0] if ast.get_docstring(node) is not None else None
            lines, aside = (
                each.end_lineno - each.lineno + 1 if each and each.end_lineno else 0 for each in (node, said)
            )
            found.append((node.name, lines - aside))
    return found


@pytest.mark.parametrize("folder", ["src", "speed", "tests"])
def test_files_and_functions_are_short(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert len(paths) > 10
    for path in paths:
        count = len(path.read_text(encoding="utf-8").splitlines())
        assert count <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {count} lines"
        for name, lines in _functions(path):
            assert lines <= LONGEST_FUNCTION, f"{name} in {path.relative_to(ROOT)} has {lines} lines"
