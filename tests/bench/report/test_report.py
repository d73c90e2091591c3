"""Rows, exports and the page, against numbers worked out from the records by other means."""

from __future__ import annotations

import csv
import io
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench import report
from holdfast.bench.records.record import Hyperparameter, Record
from holdfast.bench.report import METRICS, PublishedValue, charts, history, svg
from holdfast.errors import DataError, StateError
from tests.bench.records.make import make_record, make_records

T_TWO = 4.302652729911275  # Student's t, 95 %, two degrees of freedom


def by_label(records: list[Record], **options: object) -> dict[str, report.SummaryRow]:
    return {row.label: row for row in report.rows(records, **options)}  # type: ignore[arg-type]  # forwarded as given


def test_a_row_is_the_mean_and_interval_over_seeds() -> None:
    records = make_records(("ewc",), seeds=3)
    row = by_label(records)["ewc"]
    finals = [statistics.fmean(record.matrix[-1]) for record in records]
    accuracy = row.estimates["average_accuracy"]
    assert accuracy is not None and accuracy.half is not None
    assert accuracy.mean == pytest.approx(statistics.fmean(finals))
    assert accuracy.half == pytest.approx(T_TWO * statistics.stdev(finals) / 3**0.5)
    state = row.estimates["state_bytes"]
    assert state is not None and state.mean == pytest.approx(8.0)
    assert row.seeds == (0, 1, 2)


def test_step_time_is_relative_to_fine_tuning_with_the_same_seed_and_optimizer() -> None:
    records = make_records(("ewc", "finetune"), seeds=2)
    slow = make_record("finetune", 0, optimizer="sgd")
    slow = slow.model_copy(update={"costs": slow.costs.model_copy(update={"seconds_per_step": 99.0})})
    rows = by_label([*records, slow])
    expected = [records[k].costs.seconds_per_step / records[2 + k].costs.seconds_per_step for k in (0, 1)]
    step = rows["ewc"].estimates["step_time"]
    assert step is not None and step.values == pytest.approx(expected)
    assert by_label(records[:2])["ewc"].estimates["step_time"] is None


def test_rows_are_ordered_by_accuracy_and_the_best_is_not_a_bound() -> None:
    rows = report.rows(make_records(seeds=2))
    means = [row.estimates["average_accuracy"].mean for row in rows if row.estimates["average_accuracy"]]
    assert means == sorted(means, reverse=True)
    assert rows[0].method == "joint" and not rows[0].best
    assert "average_accuracy" in rows[1].best
    assert [row.label for row in rows if row.control] == ["joint", "l2sp", "finetune"]
    for metric in METRICS:
        winners = [row for row in rows if metric.key in row.best]
        assert not any(row.bound for row in winners)


def test_joint_training_has_no_forgetting() -> None:
    rows = by_label(make_records(("joint", "ewc"), seeds=2))
    assert rows["joint"].estimates["forgetting"] is None
    assert rows["ewc"].estimates["forgetting"] is not None


def test_settings_that_differ_make_rows_and_seeds_do_not() -> None:
    records = make_records(("ewc",), seeds=2)
    records += make_records(("ewc",), seeds=2, hyperparameters={"strength": Hyperparameter(value=7.0, source="given")})
    records += make_records(("finetune",), seeds=2) + make_records(("finetune",), seeds=1, optimizer="sgd")
    labels = {row.label for row in report.rows(records)}
    tunes = {"finetune (optimizer=adam)", "finetune (optimizer=sgd)"}
    assert labels == {"ewc (strength=[grid])", "ewc (strength=7)"} | tunes


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"model_options": {"lora": 8, "lora_start": "corda"}}, "model lora=8, model lora_start=corda"),
        ({"model_options": {"dropout": 0.1}}, "model dropout=0.1"),
        ({"memory": "generations"}, "memory=generations"),
        ({"low_perplexity": 30.0}, "words=of perplexity up to 30"),
    ],
)
def test_runs_of_other_models_or_memories_are_never_averaged(fields: dict[str, Any], label: str) -> None:
    """Each with a seed of its own, so that nothing else would tell them apart."""
    plain, other = report.rows([make_record("ewc", 0), make_record("ewc", 1, **fields)])
    assert {plain.label, other.label} == {"ewc", f"ewc ({label})"}
    assert sorted([plain.seeds, other.seeds]) == [(0,), (1,)]
    same = {"model_options": {"text": {"vocabulary": 9}, "digest": "a"}}  # which follow from the rest
    assert len(report.rows([make_record("ewc", 0, **same), make_record("ewc", 1, **same)])) == 1


