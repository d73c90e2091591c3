"""The page of results: every number from a record, every verdict right, the same bytes for the same records."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from holdfast import metrics
from holdfast.bench import recipes, report
from holdfast.bench.evidence import experiments as results
from holdfast.bench.evidence import page, writing
from holdfast.bench.evidence.experiments import Cell
from holdfast.bench.recipes import Published
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Record
from holdfast.errors import StateError
from tests.bench.evidence.make import HSU, NAME, SIX, Scores, fill, make, read
from tests.bench.records.make import make_record

ROOT = Path(__file__).parents[3]


def two_methods(folder: Path, gap: float, spread: float = 0.05) -> Path:
    """Ten seeds whose first task varies much, but alike for both methods."""
    draw = random.Random(0)
    found = []
    for seed in range(10):
        first, noise = 0.7 + draw.uniform(-spread, spread), draw.uniform(-0.002, 0.002)
        found += [make("l2sp", seed, [first, 0.8]), make("anastrophic", seed, [first + gap + noise, 0.8])]
    return fill(folder, found)


def test_what_is_in_the_repository_is_what_its_records_give() -> None:
    writing.check(page.render(ROOT / "results"), ROOT / "docs" / "results.md", ROOT / "results")


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    one = read(two_methods(tmp_path / "a", 0.0))
    assert one == read(two_methods(tmp_path / "b", 0.0))
    assert str(tmp_path) not in one


def test_a_row_shows_mean_interval_difference_and_cost(tmp_path: Path) -> None:
    found = [make("anastrophic", seed, [0.60 + seed / 100, 0.85]) for seed in range(3)]
    page = read(fill(tmp_path, found))
    half = metrics.t_quantile(0.95, 2) * 1.0 / math.sqrt(3)  # percent; the deviation of 60, 61, 62 is 1
    line = next(line for line in page.splitlines() if line.startswith("| anastrophic | task 1"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[2:] == [f"61.00 ± {half:.2f}", "71.16", "-10.16", "outside the interval"]
    average = next(line for line in page.splitlines() if line.startswith("| anastrophic | 3 of 10 |"))
    assert "| 73.00 ± " in average and "61.0 / 85.0" in average and f"{found[0].costs.seconds_total:.0f}" in average
    assert f"holdfast recipe run {NAME}" in page and "Not run yet: finetune, joint, l2sp" in page
    assert found[0].environment.torch in page and found[0].environment.processor in page


@pytest.mark.parametrize(
    ("ours", "theirs", "differs", "said"),
    [
        ((70.0, 71.0, 72.0), 71.5, "", "inside the interval"),
        ((70.0, 70.1, 70.2), 75.0, "", "outside the interval"),
        ((70.0, 70.1, 70.2), 71.0, "", "outside the interval, within one point"),
        ((60.0, 60.0, 60.0, 60.0, 60.0, 60.0, 66.0), 65.9, "", "outside the interval, within the seeds' range"),
        ((70.0, 71.0, 72.0), 71.5, "other data", "protocol differs"),
        ((70.0,), 70.0, "", "too few seeds to say"),
        ((70.0, 90.0), 70.0, "", "too few seeds to say"),
    ],
)
def test_verdicts(ours: tuple[float, ...], theirs: float, differs: str, said: str) -> None:
    made = tuple(make("anastrophic", seed, [value / 100, 0.5]) for seed, value in enumerate(ours))
    published = Published(source="x", task=0, values={"anastrophic": theirs})
    assert results.verdict(Cell("anastrophic", "class", 0, made, (), published, differs)) == said
    assert results.verdict(Cell("anastrophic", "class", 0, made)) == ""
    assert results.verdict(Cell("anastrophic", "class", 0, (), made, published)) == ""


def test_differences_are_paired_over_seeds(tmp_path: Path) -> None:
    # Over seeds both spread by points; seed by seed they are close, which only pairing shows.
    (none,) = results.differences(results.collect(two_methods(tmp_path / "none", 0.0))[0], "class")
    assert none.seeds == tuple(range(10)) and abs(none.estimate.mean) < 0.2
    assert none.estimate.half is not None and none.estimate.half < 0.1
    (some,) = results.differences(results.collect(two_methods(tmp_path / "some", -0.02))[0], "class")
    assert some.estimate.mean == pytest.approx(-1.0, abs=0.1)
    assert some.sentence().startswith(f"anastrophic is worse than l2sp ({some.estimate.mean:+.2f} ± ")
    same = two_methods(tmp_path / "same", 0.0, spread=0.0)
    (equal,) = results.differences(results.collect(same)[0], "class")
    assert ("not told apart" in equal.sentence()) == (abs(equal.estimate.mean) <= (equal.estimate.half or 0))


def test_rows_that_never_differ_are_said_to_be_the_same(tmp_path: Path) -> None:
    found = [make(label, seed, [0.6, 0.8 + seed / 10]) for seed in (0, 1) for label in ("anastrophic", "l2sp")]
    (difference,) = results.differences(results.collect(fill(tmp_path, found))[0], "class")
    assert difference.sentence() == "anastrophic and l2sp have the same accuracy on each of 2 of 10 seeds."


def test_what_we_found_is_tied_to_records(tmp_path: Path) -> None:
    found = page.render(two_methods(tmp_path, -0.02))[f"results/{NAME}.md"]
    assert "[anastrophic](" in found and "is worse than [l2sp](" in found and "points, paired over 10 seeds" in found
    assert f"../../results/{NAME}/records/anastrophic-seed0.json" in found
    assert "- Of 2 published numbers," in found
    for link in {part.split(")")[0] for part in found.split("](../../results/")[1:]}:
        assert (tmp_path / link).exists()


def a_text_row(label: str, *learned: float, name: str = "classp-fpb-imdb") -> list[Record]:
    """Three seeds with these accuracies right after each of two tasks."""
    matrix = [[learned[0], 0.3], [learned[0] / 2, learned[1]]]
    made = [
        make(label, seed, [0.0, 0.0], name=name, **{"part": "domain", "variant": "honest"}) for seed in range(3)
    ]  # fmt: skip
    moved = [[[value + seed / 1000 for value in row] for row in matrix] for seed in range(3)]
    named = [record.model_copy(update={"task_names": ["phrases", "films"]}) for record in made]
    return [record.model_copy(update={"matrix": rows}) for record, rows in zip(named, moved, strict=True)]


def test_rows_that_learned_nothing_are_not_compared(tmp_path: Path) -> None:
    found = a_text_row("classp-released", 0.59, 0.49) + a_text_row("adagrad", 0.8, 0.7) + a_text_row("l2sp", 0.7, 0.501)
    page = read(fill(tmp_path, found, "classp-fpb-imdb"))
    assert "cannot be compared: classp-released did not learn phrases and films. CLASSP generalises" in page
    assert "cannot be compared: classp-released did not learn phrases and films; l2sp did not learn films." in page
    no_better = "No better than the best constant answer"
    assert f"{no_better} (59.4) right after phrases: classp-released 59.10 ± 0.25." in page
    assert f"{no_better} (50.0) right after films: classp-released 49.10 ± 0.25, l2sp 50.20 ± 0.25." in page
    assert "pairs of rows" not in page and "none learned every task (classp-released)" in page


def test_what_is_to_be_held_against_a_comparison_is_said(tmp_path: Path) -> None:
    def page(folder: str, scores: Scores) -> str:
        found = [make("ewc", seed, [0.99 + seed / 1000] * 2, name=HSU, scores=scores) for seed in range(3)]
        found += [make("l2", seed, [0.9] * 2, name=HSU) for seed in range(3)]
        return read(fill(tmp_path / folder, found, HSU))

    inside = page("inside", SIX)
    assert (
        "set 1 pair of rows side by side, seed by seed: 1 are told apart at 95 %, 0 are not." in inside
        and "lie beyond" not in inside
    )
    outside = page("outside", {1e6: None, **SIX} | {1e6: 0.9970})
    assert "ewc has the largest strength that was tried: a better one may lie beyond." in outside


def test_a_single_run_that_was_reported_is_set_against_single_runs_of_ours(tmp_path: Path) -> None:
    # The deviation of 60, 61 and 62 is 1: one more run differs from their mean by t sqrt(1 + 1/3) at most.
    found = [make("anastrophic", seed, [0.60 + seed / 100, 0.60 + seed / 10]) for seed in range(3)]
    page = read(fill(tmp_path, found))
    half = metrics.t_quantile(0.95, 2) * math.sqrt(1 + 1 / 3)
    reported = "of task 1 (0 and 1) one run was reported, 71.16; at 95 % one more run of ours lies within"
    assert f"{reported} 61.00 ± {half:.2f}, and theirs is outside." in page
    wide = [make("anastrophic", seed, [value, 0.8]) for seed, value in enumerate((0.5, 0.51, 0.6))]
    page = read(fill(tmp_path / "wide", wide))
    assert f"{reported} 53.67 ± 27.36, and theirs is inside." in page


def test_one_method_under_two_strengths_is_said(tmp_path: Path) -> None:
    name = "vandeven-fisher"
    found = []
    for label, first, second in (("exact", 1e6, 1e8), ("sampled", 1e8, 1e6)):
        scores = {first: 0.9, second: 0.8, 1e4: 0.7, 100.0: 0.6}
        found += [
            make(label, seed, [0.9 + seed / 100] * 2, name=name, scores=scores, part="split-mnist") for seed in range(3)
        ]
    page = read(fill(tmp_path, found, name))
    assert "Each has its own strength, 1e+06 and 1e+08. Labels drawn from the model" in page


def test_settings_of_two_names_are_no_two_values_of_one(tmp_path: Path) -> None:
    found = [
        make(label, seed, [0.9 + seed / 100] * 2, name="list-003", part="tuning")
        for label in ("inrank", "inrank-fixed")
        for seed in range(3)
    ]
    page = read(fill(tmp_path, found, "list-003"))
    assert "inrank-fixed" in page and "Each has its own" not in page


def test_seeds_that_only_one_row_has_are_left_out_and_failures_are_said(tmp_path: Path) -> None:
    failed = make("anastrophic", 2, [0.5, 0.5]).model_copy(update={"status": "failed", "failure": "the loss is nan"})
    found = [make("anastrophic", seed, [0.6, 0.8]) for seed in (0, 1)] + [
        make("l2sp", seed, [0.6, 0.8]) for seed in (1, 2)
    ]
    folder = fill(tmp_path, [*found, failed])
    (difference,) = results.differences(results.collect(folder)[0], "class")
    assert difference.seeds == (1,) and "shows nothing yet" in difference.sentence()
    assert "anastrophic did not finish: seed 2: the loss is nan." in read(folder)


def test_what_differs_by_task_stands_beside_the_published_numbers(tmp_path: Path) -> None:
    # On average nothing is seen: what one task gains, the other loses.
    found = []
    for seed in range(10):
        first = 0.70 + seed / 1000
        found += [make("l2sp", seed, [first, 0.80]), make("anastrophic", seed, [first + 0.02, 0.78 + (seed % 2) / 1e4])]
    folder = fill(tmp_path, found)
    (difference,) = results.differences(results.collect(folder)[0], "class")
    assert "not told apart" not in difference.sentence() or abs(difference.estimate.mean) < 0.01
    assert difference.by_task[0].mean == pytest.approx(2) and difference.by_task[1].mean == pytest.approx(-2, abs=0.01)
    page = read(folder)
    assert "72.45 ± 0.22 (71.16 published) and 70.45 ± 0.22, +2.00 ± 0.00 seed by seed; task 2" in page
    assert "\n| l2sp | task 1 (0 and 1) | 70.45 ± 0.22 |  |  |  |" in page
    assert "\n| finetune" not in page and "| ewc | task" not in page


def test_what_is_not_there_yet_is_said(tmp_path: Path) -> None:
    failed = [
        make("rwalk", seed, []).model_copy(update={"status": status, "failure": failure, "matrix": []})
        for seed, status, failure in [(0, "failed", "the loss\nis nan."), (1, "interrupted", ""), (2, "failed", "x")]
    ]
    found = [make("l2sp", seed, [0.7, 0.8]) for seed in range(10)]
    found += [make("anastrophic", seed, [0.7, 0.9]) for seed in range(4)] + failed
    page = read(fill(tmp_path, found))
    assert "So far: of 17 rows, 1 have all the seeds that the recipe says, 1 have fewer." in page
    assert "| anastrophic | 4 of 10 |" in page and "| l2sp | 10 |" in page
    assert "paired over 4 of 10 seeds" in page
    assert "| rwalk | 0 of 3 | no run finished |" in page
    assert "rwalk did not finish: seed 0: the loss is nan; seed 1: interrupted; seed 2: x." in page
    (missing,) = (line for line in page.splitlines() if line.startswith("Not run yet: ") and HSU in line)
    assert "; classp-mnist-fashion, released; " in missing and NAME not in missing


def test_the_command_repeats_what_was_run(tmp_path: Path) -> None:
    def commands(folder: str, *rows: tuple[str, int]) -> list[str]:
        found = [make(label, seed, [0.7, 0.8]) for label, count in rows for seed in range(count)]
        return results.collect(fill(tmp_path / folder, found))[0].commands

    start = f"holdfast recipe run {NAME}"
    assert commands("a", ("l2sp", 10), ("ewc", 3)) == [f"{start} --methods l2sp,ewc"]
    assert commands("b", ("l2sp", 2), ("ewc", 2)) == [f"{start} --methods l2sp,ewc --seeds 2"]
    assert commands("c", ("l2sp", 4), ("ewc", 3)) == [
        f"{start} --methods l2sp --seeds 4", f"{start} --methods ewc",
    ]  # fmt: skip
    every = [(row.label, row.seeds or 10) for row in recipes.load(NAME).methods]
    assert commands("d", *every) == [start]


def test_a_number_far_from_the_published_one_is_set_against_the_strengths_that_were_tried(tmp_path: Path) -> None:
    def page(folder: str, scores: Scores) -> str:
        found = [make("ewc", seed, [0.99 + seed / 1000] * 2, name=HSU, scores=scores) for seed in range(3)]
        return read(fill(tmp_path / folder, found, HSU))

    inside = page("inside", SIX)
    said = "goes from 97.10 (10) to 99.51 (100000) over the 6 that were tried; the published 97.70 lies between"
    assert said in inside and "lie beyond" not in inside and "strength 100000 (by validation), adam" in inside
    assert "## domain: not run yet" in inside and "--methods ewc --parts task --seeds 3" in inside
    outside = page("outside", {**SIX, 1e5: 0.9960, 1e6: 0.9960})
    assert "lie beyond" not in outside
    outside = page("further", {1e6: None, **SIX} | {1e6: 0.9970})
    assert "The largest was chosen: a better one may lie beyond." in outside
    assert "strength 1e+06 (by validation, the largest tried)" in outside


def test_a_record_that_names_no_part_is_of_the_first() -> None:
    recipe = recipes.load("classp-mnist-fashion")
    record = make_record("adagrad", 0)
    config = record.config.model_copy(update={"extra": {"recipe": recipe.name, "label": "adagrad"}})
    old = results.Experiment(recipe, "honest", "x", (record.model_copy(update={"config": config}),))
    assert [len(old.of(part, "adagrad")) for part in recipe.parts] == [1, 0]


def test_one_experiment_in_two_folders_is_refused(tmp_path: Path) -> None:
    record = make("l2sp", 0, [0.7, 0.8])
    for folder in ("a", "b"):
        records.save(record, tmp_path / folder / "records" / records.filename(record.config))
    with pytest.raises(StateError, match="hold records of one experiment"):
        results.collect(tmp_path)


def test_without_records_the_page_says_so(tmp_path: Path) -> None:
    assert "There are no records yet." in read(tmp_path / "nowhere")


def test_the_report_is_drawn_when_every_method_got_better_at_old_tasks() -> None:
    found = [
        make(label, 0, [1.0, 0.5]).model_copy(update={"matrix": [[0.5, 0.5], [0.9, 0.9]]}) for label in ("l2sp", "ewc")
    ]
    assert "<svg" in report.render(found)
