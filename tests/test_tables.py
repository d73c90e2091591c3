"""Tables in README and docs are what their records give: no number is typed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from holdfast import registry
from holdfast.bench import report
from holdfast.bench.records import record
from speed import curvature, defaults, fractions, samples, scale

pytest.importorskip("sklearn", reason="the bench's packages are not installed")

ROOT = Path(__file__).parent.parent
COLUMNS = ("Avg. acc. (%)", "Forgetting (points)")


def tables(text: str) -> list[list[list[str]]]:
    """Every Markdown table: its rows, header first, each a list of cells."""
    found = re.findall(r"(?:^ *\|.*\n)+", text, re.MULTILINE)
    cells = [[[cell.strip() for cell in line.strip().strip("|").split("|")] for line in t.splitlines()] for t in found]
    return [[rows[0], *rows[2:]] for rows in cells]


def by_header(rows: list[list[str]]) -> list[dict[str, str]]:
    return [dict(zip(["row", *rows[0][1:]], row, strict=True)) for row in rows[1:]]


def printed(folder: str) -> list[dict[str, str]]:
    """The table that ``holdfast report FOLDER --table markdown`` prints."""
    (rows,) = tables(report.to_markdown(record.load_all(ROOT / "docs" / "records" / folder)))
    return by_header(rows)


def after(page: str, mark: str) -> list[dict[str, str]]:
    """The first table of a page after a mark."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return by_header(tables(text[text.index(mark) :])[0])


def test_the_first_table_of_the_readme_is_what_the_records_of_its_recipe_give() -> None:
    shown = after("README.md", "[records](results/class-incremental/records)")
    rows = {row["row"].split(" [")[0] for row in shown}
    records = record.load_all(ROOT / "results" / "class-incremental")
    mine = [r for r in records if r.config.extra["part"] == "split-mnist" and r.config.extra["label"] in rows]
    (given,) = tables(report.to_markdown(mine))
    assert len(shown) > 5 and len(shown) == len(given) - 1
    for ours, theirs in zip(shown, by_header(given), strict=True):
        assert ours == {key: theirs[key] for key in ours}


@pytest.mark.parametrize("folder", ["demo/task", "demo/class"])
def test_the_page_of_the_demo_shows_what_its_records_give(folder: str) -> None:
    shown, given = after("docs/demo.md", f"records/{folder}/records"), printed(folder)
    assert [row["row"] for row in shown] == [row["row"] for row in given]
    for ours, theirs in zip(shown, given, strict=True):
        assert ours == {key: theirs[key] for key in ours}


def records_of(page: str) -> Path:
    """The records of a page of results: a recipe's, or those of one of its variants."""
    whole, (recipe, _, variant) = ROOT / "results" / page, page.rpartition("-")
    return whole if whole.is_dir() else ROOT / "results" / recipe / variant


def test_a_number_that_leads_to_a_page_of_results_is_the_mean_of_its_row() -> None:
    found = re.compile(r'\[([\d.]+) %\]\([./a-z]*results/([\w-]+)\.md "(\S+) (\S+)"\)')
    pages = {page: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
    quoted = {page: found.findall(text) for page, text in pages.items()}
    means: dict[tuple[str, str, str], list[float]] = {}
    for recipe in {row[1] for rows in quoted.values() for row in rows}:
        for each in record.load_all(records_of(recipe)):
            extra, last = each.config.extra, each.matrix[-1]
            means.setdefault((recipe, extra["part"], extra["label"]), []).append(100 * sum(last) / len(last))
    for page, rows in quoted.items():
        for number, *row in rows:
            values = means[row[0], row[1], row[2]]
            assert number == f"{sum(values) / len(values):.2f}", f"{page.name}: {' '.join(row)}"
    for name in ("ncm", "fecam", "gpm"):  # and no number stands there without its row
        page = ROOT / "docs" / "methods" / f"{name}.md"
        assert len(quoted[page]) >= 2
        assert not re.search(r"\d %", found.sub("", pages[page])), name


def test_the_page_of_ewc_shows_what_its_records_give() -> None:
    shown = {row["row"]: row for row in after("docs/methods/ewc.md", "records/ewc-strengths")}
    for strength in ("1e3", "1e4", "1e5"):
        for row in printed(f"ewc-strengths/{strength}"):
            label = "finetune" if row["row"].startswith("finetune") else f"ewc, strength {strength}"
            found = shown.pop(label)
            assert [found[key] for key in COLUMNS] == [row[key].replace("*", "") for key in COLUMNS]
    assert not shown


def test_the_fractions_of_automatic_strengths_are_those_that_were_measured() -> None:
    found = json.loads((ROOT / "docs" / "records" / "fractions.json").read_text(encoding="utf-8"))
    assert [(row["method"], row["scenario"]) for row in found["rows"]] == list(fractions.ROWS)
    assert fractions.table(found) in (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")


def test_memory_estimated_and_measured_is_what_was_recorded() -> None:
    found = json.loads((ROOT / "docs" / "records" / "memory.json").read_text(encoding="utf-8"))
    assert scale.table(found) in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    assert [(row["method"], row["processes"]) for row in found["rows"]] == scale.ROWS
    for row in found["rows"]:
        assert 95e6 < row["parameters"] < 105e6
        for key in ("state", "resident"):
            assert scale.off(row, key) < scale.WITHIN, (row["method"], row["processes"], key)


def test_the_default_fisher_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "docs" / "records" / "fisher-samples.json").read_text(encoding="utf-8"))["rows"]
    assert samples.table(rows) in (ROOT / "docs" / "importance.md").read_text(encoding="utf-8")


