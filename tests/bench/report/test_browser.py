"""The report in a real browser: it loads offline without a complaint, and shows the records' numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import metrics
from holdfast.bench.records.record import Record
from holdfast.bench.report import PublishedValue, groups, write
from holdfast.bench.report.charts import drawn_forest, series_of
from tests.bench.records.make import make_record, make_records
from tests.bench.report import browser as chromium
from tests.bench.report.browser import Browser

BINARY = chromium.find()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no chromium, chromium-browser or google-chrome is installed")

METHODS = ("finetune", "l2sp", "ewc", "lwf", "joint")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    made = make_records(METHODS, seeds=3)
    return [*made, make_record("si", 0, status="failed", rows=1, failure="loss is nan at step 9", warnings=["<b>&'\""])]


@pytest.fixture(scope="module")
def page(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    published = [PublishedValue("ewc", "average_accuracy", 0.95, "somebody")]
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write(records, path, commands=["holdfast compare"], published=published)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert BINARY is not None
    made = Browser(BINARY)
    yield made
    made.close()


def test_it_loads_alone_and_without_a_complaint(browser: Browser, page: Path) -> None:
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.evaluate("document.scripts.length") == 0


def test_every_chart_has_marks_that_are_drawn(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    counts = browser.evaluate(
        """[...document.querySelectorAll('svg.chart')].map(svg => {
            const frame = svg.getBoundingClientRect(), marks = [...svg.querySelectorAll('.mark, .line, .cell rect')];
            const seen = marks.filter(mark => {
                const box = mark.getBoundingClientRect();
                return box.width + box.height > 1 && box.left >= frame.left - 1 && box.right <= frame.right + 1
                    && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
            });
            return [svg.querySelector('title').textContent, marks.length, seen.length];
        })"""
    )
    # 6 overviews, 1 + 5 panels over time, 5 matrices, 6 losses
    assert len(counts) == 23
    for title, marks, seen in counts:
        assert marks == seen > 0, title


def test_the_table_shows_the_numbers_of_the_records(browser: Browser, page: Path, records: list[Record]) -> None:
    browser.open(page)
    for method in METHODS:
        matrices = [record.matrix for record in records if record.config.method == method]
        mean = 100 * statistics.fmean(statistics.fmean(matrix[-1]) for matrix in matrices)
        half = 100 * 4.302652729911275 * statistics.stdev(statistics.fmean(m[-1]) for m in matrices) / 3**0.5
        cell = f"table.results tr[data-label='{method}'] td[data-metric='average_accuracy']"
        shown = browser.evaluate(f'document.querySelector("{cell}").textContent')
        assert shown.split("◇")[0] == f"{mean:.2f} ± {half:.2f}"
        if method != "joint":
            cell = cell.replace("average_accuracy", "forgetting")
            mean = 100 * statistics.fmean(metrics.forgetting(m) or 0.0 for m in matrices)
            assert browser.evaluate(f'document.querySelector("{cell}").textContent').startswith(f"{mean:.2f} ±")
    assert "loss is nan at step 9" in browser.evaluate("document.querySelector('.warn').innerText")
    assert "<b>&'\"" in browser.evaluate("document.querySelector('.warn').innerText")


@pytest.mark.parametrize("width", [320, 390, 1240])
def test_nothing_runs_out_of_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    smallest = browser.evaluate(
        """Math.min(...[...document.querySelectorAll('svg.chart text')].map(t =>
            parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"""
    )
    assert smallest >= 8.5 if width < 390 else smallest >= 9.5


def test_the_table_of_results_needs_no_scrolling_in_a_window_of_1100_pixels(browser: Browser, page: Path) -> None:
    browser.open(page, width=1100)
    assert browser.evaluate("document.querySelectorAll('table.results thead th').length") == 11
    box = "document.querySelector('.scroll:has(table.results)')"
    assert browser.evaluate(f"{box}.scrollWidth") <= browser.evaluate(f"{box}.clientWidth")


def test_a_chart_alone_fits_a_narrow_window_and_is_as_large_as_drawn_in_a_wide_one(
    browser: Browser, records: list[Record], tmp_path: Path
) -> None:
    (group,) = groups(records)
    drawing = drawn_forest(group, "average_accuracy", series_of([group]), width=520.0)
    assert drawing is not None
    path = tmp_path / "chart.svg"
    path.write_text(drawing.alone(), encoding="utf-8")
    for width, expected in ((390, 390.0), (1240, 548.0)):
        browser.open(path, width=width, phone=False)
        assert browser.evaluate("document.documentElement.getBoundingClientRect().width") == expected
        right = "Math.max(...[...document.querySelectorAll('text')].map(each => each.getBoundingClientRect().right))"
        assert expected - 60 < browser.evaluate(right) <= expected


def test_dark_follows_the_reader_and_stays_readable(browser: Browser, page: Path) -> None:
    contrast = """(() => {
        const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const light = colour => {
            paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => {
                v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ratio = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
        const style = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
        const cells = [...document.querySelectorAll('.cell:not(.future)')].filter(c => c.querySelector('text')).map(c =>
            ratio(getComputedStyle(c.querySelector('text')).fill, getComputedStyle(c.querySelector('rect')).fill));
        const marks = [...document.querySelectorAll('.mark')].map(m =>
            ratio(getComputedStyle(m).color, style('figure', 'backgroundColor')));
        return {background: light(style('body', 'backgroundColor')),
                words: ratio(style('body', 'color'), style('body', 'backgroundColor')),
                notes: ratio(style('.note', 'color'), style('body', 'backgroundColor')),
                cells: Math.min(...cells), marks: Math.min(...marks)};
    })()"""
    found = {}
    for dark in (False, True):
        browser.open(page, dark=dark)
        found[dark] = browser.evaluate(contrast)
        assert found[dark]["words"] >= 7
        assert found[dark]["notes"] >= 4.5
        assert found[dark]["cells"] >= 4.5
        assert found[dark]["marks"] >= 3
    assert found[True]["background"] < 0.1 < 0.8 < found[False]["background"]


def test_a_method_is_picked_out_with_the_keyboard_alone(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('.legend input').focus()")
    faded = "[...document.querySelectorAll('.chart .s')].filter(s => getComputedStyle(s).opacity < 0.9).length"
    assert browser.evaluate(faded) == 0
    browser.press("ArrowRight", 39)
    chosen = browser.evaluate("document.activeElement.value")
    browser.evaluate("document.getAnimations().forEach(a => a.finish())")
    assert chosen == "0"
    assert browser.evaluate(faded) > 0
    own = f"[...document.querySelectorAll('.chart .m{chosen}')]"
    assert browser.evaluate(f"{own}.length > 0 && {own}.every(s => getComputedStyle(s).opacity == 1)")
    assert browser.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"


def test_nothing_can_be_loaded_or_run(browser: Browser, records: list[Record], tmp_path: Path) -> None:
    extra = [("More", "<img src='other.png'><script>document.title = 'ran'</script>")]
    path = write(records, tmp_path / "report.html", title="Still", extra=extra)
    browser.errors.clear()
    browser.open(path)
    assert browser.evaluate("document.title") == "Still"
    assert sum("Content Security Policy" in error for error in browser.errors) == 2
    browser.errors.clear()