def test_a_value_tuned_for_each_seed_is_one_row() -> None:
    records = [
        make_record("ewc", seed, hyperparameters={"strength": {"value": value, "source": "tuned", "detail": f"{seed}"}})
        for seed, value in enumerate((10.0, 100.0))
    ]
    (row,) = report.rows(records)
    assert row.hyperparameters == (("strength", "10, 100 (tuned: chosen for each seed)"),)


def test_streams_and_scenarios_are_not_mixed() -> None:
    records = [make_record(scenario="task"), make_record(scenario="domain"), make_record(stream="permuted-digits")]
    assert [(g.stream, g.scenario) for g in report.groups(records)] == [
        ("split-digits", "task"),
        ("split-digits", "domain"),
        ("permuted-digits", "task"),
    ]


def test_failed_runs_are_shown_and_not_averaged() -> None:
    records = [make_record("ewc", 0), make_record("ewc", 1, status="failed", rows=2, failure="loss is nan at step 7")]
    (row,) = report.rows(records)
    assert row.seeds == (0,)
    assert row.failures == ((1, "failed", "loss is nan at step 7"),)
    page = report.render(records)
    assert "loss is nan at step 7" in page and "1 of 2 did not finish" in page
    assert any("loss is nan at step 7" in note for table in report.text_table(records) for note in table.notes)


def test_a_report_of_failures_alone_is_still_a_report() -> None:
    page = report.render([make_record("ewc", 0, status="interrupted", rows=0)])
    assert "No method to compare has finished yet." in page


def test_what_cannot_be_reported_is_said() -> None:
    with pytest.raises(DataError, match="no records"):
        report.render([])
    with pytest.raises(DataError, match="Found 2 records of ewc with one setting and seed 0"):
        report.rows([make_record("ewc", 0), make_record("ewc", 0)])


@pytest.mark.parametrize(
    ("source", "shown", "untuned"), [("default", "5 (default, untuned)", True), ("given", "5 (given)", False)]
)
def test_how_a_value_was_chosen_is_shown(source: str, shown: str, untuned: bool) -> None:
    record = make_record(hyperparameters={"strength": {"value": 5.0, "source": source}})
    (row,) = report.rows([record])
    assert row.hyperparameters == (("strength", shown),)
    assert row.untuned is untuned
    assert shown in report.render([record])


def test_a_strength_at_its_default_is_untuned_whatever_else_was_given() -> None:
    default, given = {"value": 5.0, "source": "default"}, {"value": "exact", "source": "given"}
    (row,) = report.rows([make_record(hyperparameters={"strength": default, "fisher": given})])
    assert row.untuned
    (row,) = report.rows([make_record("classp", hyperparameters={"lr": default, "variant": given})])
    assert not row.untuned


def test_csv_has_every_number_in_full() -> None:
    records = make_records(("ewc", "joint"), seeds=3)
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(report.to_csv(records)))}
    mean = statistics.fmean(statistics.fmean(record.matrix[-1]) for record in records[:3])
    assert float(lines["ewc"]["average_accuracy"]) == pytest.approx(mean, rel=1e-15)
    assert lines["joint"]["forgetting"] == ""
    assert lines["joint"]["control"] == "true" and lines["ewc"]["seeds"] == "3"


def test_latex_escapes_and_marks() -> None:
    text = report.to_latex([make_record("a_b&c%", s) for s in (0, 1)] + make_records(("finetune", "l2sp"), seeds=2))
    assert r"a\_b\&c\% &" in text
    assert r"finetune$^\dagger$" in text
    assert text.count(r"\textbf{") >= 3
    assert text.count(r"\begin{tabular}{lrrrrrr}") == text.count(r"\end{tabular}") == 1
    assert all(line.count(" & ") == 6 for line in text.splitlines() if line.endswith(r"\\"))


def test_rows_with_fewer_seeds_are_said_in_every_table() -> None:
    found = [make_record("ewc", seed) for seed in range(4)] + [make_record("lwf", seed) for seed in range(2)]
    (table,) = report.text_table(found)
    assert "Fewer seeds than 4: lwf (2)." in table.notes
    assert "Fewer seeds than 4: lwf (2)." in report.to_markdown(found)
    assert "over 2 to 4 seeds. Fewer seeds than 4: lwf (2)." in report.to_latex(found)
    assert not any("Fewer" in note for note in report.text_table(found[:4])[0].notes)


def test_markdown_has_the_rows_of_the_text_table() -> None:
    records = make_records(("ewc", "finetune"), seeds=2)
    (table,) = report.text_table(records)
    markdown = report.to_markdown(records)
    for row in table.rows:
        for cell in row:
            assert (f"**{cell.text}**" if cell.best else cell.text) in markdown
    assert table.rows[0][0].text == "ewc" and table.rows[1][0].text == "finetune [control]"