def test_defaults_are_what_their_records_decide() -> None:
    rows = json.loads((ROOT / "docs" / "records" / "defaults.json").read_text(encoding="utf-8"))["rows"]
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    assert defaults.table(rows) in page and defaults.fractions_table(rows) in page
    for method, automatic in defaults.judged(rows).items():
        expected = "auto" if automatic else defaults.NUMBERS[method]
        assert registry.lookup(method).defaults["strength"] == expected, method


def test_a_default_is_automatic_where_that_gains_and_loses_nowhere_measurably() -> None:
    def rows(gains: dict[tuple[str, str], list[float]]) -> list[dict[str, object]]:
        settings = (defaults.Setting(1e4), defaults.own("ewc"))
        return [
            {
                "stream": stream,
                "scenario": scenario,
                "method": "ewc",
                "seed": seed,
                **vars(setting),
                "validation": value,
            }
            for (stream, scenario), found in gains.items()
            for seed, gain in enumerate(found)
            for setting, value in zip(settings, (50.0, 50.0 + gain), strict=True)
        ]

    gains = {cell: [1.0, 2.0, 3.0, 2.0, 2.0] for cell in defaults.CELLS}
    first = defaults.CELLS[0]
    assert defaults.judged(rows(gains)) == {method: method == "ewc" for method in defaults.NUMBERS}
    assert defaults.judged(rows(gains | {first: [-9.0, 2.0, 1.0, 2.0, 1.0]}))[
        "ewc"
    ]  # a loss that the seeds do not agree on
    assert not defaults.judged(rows(gains | {first: [-1.0, -1.1, -0.9, -1.0, -1.0]}))["ewc"]
    assert not defaults.judged(rows({cell: [-2.0, 1.0, 0.5, -0.5, -0.5] for cell in defaults.CELLS}))["ewc"]
    assert not defaults.judged(rows({cell: found for cell, found in gains.items() if cell != first}))["ewc"]
    assert not defaults.judged(rows(gains | {first: [1.0, 2.0, 3.0, 2.0]}))["ewc"]  # a seed is missing


def test_searched_and_automatic_strengths_are_those_that_were_measured() -> None:
    shown = {row["row"]: row for row in after("docs/tuning.md", "results/choosing")}
    files = sorted((ROOT / "results" / "choosing").glob("*.json"))
    assert len(shown) == len(files) == 5
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        epochs = found["protocol"]["epochs"]
        label = f"{found['protocol']['stream']}, {epochs} epoch{'s' * (epochs > 1)}, {found['protocol']['method']}"
        tuned, auto, best = (100 * found[key]["test_accuracy"] for key in ("tuned", "auto", "best_of_grid"))
        assert shown[label] == {
            "row": label,
            "seeds": str(found["protocol"]["seeds"]),
            "trials": str(len(found["grid"])),
            "searched": f"{tuned:.2f} (at {found['tuned']['strength']:g})",
            "automatic": f"{auto:.2f}",
            "best of the grid": f"{best:.2f} (at {found['best_of_grid']['strength']:g})",
        }


def test_the_page_of_curvature_shows_the_table_of_its_record() -> None:
    found = json.loads((ROOT / "docs" / "records" / "curvature.json").read_text(encoding="utf-8"))
    assert len(found) == 12
    assert curvature.table(found) in (ROOT / "docs" / "curvature.md").read_text(encoding="utf-8")


def test_a_norm_of_a_small_network_is_its_dense_hessians() -> None:
    norms = curvature.compared("tanh", trained=False, seed=5)
    assert norms["quadratic"]["whole"] < 1e-9 and norms["quadratic"]["tensors"] < 1e-9
    assert norms["spectral"]["whole"] < 1e-2 and norms["frobenius"]["whole"] < 0.5


def test_the_page_of_adapters_says_what_its_record_gives() -> None:
    found = json.loads((ROOT / "docs" / "records" / "leaks.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "peft.md").read_text(encoding="utf-8")
    shown = {name: f"{100 * share:.2g} %" for name, share in found.items()}
    short, long = (f"**{shown[f'peft OSF, {steps} steps']}**" for steps in (100, 1000))
    assert f"{short} for PEFT's OSF after 100 steps and {long} after 1,000" in page
    for kind in ("gpm", "adam-nscl"):
        assert f"{shown[f'{kind}, 100 steps']} and {shown[f'{kind}, 1000 steps']} for [GPM]" in page
