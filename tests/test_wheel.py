"""What is built from the tree: all that the package needs, nothing else, and no dead links."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).resolve().parent.parent
ALSO = (
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
    "SECURITY.md",
    "MANIFEST.in",
    "pyproject.toml",
    "setup.py",
)
DEAD = re.compile(r"\]\((?!https?://|#|mailto:)|\b(?:src|href)=\"(?!https?://|#)")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution of a clean copy."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ALSO:
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tree / "tests").mkdir()
    (tree / "tests" / "test_nothing.py").touch()
    code = "from setuptools import build_meta as b; print(b.build_wheel('out')); print(b.build_sdist('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.suffix: path for path in (tree / "out").iterdir()}


def test_wheel_holds_the_package_whole_and_nothing_else(built: dict[str, Path]) -> None:
    found = {name for name in zipfile.ZipFile(built[".whl"]).namelist() if ".dist-info/" not in name}
    package = ROOT / "src" / "holdfast"
    wanted = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert found == wanted
    for suffix in (".yaml", ".css", "py.typed"):
        assert any(name.endswith(suffix) for name in found)


def test_wheel_says_what_it_is(built: dict[str, Path]) -> None:
    archive = zipfile.ZipFile(built[".whl"])
    (name,) = [each for each in archive.namelist() if each.endswith("METADATA")]
    about = message_from_bytes(archive.read(name))
    assert about["Version"] == holdfast.__version__ and about["Description-Content-Type"] == "text/markdown"
    text = about.get_payload(decode=True)
    assert isinstance(text, bytes) and len(text) > 2000 and not DEAD.search(text.decode())
    (scripts,) = [each for each in archive.namelist() if each.endswith("entry_points.txt")]
    assert "holdfast = holdfast.__main__:main" in archive.read(scripts).decode()
    assert any("licenses/LICENSE" in each for each in archive.namelist())


def test_sources_build_it_again(built: dict[str, Path]) -> None:
    names = [name.partition("/")[2] for name in tarfile.open(built[".gz"]).getnames()]
    assert {*ALSO, "src/holdfast/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith("tests")]


def _setup():  # type: ignore[no-untyped-def]  # a module without a package
    spec = importlib.util.spec_from_file_location("holdfast_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_become_absolute_where_the_repository_is_known() -> None:
    text = (
        '[a](docs/a.md "title") ![p](docs/p.png) [![b](docs/b.svg)](docs/b.md) <img src="docs/c.png"> '
        "[web](https://example.org/x) [here](#below)\n```python\nx[0](y)\n```\n"
    )
    to = "https://example.org/repo"
    assert _setup().for_an_index(text, to, "1.2.0") == (
        f'[a]({to}/blob/v1.2.0/docs/a.md "title") ![p]({to}/raw/v1.2.0/docs/p.png) '
        f"[![b]({to}/raw/v1.2.0/docs/b.svg)]({to}/blob/v1.2.0/docs/b.md) "
        f'<img src="{to}/raw/v1.2.0/docs/c.png"> [web](https://example.org/x) [here](#below)\n```python\nx[0](y)\n```\n'
    )
    bare = _setup().for_an_index(text, None, "1.2.0")
    assert bare.startswith("a p b <img > [web](https://example.org/x) [here](#below)") and "x[0](y)" in bare


def test_readme_has_no_dead_link_on_an_index() -> None:
    """Inline Markdown links and quoted src= and href= are made absolute; any other kind must be so as it stands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"^\[[^\]]+\]:\s*(?!https?://)", readme, flags=re.MULTILINE)
    for repository in (None, "https://example.org/repo"):
        prose = re.sub(r"^```.*?^```$", "", _setup().for_an_index(readme, repository, "1.0"), flags=re.M | re.S)
        assert not DEAD.search(prose)