def test_a_pipe_in_a_name_does_not_break_markdown() -> None:
    assert "a\\|b" in report.to_markdown([make_record("a|b")])


class Parser(HTMLParser):
    """Collects tags and attributes, and holds every tag to its closing one."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> Parser:
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


HOSTILE = "<script>alert(1)</script>\"'&</style>\x1b[31m\x00"


def test_everything_in_a_record_is_escaped() -> None:
    record = make_record(
        HOSTILE,
        stream=HOSTILE,
        model=HOSTILE,
        task_names=[HOSTILE] * 5,
        warnings=[HOSTILE],
        command=HOSTILE,
        hyperparameters={HOSTILE: {"value": HOSTILE, "source": "given", "detail": HOSTILE}},
        extra={HOSTILE: HOSTILE},
    )
    failed = make_record(HOSTILE, 1, stream=HOSTILE, status="failed", failure=HOSTILE, task_names=[HOSTILE] * 5)
    published = [PublishedValue(HOSTILE, "average_accuracy", 0.5, HOSTILE)]
    extra = [(HOSTILE, "")]
    page = report.render([record, failed], title=HOSTILE, commands=[HOSTILE], published=published, extra=extra)
    tags = {tag for tag, _ in parse(page).seen}
    assert "script" not in tags
    assert "\x1b" not in page and "\x00" not in page
    assert page.count("</style>") == 1


def test_the_page_is_whole_accessible_and_alone() -> None:
    page = report.render(make_records(seeds=2), commands=["holdfast compare split-digits"])
    seen = parse(page).seen
    ids = [attributes["id"] for _, attributes in seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = [attributes for tag, attributes in seen if tag == "svg" and attributes.get("role") == "img"]
    assert len(drawings) > 10
    for attributes in drawings:
        assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
    for tag, attributes in seen:
        target = attributes.get("href") or attributes.get("src") or "#"
        assert target.startswith(("#", "data:")), (tag, target)
        assert not any(name.startswith("on") for name in attributes)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower()
    assert "holdfast run split-digits --method ewc --seed 1" in page


def test_published_values_are_drawn_and_cited() -> None:
    records = make_records(("ewc", "lwf"), seeds=2)
    values = [PublishedValue("ewc", "average_accuracy", 0.9123, "Someone 2017, table 1", scenario="task")]
    page = report.render(records, published=values)
    assert "◇ 91.23 [1]" in page and "[1] Someone 2017, table 1" in page
    assert page.count('class="ring"') == 1
    elsewhere = [PublishedValue("ewc", "average_accuracy", 0.9123, "Someone", scenario="class")]
    assert 'class="ring"' not in report.render(records, published=elsewhere)


def test_the_lead_claims_no_more_than_the_intervals_allow() -> None:
    clear = make_records(("finetune", "ewc", "l2sp"), seeds=3, noise=1e-4)
    assert "its interval overlaps no other" in report.render(clear)
    assert "No method is clearly better" not in report.render(clear)
    same = [
        make_record(name, seed, tasks=2, matrix=[[0.9, 0.5], [0.8 + seed / 50, 0.9]])
        for name in ("ewc", "finetune", "lwf")
        for seed in (0, 1)
    ]
    page = report.render(same)
    assert "its interval overlaps that of lwf" in page
    assert "No method is clearly better than no protection at all." in page
    assert "one seed: a difference may be chance" in report.render([make_record("ewc"), make_record("lwf")])


def test_a_long_stream_is_thinned_and_says_so() -> None:
    (group,) = report.groups([make_record("ewc", tasks=30)])
    chosen = history.panels(group)
    assert len(chosen) == history.MAX_PANELS and chosen[0] == 0 and chosen[-1] == 29
    assert "11 of the 30 tasks" in report.render([make_record("ewc", tasks=30)])


def test_many_methods_look_different() -> None:
    groups = report.groups([make_record(f"m{k}") for k in range(20)])
    looks = list(charts.series_of(groups).values())
    assert len({(look.colour, look.shape) for look in looks}) == 20


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (93.4, 94.1), (-0.3, 0.2), (1.0, 1e9), (5.0, 5.0 + 1e-9)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_one_value_still_has_an_axis() -> None:
    low, high = svg.span([3.0])
    assert low < 3.0 < high


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = report.write(make_records(("ewc",), seeds=1), tmp_path / "new" / "report.html", title="One")
    assert path.read_text().startswith("<!doctype html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(StateError, match="Cannot write the report"):
        report.write(make_records(("ewc",), seeds=1), path / "below.html")


def test_the_page_is_the_same_for_the_same_records() -> None:
    records = make_records(("ewc", "lwf"), seeds=2)
    assert report.render(records) == report.render(records)
