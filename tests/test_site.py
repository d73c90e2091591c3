"""The documentation site: its navigation has every page, its reference every public name; figures are computed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast
from handbook import gallery, navigation, reference
from handbook.docstrings import to_markdown
from handbook.links import MOVED, rewritten
from tests.bench.report import browser

pytest.importorskip("sklearn", reason="the bench's packages are not installed")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
SITE = ROOT / "site"


def places(entry: Any) -> Iterator[str]:
    """Every page that a navigation names."""
    if isinstance(entry, dict):
        entry = list(entry.values())
    if isinstance(entry, list):
        for each in entry:
            yield from places(each)
    else:
        yield entry


def test_the_navigation_has_every_page_once() -> None:
    text = re.sub(r"!!python/name:\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    shown = list(places(navigation.filled(yaml.safe_load(text)["nav"], ROOT)))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    made = {f"gallery/{path.stem}.md" for path in gallery.examples(ROOT)} | {"gallery/index.md", "reference/index.md"}
    made |= {f"reference/{page.stem}.md" for page in reference.pages()}
    assert len(shown) == len(set(shown))
    assert set(shown) == written | made | (set(MOVED.values()) - {"index.md"})


def test_every_public_name_has_an_entry_in_the_reference_once() -> None:
    names = [name for page in reference.pages() for name in page.names]
    assert len(names) == len(set(names))
    assert {f"holdfast.{name}" for name in holdfast.__all__} <= set(names)
    for wing in ("heads", "reparam", "objectives", "importance", "auditing", "prequential", "testing"):
        module = __import__(f"holdfast.{wing}", fromlist=["__all__"])
        for name in module.__all__:
            assert {f"holdfast.{wing}.{name}", f"holdfast.{name}"} & set(names), name
    ends = {name.rsplit(".", 1)[-1] for name in names}
    assert {"HoldfastCallback", "Protect", "start_lora", "compare", "check_method", "ties"} <= ends


def test_every_public_name_of_an_integration_has_an_entry() -> None:
    names = {name for page in reference.pages() for name in page.names}
    inner = {"fits", "hearing", "pending", "seen", "terms", "trainers"}  # what the integrations share
    for path in (ROOT / "src" / "holdfast" / "integrations").glob("[a-z]*.py"):
        if path.stem not in inner:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            public = [name for node in tree.body for name in _listed(node)]
            functions = {n for n in public if n != "Start" and not n.isupper()}
            assert {f"holdfast.integrations.{path.stem}.{n}" for n in functions} <= names


def _listed(node: ast.stmt) -> list[str]:
    """The names of a module's ``__all__``, if this is where it stands."""
    named = isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    return list(ast.literal_eval(node.value)) if named and isinstance(node, ast.Assign) else []


def test_what_is_made_from_records_is_what_they_give() -> None:
    from handbook.__main__ import made

    for place, text in made(ROOT).items():
        assert (ROOT / place).read_text(encoding="utf-8") == text, f"{place}: run python -m handbook"


def test_every_example_has_its_output_and_a_picture_of_it() -> None:
    printed = gallery.printed(ROOT)
    assert list(printed) == [path.stem for path in gallery.examples(ROOT)]
    for path in gallery.examples(ROOT):
        old, new = gallery.outcomes(printed[path.stem])
        picture = gallery.picture(printed[path.stem])
        for value in (old.without, old.kept, new.without, new.kept):
            assert f">{value:.2f}</text>" in picture
        page = gallery.page(path, printed[path.stem])
        assert path.read_text(encoding="utf-8").strip() in page and printed[path.stem].strip() in page


def test_the_pictures_of_the_guide_are_drawn_from_what_was_computed() -> None:
    from handbook.computations import COMPUTATIONS

    numbers = json.loads((ROOT / "docs/records/guide.json").read_text(encoding="utf-8"))
    assert set(numbers) == set(COMPUTATIONS)
    again = COMPUTATIONS["fisher"]()  # the quickest of them
    assert again["fisher"] == pytest.approx(numbers["fisher"]["fisher"], rel=1e-3)
    assert again["ways"]["EWC"][-1] == pytest.approx(numbers["fisher"]["ways"]["EWC"][-1], abs=1e-3)


def test_docstrings_become_markdown() -> None:
    said = "Sum.\n\n.. math:: a \\cdot b\n    + c\n\nSee :class:`~a.B`, :math:`T^2`.\n\nExample:\n    >>> 1"
    assert to_markdown("Sum.\n\nSource: one,\n    two.\n\nArgs:\n") == "Sum.\n\n**Source.** one, two.\n\nArgs:\n"
    assert to_markdown(said) == ("Sum.\n\n$$\na \\cdot b + c\n$$\n\nSee `B`, $T^2$.\n\nExamples:\n    >>> 1")


def test_links_that_leave_the_pages_lead_to_where_the_site_has_what_they_lead_to() -> None:
    leads = {
        "../../results/hsu-split-mnist/records": "../evidence/hsu-split-mnist/records/index.md",
        "../../examples/add_class.py": "../gallery/add_class.md",
        "../tuning.md#x": "../tuning.md#x",
        "https://e.f": "https://e.f",
    }
    for target, place in leads.items():
        assert rewritten(f"[a]({target})", "methods/ewc.md", ROOT) == f"[a]({place})"


built = pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="`make docs` has not built the site")


@built
def test_a_built_page_needs_nothing_from_elsewhere() -> None:
    loaded = re.compile(r'<(?:script|link|img|iframe|source)[^>]*?\s(?:src|href)="?((?:https?:)?//[^"\s>]+)')
    for path in SITE.rglob("*.html"):
        assert loaded.findall(path.read_text(encoding="utf-8")) == [], path.name
    for sheet in SITE.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


@built
@pytest.mark.skipif(browser.find() is None, reason="Chromium is not installed")
def test_the_search_of_the_built_site_finds_a_word_without_a_server_or_a_network() -> None:
    tab = browser.Browser(str(browser.find()))
    try:
        tab.open(SITE / "index.html", width=1280)
        tab.evaluate("document.querySelector('.md-search__input').focus()")
        tab.call("Input.insertText", text="Fisher")
        found, wait = "", "new Promise(done => setTimeout(done, 100))"
        again = "document.querySelector('.md-search__input').dispatchEvent(new Event('keyup'))"
        for _ in range(600):
            tab.evaluate(again)  # what was typed before the page listened, on a busy machine, is heard now
            if found := tab.evaluate(
                "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href).join()"
            ):
                break
            tab.call("Runtime.evaluate", expression=wait, awaitPromise=True)
        assert "guide/fisher.html" in found
        assert [request for request in tab.requests if request.startswith("http")] == [] == tab.errors
    finally:
        tab.close()


def test_an_equation_is_drawn_without_a_script() -> None:
    pytest.importorskip("latex2mathml")
    from handbook.equations import to_mathml

    page = '<span class="arithmatex">\\(x^2\\)</span><div class="arithmatex">\\[\\tfrac12 \\Bigl(a &lt; b)\\]</div>'
    drawn = to_mathml(page)
    assert drawn.count("<math") == 2 and "arithmatex" not in drawn and "Bigl" not in drawn
    with pytest.raises(Exception, match="nosuch"):
        to_mathml('<span class="arithmatex">\\(\\nosuch x\\)</span>')
