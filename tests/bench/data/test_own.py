"""Streams of one's own tensors: labels become outputs as the scenario says, and what is wrong is said task by task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.bench.data import saved
from holdfast.bench.data.tasks import Stream
from holdfast.errors import ConfigurationError, DataError, StateError

X = torch.arange(24, dtype=torch.float32).view(12, 2)


def part(labels: list[int]) -> Any:
    y = torch.tensor(labels).repeat(12 // len(labels))
    return (X, y), (X[: len(labels)], torch.tensor(labels))


TASKS = [part([7, 3]), part([9, 3])]  # the label 3 comes again


@pytest.mark.parametrize(
    ("scenario", "outputs", "heads", "classes", "targets"),
    [
        ("task", 4, (2, 2), [(0, 1), (0, 1)], [[1, 0], [1, 0]]),
        ("domain", 3, None, [(0, 1, 2), (0, 1, 2)], [[1, 0], [2, 0]]),
        ("class", 3, None, [(0, 1), (0, 2)], [[1, 0], [2, 0]]),
    ],
)
def test_labels_become_outputs(scenario: Any, outputs: int, heads: Any, classes: Any, targets: Any) -> None:
    stream = Stream.from_tensors(TASKS, scenario=scenario)
    assert (stream.num_outputs, stream.heads, stream.input_shape) == (outputs, heads, (2,))
    assert [task.classes for task in stream] == classes
    assert [task.test.targets.tolist() for task in stream] == targets
    inputs, _ = stream.tasks[0].batch(stream.tasks[0].train, torch.arange(12))
    assert torch.equal(inputs, X)  # as they were given
    assert [task.name for task in stream] == ["task 1", "task 2"]
    assert stream.tasks[0].answers[:2] == ("3", "7")


def test_what_the_training_loss_sees_is_said() -> None:
    stream = Stream.from_tensors(TASKS, scenario="class", training_outputs="current")
    objective: Any = stream.tasks[1].training_objective
    assert list(objective.classes) == [0, 2]


def test_validation_is_set_aside_by_seed_and_class() -> None:
    stream = Stream.from_tensors(TASKS, scenario="class")
    first, again, other = (stream.with_validation(0.34, seed) for seed in (0, 0, 1))
    for task in first:
        assert len(task.valid) == 4 and len(task.train) == 8
        assert sorted(task.valid.targets.tolist()) == sorted(list(task.classes) * 2)
        assert not set(task.valid.rows.tolist()) & set(task.train.rows.tolist())
    assert torch.equal(first.tasks[0].valid.rows, again.tasks[0].valid.rows)
    assert any(not torch.equal(a.valid.rows, b.valid.rows) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_a_stream_is_the_same_after_it_was_written(tmp_path: Path, scenario: Any) -> None:
    stream = Stream.from_tensors(TASKS, scenario=scenario, class_names={7: "seven"}, task_names=["a", "b"])
    back = saved.read(saved.write(stream, tmp_path / "stream.safetensors"))
    assert (back.own, back.outputs, back.name) == (stream.own, stream.outputs, "own")
    for one, other in zip(stream, back, strict=True):
        assert (one.name, one.classes, one.seen, one.answers) == (other.name, other.classes, other.seen, other.answers)
        for mine, theirs in ((one.train, other.train), (one.test, other.test)):
            assert torch.equal(mine.samples, theirs.samples) and torch.equal(mine.targets, theirs.targets)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stream.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(StateError, match=r"stream\.safetensors is not a stream of holdfast"):
        saved.read(path)


def test_other_samples_or_labels_have_another_digest() -> None:
    owns = {Stream.from_tensors(tasks).own for tasks in (TASKS, TASKS[::-1], [part([7, 3]), part([8, 3])])}
    owns.add(Stream.from_tensors(TASKS, scenario="domain").own)
    assert len(owns) == 4 and "" not in owns


Y = torch.tensor([0, 1] * 6)
GOOD = (X, Y)


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ([], "from_tensors got no task"),
        (None, "from_tensors got NoneType for tasks; expected a list"),
        (X, "from_tensors got Tensor for tasks; expected a list"),
        ("tasks", "from_tensors got str for tasks; expected a list"),
        ([X], r"task 1 is Tensor; expected \(\(train_x, train_y\), \(test_x, test_y\)\)"),
        ([(GOOD, (X, [0]))], "task 1, test: samples and labels are Tensor and list; expected two tensors"),
        ([(GOOD, GOOD), ((X[:3], Y), GOOD)], "task 2, train: 3 samples have 12 labels"),
        ([((X[0], Y), GOOD)], r"task 1, train: samples have shape \(2,\); expected \[n, ...\]"),
        ([((X, Y.float()), GOOD)], r"task 1, train: labels are torch.float32 \(12,\); expected integers \[12\]"),
        ([((X[:0], Y[:0]), GOOD)], "task 1, train: there is no sample"),
        ([((X.to(torch.uint8), Y), GOOD)], r"task 1, train: samples are torch.uint8; .*x.float\(\) / 255"),
        ([((X / 0, Y), GOOD)], "task 1, train: a sample is not finite"),
        ([(GOOD, (X[:, :1], Y))], r"task 1 trains on samples \(2,\) .* tested on \(1,\)"),
        ([(GOOD, GOOD), ((X[:, :1], Y), (X[:, :1], Y))], r"task 2 has samples \(1,\) .* task 1 has \(2,\)"),
        ([(GOOD, (X, Y + 1))], "task 1 is tested on the label 2, which it does not train on"),
    ],
)
def test_wrong_tensors_are_named(tasks: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Stream.from_tensors(tasks)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "split-mnist"}, "name is 'split-mnist'; expected one that no named stream has"),
        ({"name": " "}, "name is ' '"),
        ({"name": None}, "name is None; expected one that no named stream has"),
        ({"task_names": "ab"}, "task_names is 'ab'; expected a list of names"),
        ({"class_names": ["a"]}, r"class_names is \['a'\]; expected label -> name"),
        ({"scenario": "tasks"}, "scenario is 'tasks'"),
        ({"training_outputs": "seen"}, "needs scenario='class'"),
        ({"task_names": ["a"]}, "task_names has 1 names for 2 tasks"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Stream.from_tensors(TASKS, **options)
