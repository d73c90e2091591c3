"""The report of an adaptation: it shows the candidates and the audit's own numbers, in a real browser too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from holdfast.auditing import Audit, audit
from holdfast.bench.report.adapted import Front, front_section
from holdfast.bench.report.auditing import audit_page
from tests.bench.report import browser as chromium
from tests.bench.report.browser import Browser

BINARY = chromium.find()


@dataclass(frozen=True)
class Tried:
    name: str
    kept: float | None
    learned: float


POINTS = (Tried("finetune", 12.5, 80.0), Tried("ewc strength=100", 70.0, 60.25), Tried("lwf", 60.0, 55.0))
CURVE = (Tried("wise-ft 0", 90.0, 0.0), Tried("wise-ft 0.5", 50.0, 20.0), Tried("wise-ft 1", 12.5, 80.0))


def front(**changes: object) -> Front:
    given = {
        "points": POINTS, "curve": CURVE, "best": (POINTS[1], POINTS[0]), "chosen": POINTS[1], "before": 90.0,
        "least": 65.0, "holds": True, "unit": "accuracy, %", "figure": "accuracy, %",
        "shown": lambda value: "" if value is None else f"{value:.2f}",
    }  # fmt: skip
    return Front(**{**given, **changes})  # type: ignore[arg-type]  # a mapping of what is changed


class Cells(HTMLParser):
    """Every table's rows of texts, by the name that a screen reader gives the table."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.paragraphs: list[str] = []
        self._rows: list[list[str]] = []
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "div" and named.get("class") == "scroll":
            self._rows = self.tables.setdefault(str(named["aria-label"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._in = "cell"
        elif tag == "p":
            self.paragraphs.append("")
            self._in = "paragraph"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "p"):
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "cell":
            self._rows[-1][-1] += data
        elif self._in == "paragraph":
            self.paragraphs[-1] += data


def read(markup: str) -> Cells:
    found = Cells()
    found.feed(markup)
    return found


@pytest.fixture(scope="module")
def found() -> Audit:
    torch.manual_seed(0)
    before, after = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    sets = {}
    for name in ("old data", "new data"):
        x = torch.randn(80, 4)
        sets[name] = [(x, (before(x) + torch.randn(80, 3)).argmax(1))]
    return audit(before, after, sets, classes=["cat", "dog", "a rather long name of a class"])


def test_the_candidates_are_shown_and_what_became_of_each() -> None:
    rows = read(front_section(front())).tables["Candidates"]
    assert rows == [
        ["Candidate", "Old kept", "New learned", ""],
        ["before", "90.00", "", ""],
        ["finetune", "12.50", "80.00", "front"],
        ["ewc strength=100", "70.00", "60.25", "chosen, front"],
        ["lwf", "60.00", "55.00", ""],
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Chosen: ewc strength=100, which learned most among those that kept a accuracy of 65.00 on the old data."),
        (
            {"holds": False},
            "No candidate kept a accuracy of 65.00 on the old data, as was asked. Chosen: ewc strength=100",
        ),
        ({"least": None}, "Chosen: ewc strength=100, the best mean of old and new."),
        (
            {"before": None, "best": ()},
            "Chosen: ewc strength=100, which learned most; what each lost shows on old data alone.",
        ),
    ],
)
def test_it_says_why_one_was_chosen(changes: dict[str, object], words: str) -> None:
    assert words.replace("a accuracy", "an accuracy") in read(front_section(front(**changes))).paragraphs[0]


def test_every_figure_is_the_record_s(found: Audit) -> None:
    shown = read(audit_page(found)).tables
    for data in found.data:
        rows = {row[0]: row[1:] for row in shown[f"Figures of {data.name}"]}
        assert data.accuracy is not None and data.loss is not None and data.brier is not None
        for what, change, scale, digits in (("accuracy (%)", data.accuracy, 100, 2), ("loss", data.loss, 1, 3)):
            for cell, of in zip(rows[what], (change.before, change.after, change.difference), strict=True):
                number, _, ends = cell.replace("\u2212", "-").partition(" [")
                low, high = (float(end) for end in ends.removesuffix("]").split(", "))
                wanted = [scale * value for value in (of.value, of.low, of.high)]
                assert [float(number), low, high] == pytest.approx(wanted, abs=0.6 * 10**-digits)
        assert [float(cell.replace("\u2212", "-")) for cell in rows["Brier score"][:2]] == pytest.approx(
            data.brier, abs=6e-5
        )
        classes = {row[0]: row for row in shown[f"Classes of {data.name}"][1:]}
        for each in data.classes:
            assert classes[each.name][1] == str(each.count)
            assert float(classes[each.name][2].split(" (")[0]) == pytest.approx(100 * each.before, abs=0.06)
            assert float(classes[each.name][3].split(" (")[0]) == pytest.approx(100 * each.after, abs=0.06)
        flips = shown.get(f"Worst flips of {data.name}", [[]])[1:]
        assert [row[0] for row in flips] == [worst.sample for worst in data.worst]
    layers = {row[0]: float(row[1]) for row in shown["Layers"][1:]}
    assert layers == {each.name: pytest.approx(each.distance, rel=1e-3) for each in found.layers}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if BINARY is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    made = Browser(BINARY)
    yield made
    made.close()


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_any_window(browser: Browser, found: Audit, tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "report.html"
    page.write_text(audit_page(found, first=[("What was kept and what was learned", front_section(front()))]))
    browser.errors.clear()
    browser.open(page, width=width, dark=dark)
    assert browser.errors == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    outside = browser.evaluate(
        """[...document.querySelectorAll('svg text')].filter(word => {
            const frame = word.closest('svg').getBoundingClientRect(), place = word.getBoundingClientRect();
            return place.right > frame.right + 1 || place.left < frame.left - 1;
        }).map(word => word.textContent)"""
    )
    assert outside == []
