"""What a run notices about its own method: a penalty that does nothing, or nothing but hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from holdfast import registry
from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.records.record import Record
from holdfast.bench.training import runner
from holdfast.registry import Range
from tests import newcomer

OPTIONS = {"limit_per_class": 12, "test_limit_per_class": 6}


def learned(
    method: str,
    strength: str,
    scenario: Any = "domain",
    coupling: str | None = None,
    settings: Mapping[str, str] | None = None,
    **changes: Any,
) -> Record:
    stream = streams.build("split-digits", seed=0, scenario=scenario, **OPTIONS)
    protocol = {"model": "mlp-16", "epochs": 2, "batch_size": 4, **changes}  # 6 steps per epoch
    fields = {"stream_options": OPTIONS}
    dial = registry.lookup(method).dial
    chosen = ({} if dial is None else {dial: strength}) | ({"coupling": coupling} if coupling else {})
    config = plan.plan(stream, method, settings={**chosen, **(settings or {})}, changes=protocol, **fields)
    return runner.run(config, stream=stream)


WEAK = [  # those that do nothing where their dial is next to 0
    entry
    for entry in registry.entries()
    if isinstance(where := entry.search.get(entry.dial or ""), Range) and where.log
    if entry.kind == "method" and "exact-weights" not in entry.promises and not entry.needs_adapters
]


@pytest.mark.parametrize("entry", WEAK, ids=lambda entry: entry.name)
def test_a_method_that_does_nothing_is_named_even_where_tasks_are_short(entry: registry.Entry) -> None:
    weights = {key: "1e-9" for key, where in entry.search.items() if isinstance(where, Range) and where.log}
    (warning,) = learned(entry.name, "1e-9", settings=weights).warnings
    what = "penalty" if entry.dial == "strength" else "protection"
    assert warning.startswith(f"{entry.name}: the {what} was never more than 0.00% of the training signal")
    assert warning.endswith(f"so it does almost nothing; raise the {entry.dial}")


@pytest.mark.parametrize(
    ("rate", "sentence"),
    [
        ("1e-9", r"back: the protection was never more than 0\.00% .* so it does almost nothing; raise the rate"),
        ("1.0", r"back: the protection was never less than 100\.00% .* so it learns nothing new; lower the rate"),
    ],
)
def test_a_method_that_nobody_foresaw_is_diagnosed_by_its_line(
    monkeypatch: pytest.MonkeyPatch, rate: str, sentence: str
) -> None:
    monkeypatch.setattr(registry, "_BY_NAME", {**registry._BY_NAME, "back": newcomer.ENTRY})
    (warning,) = learned("back", rate).warnings
    assert re.fullmatch(sentence, warning)


def test_a_penalty_that_does_nothing_but_hold_is_named() -> None:
    (warning,) = learned("l2sp", "1e7").warnings
    assert warning.startswith("l2sp: the penalty was never less than 99.")
    assert "lower the strength" in warning


def test_weights_that_are_pulled_onto_their_anchors_are_held_and_not_neglected() -> None:
    """Their penalty's gradient is 0, to the last bit."""
    (warning,) = learned("l2sp", "1e30", coupling="proximal").warnings
    assert "of the training signal, so it learns nothing new; lower the strength" in warning
    assert learned("ewc", "1e30", coupling="proximal").warnings == []  # it holds what counts, and the rest is free


def test_a_weak_pull_is_named_as_one() -> None:
    (warning,) = learned("ewc", "1e-9", coupling="proximal").warnings
    assert "it does almost nothing; raise the strength" in warning


def test_the_first_step_of_a_task_counts_for_nothing() -> None:
    """Every penalty is 0 there, and a measurement every 50 steps would always fall on it in tasks of 50."""
    record = learned("l2sp", "1e7", epochs=10, batch_size=5, optimizer_between_tasks="fresh")
    assert record.costs.steps == 250
    assert any("never less than" in warning for warning in record.warnings)


def test_a_penalty_of_the_right_size_is_no_cause_for_a_warning() -> None:
    assert learned("l2sp", "1").warnings == []


@pytest.mark.parametrize(("method", "strength"), [("l2sp", "1"), ("anpyc-prune", "1e4")])
def test_a_weight_penalty_among_competing_classes_is_a_cause(method: str, strength: str) -> None:
    (warning,) = learned(method, strength, "class").warnings
    assert "seldom solves class-incremental learning; compare with finetune and joint" in warning


def test_the_steps_that_an_automatic_strength_takes_without_the_penalty_count_for_nothing() -> None:
    record = learned("ewc", "auto", epochs=4)  # 24 steps a task, of which the first ten are unprotected
    assert record.warnings == []
    shares = [share for share in record.curves.penalty_share if share is not None]
    assert shares and min(shares) > 0.001


def test_tasks_that_end_before_their_strength_is_found_are_said_in_the_record() -> None:
    record = learned("ewc", "auto", epochs=1, batch_size=1000)  # one step a task
    assert record.status == "finished" and "strength" not in record.diagnostics
    said = [warning for warning in record.warnings if "learned unprotected" in warning]
    assert len(said) == len(record.task_names) - 1 and all(sentence.startswith("ewc: ") for sentence in said)
    assert not any("unprotected" in warning for warning in learned("ewc", "auto", epochs=2).warnings)


@pytest.mark.parametrize("method", ["gpm", "sgp", "adam-nscl"])
def test_how_full_each_layer_is_stands_in_the_record_and_a_full_network_is_named(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = learned(method, "0.9")
    full = record.diagnostics["fullness"]
    assert list(full) == ["0", "1", "2", "3", "4"] and record.warnings == []
    shares = [full[task]["trunk.1.weight"] for task in full]
    assert 0 < shares[0] < shares[-1] < 1 and shares == sorted(shares) and full["0"]["heads.0.bias"] == 1.0
    built = registry.lookup(method).build
    monkeypatch.setattr(built, "fullness", property(lambda self: dict.fromkeys(self.state, 1.0)))
    (warning,) = learned(method, "0.9").warnings
    assert (
        warning == f"{method}: every layer that has room is full by now, so it learns nothing more; lower the threshold"
    )


def test_packnet_says_how_full_it_is_and_a_penalty_has_no_such_figure() -> None:
    full = learned("packnet", "0.5", "task", settings={"prune": "0.5"}).diagnostics["fullness"]
    assert 0.4 < full["0"]["trunk.1.weight"] < full["4"]["trunk.1.weight"] <= 1
    assert "fullness" not in learned("l2sp", "1").diagnostics
