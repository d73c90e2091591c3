"""Pages of streams whose classes are unequal: how each group fares, and pairs that are compared on one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from holdfast.bench import recipes
from holdfast.bench.evidence import experiments
from holdfast.bench.records.by_class import ByClass
from holdfast.bench.records.record import Record
from tests.bench.evidence.make import fill, make, read

NAME = "list-003"


def row(label: str, part: str, few: float) -> list[Record]:
    """Three seeds of a row, which differ from each other by a point on the rare class."""
    found = []
    for seed in range(3):
        rare = few + seed / 100
        told = ByClass(samples=[[200, 60], [5]], accuracies=[[1.0, 0.8, 0.0], [0.9, 0.6, rare]])
        record = make(label, seed, [0.75, rare], name=NAME, part=part)
        found.append(record.model_copy(update={"by_class": told}))
    return found


@pytest.fixture
def page(tmp_path: Path) -> str:
    tails = row("finetune", "long-tail", 0.1) + row("class-balanced", "long-tail", 0.4)
    shots = row("finetune", "few-shot-mnist", 0.0) + row("ncm", "few-shot-mnist", 0.6)
    return read(fill(tmp_path / "results", tails + shots, NAME))


def test_classes_stand_in_a_table_of_their_own(page: str) -> None:
    assert "| row | many (%) | medium (%) | few (%) | sessions (%) | drop (points) |" in page
    # Seeds at 40, 41 and 42 on the rare class: (100 + 80) / 2 over the first two, (90 + 60 + 41) / 3 over all three.
    balanced = "| class-balanced | 90.00 ± 0.00 | 60.00 ± 0.00 | 41.00 ± 2.48 | 90.0 / 63.7 | 26.33 ± 0.83 |"
    assert balanced in page
    assert "Classes by their frequency: many: more than 100 training samples, few: fewer than 20." in page


def test_pairs_are_compared_on_what_the_recipe_says(page: str) -> None:
    control = "[finetune](../../results/list-003/records/long-tail-finetune-seed0.json)"
    few = f"is better than {control} (+30.00 ± 0.00 points on classes with few samples, paired over 3 seeds)."
    assert few in page
    last = "(+20.00 ± 0.00 points after the last session, paired over 3 seeds)."  # 60 of three classes are 20 of all
    assert last in page


def test_what_a_record_does_not_tell_is_not_compared() -> None:
    (record, *_) = row("finetune", "long-tail", 0.1)
    assert experiments.measured(record, "few") == pytest.approx(0.1)
    assert experiments.measured(record, "average") == pytest.approx(0.425)
    plain = record.model_copy(update={"by_class": None})
    assert experiments.measured(plain, "few") is None and experiments.measured(plain, "last session") is None


@pytest.mark.usefixtures("holdfast_data")
def test_a_row_may_say_how_its_stream_is_trained_on() -> None:
    table = recipes.resolve(recipes.load(NAME), parts=("long-tail",), labels=("finetune", "class-balanced"), quick=True)
    plain, weighed = (table.jobs(each)[0].config.stream_options for each in table.rows)
    assert weighed == {**plain, "class_balance": 0.9999} and "class_balance" not in plain


def test_a_pair_names_parts_that_there_are() -> None:
    recipe = recipes.load(NAME).model_dump()
    recipe["paired"][0]["parts"] = ["nowhere"]
    with pytest.raises(ValidationError, match="paired: the part 'nowhere' is not one of"):
        recipes.Recipe.model_validate(recipe)


def test_a_number_published_of_sessions_stands_beside_ours(tmp_path: Path) -> None:
    page = read(fill(tmp_path / "results", row("lwpk", "few-shot-mnist", 0.4), NAME))
    assert "| lwpk | last session | 63.67 ± 0.83 | 58.69 | +4.98 | protocol differs |" in page
    assert "| lwpk | session mean | 76.83 ± 0.41 | 66.11 | +10.72 | protocol differs |" in page
    assert page.count("| lwpk | 3 | 58.00 ± 1.24 |") == 1  # the row itself, once
    found = {mark.metric: mark.value for mark in recipes.markers(recipes.load(NAME), "") if mark.method == "lwpk"}
    assert found == {"last_session": 0.5869, "session_mean": 0.6611}
