"""Long tails, few shots and their loss: the counts that a name and an option say, and nothing seen too early."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from holdfast.bench.data import asked, named, scarce, streams
from holdfast.bench.data.tasks import Split, Stream
from holdfast.errors import ConfigurationError
from holdfast.objectives import ClassBalanced

pytest.importorskip("sklearn", reason="the bench's packages are not installed")


def build(name: str, **options: Any) -> Stream:
    return streams.build(name, **({"seed": 0} | options))


def counts(part: Split) -> list[int]:
    return [number for number in part.targets.bincount().tolist() if number]


def test_a_tail_falls_by_the_same_ratio_from_class_to_class() -> None:
    assert scarce.tail_counts(5000, 100.0, 10) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # CIFAR-10-LT
    assert scarce.tail_counts(500, 100.0, 100)[::33] == [500, 107, 23, 5]
    assert scarce.tail_counts(7, 1.0, 3) == [7, 7, 7] and scarce.tail_counts(7, 3.0, 1) == [7]


@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_a_long_tail_cuts_the_training_part_alone(fraction: float) -> None:
    (task,) = build("longtail-digits", imbalance=10, validation_fraction=fraction)
    whole = named.load("digits")
    remaining = [int((whole.train_y == label).sum()) - int((task.valid.targets == label).sum()) for label in range(10)]
    expected = [math.floor(round(min(remaining) * 10 ** (-k / 9), 9)) for k in range(10)]
    assert counts(task.train) == expected and expected[0] >= 10 * (expected[-1] - 1)
    assert len(set(counts(task.test))) == 1 and counts(task.test)[0] == int(whole.test_y.bincount().min())
    assert len(task.valid) == 0 or max(counts(task.valid)) - min(counts(task.valid)) <= 1
    assert not set(task.train.rows.tolist()) & set(task.valid.rows.tolist())
    for part, labels in ((task.train, whole.train_y), (task.valid, whole.train_y), (task.test, whole.test_y)):
        assert part.targets.tolist() == labels[part.rows].tolist()
        assert part.rows.tolist() == sorted(part.rows.tolist())


def test_tails_depend_on_the_seed_the_order_and_nothing_else() -> None:
    first, again, other = (build("longtail-digits", seed=seed).tasks[0].train.rows for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    (reversed_,) = build("longtail-digits", class_order=list(range(9, -1, -1)))
    assert counts(reversed_.train) == sorted(counts(reversed_.train), reverse=True)
    assert reversed_.answers[0] == "9"


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_a_tail_in_tasks_goes_on_from_task_to_task(scenario: str) -> None:
    stream = build("longtail-digits-5", scenario=scenario, imbalance=20, validation_fraction=0.0)
    least = int(named.load("digits").train_y.bincount().min())
    assert [n for task in stream for n in counts(task.train)] == scarce.tail_counts(least, 20, 10)
    assert len({n for task in stream for n in counts(task.test)}) == 1 and stream.by_class


def test_few_shots_are_few_and_what_is_left_is_unlabelled() -> None:
    stream = build("fewshot-digits-4-3x5", scenario="class")
    whole = named.load("digits")
    assert [task.classes for task in stream] == [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]
    assert [counts(task.train) for task in stream.tasks[1:]] == [[5, 5, 5]] * 2
    assert min(counts(stream.tasks[0].train)) > 100
    assert len({n for task in stream for n in counts(task.test)}) == 1
    bare = stream.unlabelled
    assert bare is not None and set(bare.targets.tolist()) == {-100} and stream.shots == 5 and stream.few_shot
    parts = [bare, *(part for task in stream for part in (task.train, task.valid))]
    rows = torch.cat([part.rows for part in parts]).tolist()
    assert sorted(rows) == list(range(len(whole.train_y)))  # each sample is in one part, and in one alone
    assert set(whole.train_y[bare.rows].tolist()) == set(range(4, 10))
    moved = stream.to("meta").unlabelled
    assert moved is not None and moved.rows.is_meta


def test_few_shots_leave_the_choice_of_values_its_validation_part() -> None:
    stream = build("fewshot-digits-4-3x5", scenario="class", validation_fraction=0.1)
    assert all(min(counts(task.valid)) >= 14 for task in stream)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("longtail-digits", {"imbalance": 0.5}, "imbalance is 0.5; expected a number of at least 1"),
        ("longtail-digits", {"imbalance": True}, "imbalance is True"),
        ("longtail-digits", {"imbalance": 1e4}, "without a sample of 125; expected at most 125"),
        ("split-digits", {"imbalance": 10}, "imbalance does not apply to the stream 'split-digits', which is split"),
        ("longtail-digits", {"permutation": "anpyc"}, "permutation does not apply"),
        ("longtail-digits-3", {}, "10 classes do not divide into tasks of 3; expected 1 or 2 or 5"),
        ("longtail-digitz", {}, "there is no stream 'longtail-digitz'"),
        ("fewshot-digits-4-2x5", {}, "all classes so far compete: it needs scenario='class', got 'task'"),
        ("fewshot-digits-4-2", {}, "must read fewshot-DATA-BASE-WAYxSHOT"),
        ("fewshot-digits-0-2x5", {}, "must read fewshot-DATA-BASE-WAYxSHOT"),
        ("fewshot-digitz-4-2x5", {}, "there is no data set 'digitz'; the nearest"),
        ("fewshot-digits-4-4x5", {"scenario": "class"}, "a task of 4 and at least one of 4; 2 would be left over"),
        ("fewshot-digits-9-2x5", {"scenario": "class"}, "a task of 9 and at least one of 2"),
        ("fewshot-digits-4-2x5", {"scenario": "class", "tasks": 5}, "enough for 4, the first of 4"),
        ("fewshot-digits-4-2x500", {"scenario": "class"}, "says 500 shots, but a class of its task '4/5' has 131"),
        ("split-digits", {"scenario": "class", "class_balance": 0.9}, "expected training_outputs='seen' or 'current'"),
        ("longtail-digits", {"class_balance": 2.0}, "beta is 2.0; expected a number from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        build(name, **options)
    assert said in str(error.value)


def test_fewer_tasks_of_few_shots() -> None:
    stream = build("fewshot-digits-4-2x5", scenario="class", tasks=3)
    assert [task.classes for task in stream] == [(0, 1, 2, 3), (4, 5), (6, 7)]


def test_the_scenario_where_nobody_says() -> None:
    assert asked.usual_scenario("fewshot-mnist-4-2x5") == "class" and asked.usual_scenario("longtail-digits") == "task"


def test_the_loss_weighs_classes_by_the_samples_so_far() -> None:
    (alone,) = build("longtail-digits", class_balance=0.99)
    objective = alone.training_objective
    assert isinstance(objective, ClassBalanced) and objective.head == 0
    assert list(objective.counts) == counts(alone.train) and objective.beta == 0.99
    assert not isinstance(alone.objective, ClassBalanced)  # at the test all count alike
    for outputs, first, last in (("seen", 0, 10), ("current", 5, 10)):
        stream = build("longtail-digits-5", scenario="class", training_outputs=outputs, class_balance=0.9)
        later = stream.tasks[1].training_objective
        assert isinstance(later, ClassBalanced) and later.classes == tuple(range(first, last))
        so_far = [n for task in stream for n in counts(task.train)]
        assert list(later.counts) == so_far[first:last]
