"""Fronts of texts: compared at equal loss of the old text, with numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from holdfast.bench import recipes
from holdfast.bench.evidence import experiments, page, texts
from holdfast.bench.records import record as records
from holdfast.bench.records.likelihood import Likelihood
from holdfast.bench.records.record import Record
from tests.bench.records.make import make_record

NAME = "language"


def made(label: str, seed: int, old: float, new: float, before: float = 4.0, joint: bool = False) -> Record:
    """A run of the recipe: an old word's loss before and after, a new word's after, in nats."""
    recipe = recipes.load(NAME)
    row = next(each for each in recipe.methods if each.label == label)
    record = make_record(row.method, seed, tasks=2)
    extra = {"recipe": NAME, "label": label, **({"front": row.front} if row.front else {})}
    config = recipes.as_planned(recipe, record.config.model_copy(update={"extra": extra, "hyperparameters": {}}))
    rows = [[old, new]] if joint else [[before, 6.0], [old, new]]
    found = Likelihood(initial=[before, 6.0], matrix=rows, divergence=[None] if joint else [None, 0.5])
    matrix = [[0.3, 0.2]] * len(rows)
    return record.model_copy(update={"config": config, "likelihood": found, "matrix": matrix})


def fronts_of_two_seeds() -> list[Record]:
    found = []
    for seed, shift in ((0, 0.0), (1, 0.02)):
        found += [
            made("finetune", seed, 5.0, 3.5 + shift),  # forgets one nat: a quarter of it is 4.25
            made("lwf-own-1", seed, 4.5, 3.6 + shift),
            made("lwf-own-10", seed, 4.1, 4.0 + shift),  # 4.25 lies 15/40 of the way: 4.0 - 0.375 * 0.4 = 3.85
            made("ewc-own-10", seed, 4.45, 4.0 + shift),
            made("ewc-own-100", seed, 4.05, 4.8 + 2 * shift),  # halfway: 4.4
            made("l2sp-3", seed, 4.9, 3.9),  # never comes that low
            made("l2sp-1", seed, 4.6, 4.4),
            made("joint", seed, 4.2, 3.7, joint=True),
        ]
    return found


@pytest.fixture
def experiment(tmp_path: Path) -> experiments.Experiment:
    for record in fronts_of_two_seeds():
        records.save(record, tmp_path / NAME / "records" / records.filename(record.config))
    (found,) = experiments.collect(tmp_path)
    return found


def test_a_front_is_read_between_its_points_seed_by_seed(experiment: experiments.Experiment) -> None:
    known = texts.fronts(experiment, "texts")
    assert known["lwf-own"] == ["lwf-own-1", "lwf-own-10"]
    assert texts.at_share(experiment, "texts", known["lwf-own"], 0.25) == pytest.approx({0: 3.85, 1: 3.87})
    assert texts.at_share(experiment, "texts", known["ewc-own"], 0.25) == pytest.approx({0: 4.4, 1: 4.43})
    assert texts.at_share(experiment, "texts", known["l2sp"], 0.25) == {}  # not continued beyond its ends
    assert texts.at_share(experiment, "texts", known["l2sp"], 0.7) == pytest.approx(
        {0: 4.4 - 0.5 / 3, 1: 4.4 - 0.5 / 3}
    )


def test_the_common_front_leaves_out_what_another_row_beats(experiment: experiments.Experiment) -> None:
    # l2sp-3 forgets less than finetune and learns less; lwf-own-1 does both better. Joint training is no contender.
    assert texts.on_common_front(experiment, "texts") == ["finetune", "lwf-own-1", "lwf-own-10", "ewc-own-100"]


def test_the_page_says_the_order_at_equal_loss(experiment: experiments.Experiment, tmp_path: Path) -> None:
    files = page.render(tmp_path)
    text = files[f"results/{NAME}.md"]
    best = math.exp(3.85) / 2 + math.exp(3.87) / 2
    assert "a quarter of what plain fine-tuning forgets is forgotten, [lwf-own](" in text
    assert f"learns most: perplexity {best:.1f} ±" in text
    assert "Behind it, in nats a word: ewc-own (+0.555 ± 0.064)" in text  # 0.55 and 0.56; t is 12.7
    assert "No strength that was run comes to lie there: l2sp." in text
    assert "accuracy" not in text.split("## What to know")[0]
    assert f"| lwf-own-10 | 2 of 3 | {math.exp(4.1):.1f} ± 0.0 | " in text
    assert f"after the first task alone: {math.exp(4.0):.1f} ± 0.0 of" in text
    drawing = files[f"results/{NAME}-texts.svg"]
    assert "Perplexity of the new" in drawing or "perplexity" in drawing.lower()
    assert drawing.count("<polyline") == 3  # a line for each front of two
    front = files["results.md"]
    assert "lwf-own 47." in front
    assert "finetune 148.4 ± 0.0 (old)" in front


def test_pairs_are_compared_at_equal_loss(experiment: experiments.Experiment, tmp_path: Path) -> None:
    text = page.render(tmp_path)[f"results/{NAME}.md"]
    assert "lwf-own is better than ewc-own (-0.555 ± 0.064 nats a word of the new text at equal loss of the old" in text
