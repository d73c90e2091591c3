"""What a run notices about its own method: a penalty that does nothing, or nothing but hold."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.bench.comparing import plan
from holdfast.bench.data import streams
from holdfast.bench.records.record import Record
from holdfast.bench.training import runner

OPTIONS = {"limit_per_class": 12, "test_limit_per_class": 6}


def learned(
    method: str, strength: str, scenario: Any = "domain", coupling: str | None = None, **changes: Any
) -> Record:
    stream = streams.build("split-digits", seed=0, scenario=scenario, **OPTIONS)
    protocol = {"model": "mlp-16", "epochs": 2, "batch_size": 4, **changes}  # 6 steps per epoch
    fields = {"stream_options": OPTIONS}
    settings = {"strength": strength} | ({"coupling": coupling} if coupling else {})
    config = plan.plan(stream, method, settings=settings, changes=protocol, **fields)
    return runner.run(config, stream=stream)


@pytest.mark.parametrize("method", ["l2sp", "ewc", "lwf"])
def test_a_penalty_that_does_nothing_is_named_even_where_tasks_are_short(method: str) -> None:
    (warning,) = learned(method, "1e-9").warnings
    assert warning.startswith(f"{method}: the penalty was never more than 0.00% of the training signal")
    assert "raise the strength" in warning


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
