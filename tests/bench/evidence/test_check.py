"""Records that are no evidence are refused: changed, misplaced, of another recipe, or not chosen as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.bench.evidence import experiments as results
from holdfast.bench.records import record as records
from holdfast.bench.records.record import Hyperparameter
from holdfast.errors import StateError
from tests.bench.evidence.make import HSU, NAME, SIX, changed, fill, make, read, tried

STRENGTH = Hyperparameter(value=1e5, source="given")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"recipe": "unheard-of"}, "no recipe"),
        ({"label": "gone"}, "no longer has"),
        ({"quick": True}, "no evidence"),
        ({"variant": "released"}, "more than one"),
    ],
)
def test_records_that_are_no_evidence_are_refused(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    good, made = make("l2sp", 0, [0.6, 0.8]), make("l2sp", 1, [0.6, 0.8])
    bad = changed(made, extra={**made.config.extra, **extra})
    found = [bad] if "recipe" in extra else [good, bad]
    with pytest.raises(StateError, match=message):
        read(fill(tmp_path, found))


def test_what_a_grid_chose_must_be_what_lies_beside_the_records(tmp_path: Path) -> None:
    good = [make("ewc", seed, [0.9, 0.9], name=HSU, scores=SIX) for seed in range(3)]
    results.collect(fill(tmp_path / "good", good, HSU))

    other = [*good[:2], make("ewc", 2, [0.9, 0.9], name=HSU, scores={**SIX, 10.0: 0.9720})]
    with pytest.raises(StateError, match=r"seed2\.json has another strength, or another choice of it, than s"):
        results.collect(fill(tmp_path / "mixed", other, HSU))

    (missing, *_) = (fill(tmp_path / "missing", good, HSU) / HSU / "choices").glob("*.json")
    missing.unlink()
    with pytest.raises(StateError, match=r"was chosen among other candidates than .*: run its row again"):
        results.collect(tmp_path / "missing")

    more = fill(tmp_path / "more", [make("ewc", 0, [0.9, 0.9], name=HSU, scores=SIX)], HSU)
    unsaid = make("ewc", 0, [0.9, 0.9], name=HSU, scores={**SIX, 1e7: 0.01})
    records.save(tried(unsaid)[-1], more / HSU / "choices" / "more.json")
    with pytest.raises(StateError, match=r"holds strength=10000000\.0 of the row of .*, or delete what its grid"):
        results.collect(more)

    worse = {**SIX, 10.0: 0.9990}
    with pytest.raises(StateError, match=r"has strength=100000\.0, not the best that its grid tried"):
        results.collect(fill(tmp_path / "worse", [make("ewc", 0, [0.9, 0.9], name=HSU, scores=worse)], HSU))

    fewer = {value: score for value, score in SIX.items() if score is not None}
    with pytest.raises(StateError, match=r"other candidates than .* \(strength=1000000.0\)"):
        results.collect(fill(tmp_path / "fewer", [make("ewc", 0, [0.9, 0.9], name=HSU, scores=fewer)], HSU))

    further = {**SIX, 1e7: 0.01}
    results.collect(fill(tmp_path / "further", [make("ewc", 0, [0.9, 0.9], name=HSU, scores=further)], HSU))
    typed = changed(good[0], hyperparameters={**good[0].config.hyperparameters, "strength": STRENGTH})
    with pytest.raises(StateError, match="another strength than"):
        results.collect(fill(tmp_path / "typed", [typed], HSU))


def test_a_file_is_named_after_its_row_and_seed(tmp_path: Path) -> None:
    folder = fill(tmp_path, [make("l2sp", seed, [0.7, 0.8]) for seed in (0, 1)]) / NAME / "records"
    (folder / "l2sp-seed0.json").rename(folder / "l2sp-seed2.json")
    with pytest.raises(StateError, match=r"holds l2sp-seed0\.json, l2sp-seed2\.json under another name"):
        results.collect(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("lr", 0.1, "another lr"),
        ("epochs", 1, "another epochs"),
        ("stream_options", {"mean": 0.1}, "another stream options"),
        ("hyperparameters", {"strength": Hyperparameter(value=5.0, source="recipe")}, "another strength"),
        ("training_outputs", "seen", "another training outputs"),
        ("shuffle", False, "another shuffle"),
        ("model_options", {"width": 3}, "another model options"),
        ("extra", {"recipe": NAME, "label": "l2sp", "tested on": "validation data"}, "another extra"),
        ("precision", "bfloat16", "another precision"),
    ],
)
def test_records_of_an_earlier_version_of_the_recipe_are_refused(
    tmp_path: Path, field: str, value: Any, said: str
) -> None:
    record = make("l2sp", 0, [0.7, 0.8])
    old = changed(record, **{field: value})
    with pytest.raises(StateError, match=f"l2sp-seed0.json has {said} than the recipe {NAME} now says"):
        results.collect(fill(tmp_path, [old]))
