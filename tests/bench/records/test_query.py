"""Listing, filtering, sorting and comparing many records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import ConfigurationError, StateError, metrics
from holdfast.bench.records import query as store
from holdfast.bench.records import record
from tests.bench.records.make import make_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two comparisons of 150 records, one of them with a failed run and a search's trials."""
    root = tmp_path_factory.mktemp("results")
    for name, stream in (("first", "split-digits"), ("second", "split-mnist")):
        for method in ("ewc", "si", "joint"):
            for seed in range(50):
                one = make_record(method, seed, stream=stream)
                record.save(one, root / name / "records" / record.filename(one.config))
    failed = make_record("lwf", 0, status="failed", rows=0, stream="split-mnist", failure="the loss is not finite")
    record.save(failed, root / "second" / "records" / "lwf-seed0.json")
    record.save(make_record("ewc", 77), root / "second" / "choices" / "trial-0.json")
    return root


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[store.Row]:
    return store.read(folder)


def where(rows, *texts):
    return store.select(rows, store.parse_where(texts))


def test_a_row_says_what_the_whole_record_says(folder, rows):
    assert len(rows) == 301
    for row in rows[::37]:
        one = record.load(row.path)
        assert row["method"] == one.config.method and row["seed"] == one.config.seed
        assert row["status"] == one.status and row["date"] == one.environment.date
        assert row["accuracy"] == metrics.average_accuracy(one.matrix)
        assert row["forgetting"] == metrics.forgetting(one.matrix)
        assert row["lr"] == one.config.lr
    assert {row["hyperparameters"] for row in rows if row["method"] == "ewc"} == {"strength=1000"}


def test_records_in_any_layout_are_read(tmp_path):
    one = make_record("ewc", 3)
    (tmp_path / "compact.json").write_text(one.model_dump_json())
    fields = json.loads(one.model_dump_json())
    reordered = {key: fields[key] for key in sorted(fields, reverse=True)}
    (tmp_path / "pretty.json").write_text(json.dumps(reordered, indent=2))
    record.save(make_record("ewc", 3, tasks=60), tmp_path / "large.json")  # its matrix does not fit in the first look
    large, *small = sorted(store.read(tmp_path), key=lambda row: str(row.path.name != "large.json"))
    assert [row["accuracy"] for row in small] == [metrics.average_accuracy(one.matrix)] * 2
    assert large["tasks"] == 60 and large["accuracy"] is not None


def test_trials_are_shown_only_when_asked_for(folder):
    assert len(store.read(folder, trials=True)) == 302
    assert not any("choices" in str(row.path) for row in store.read(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "finished"}', '"x"', "null", '{"config": 3}'])
def test_a_file_that_is_no_record_is_named_or_skipped(tmp_path, text):
    record.save(make_record("ewc", 0), tmp_path / "good.json")
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(StateError, match=r"bad\.json is not a holdfast record"):
        store.read(tmp_path)
    skipped: list[str] = []
    assert len(store.read(tmp_path, skipped=skipped)) == 1
    assert len(skipped) == 1 and "bad.json" in skipped[0]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StateError, match="nowhere"):
        store.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "texts, expected",
    [
        (["method = ewc"], 100),
        (["method == EWC"], 100),
        (["method = 'ewc'"], 100),
        (["method != ewc"], 201),
        (["method ~ o"], 100),
        (["method = ewc and seed < 10"], 20),
        (["method = ewc", "seed < 1e1", "stream = split-mnist"], 10),
        (["strength >= 1000"], 100),
        (["seed = 07"], 6),
        (["status = failed"], 1),
        (["accuracy > 0.5 and accuracy < 0.1"], 0),
        (["forgetting != 5"], 301),
        (["method = ewc'; DROP TABLE records; --"], 0),
    ],
)
def test_conditions(rows, texts, expected):
    assert len(where(rows, *texts)) == expected


def test_a_comparison_with_a_number_is_by_number(rows):
    assert {row["seed"] for row in where(rows, "seed > 9", "seed <= 11")} == {10, 11}
    assert len(where(rows, "lr = 1e-3")) == len(where(rows, "lr = 0.001")) == 301


def test_a_column_that_no_record_has_is_refused_with_the_nearest(rows):
    with pytest.raises(ConfigurationError, match="accuracy"):
        where(rows, "acuracy > 0.5")
    with pytest.raises(ConfigurationError, match="method"):
        store.sort(rows, ["methods"])


@pytest.mark.parametrize("text", ["", "method", "method =", "= ewc", "method == ", "method ewc", "a = b and c"])
def test_a_malformed_condition_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"^where has "):
        store.parse_where([text])


@given(st.text(max_size=40))
def test_no_text_does_more_than_be_refused(text):
    row = store.Row({"method": "ewc", "accuracy": 0.5}, Path("x.json"))
    try:
        store.select([row], store.parse_where([text]))
    except ConfigurationError as error:
        assert str(error)


def test_sorting_by_several_columns_with_empty_cells_last(rows):
    found = store.sort(rows, ["method", "-seed"])
    names = [str(row["method"]) for row in found]
    assert names == sorted(names)
    seeds = [row["seed"] for row in found if row["method"] == "ewc"]
    assert seeds == sorted(seeds, reverse=True)
    for key in ("forgetting", "-forgetting"):
        ordered = store.sort(rows, [key])
        values = [row["forgetting"] for row in ordered]
        assert values[-101:] == [None] * 101  # joint has no forgetting, and one run failed
        assert values[:200] == sorted(values[:200], reverse=key.startswith("-"))


def test_seeds_are_compared_as_one(rows):
    groups = store.grouped(where(rows, "stream = split-mnist"))
    assert {group.method for group in groups} == {"ewc", "si", "joint", "lwf"}
    ewc = next(group for group in groups if group.method == "ewc")
    values = [row["accuracy"] for row in where(rows, "method = ewc and stream = split-mnist")]
    assert ewc.seeds == 50 and ewc.failed == 0 and ewc.accuracy == metrics.interval(values)
    lwf = groups[-1]
    assert (lwf.method, lwf.seeds, lwf.failed, lwf.accuracy) == ("lwf", 0, 1, None)
    assert next(group for group in groups if group.method == "joint").forgetting is None
    means = [group.accuracy[0] for group in groups[:-1]]
    assert means == sorted(means, reverse=True)
