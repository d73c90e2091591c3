"""Streams: the right samples, the right targets, the right outputs, and nothing of the test set before its time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from holdfast.bench.data import asked, streams
from holdfast.bench.data import named as data
from holdfast.bench.data.sets import ImageDataset
from holdfast.bench.data.tasks import Split, Stream, Task
from holdfast.errors import ConfigurationError
from holdfast.objectives import Classification

pytest.importorskip("sklearn", reason="the bench's packages are not installed")


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return data.load("digits")


def build(name: str = "split-digits", **options: Any) -> Stream:
    return streams.build(name, **({"seed": 0} | options))


def columns(objective: Any) -> tuple[int, ...] | None:
    assert isinstance(objective, Classification)
    return objective.classes


def original_labels(split: Split, labels: torch.Tensor) -> list[int]:
    return sorted(set(labels[split.rows].tolist()))


def test_a_split_partitions_the_training_data_and_leaves_the_test_part_alone(digits: ImageDataset) -> None:
    stream = build()
    assert len(stream) == 5 and [task.index for task in stream] == [0, 1, 2, 3, 4]
    assert [task.name for task in stream] == ["0/1", "2/3", "4/5", "6/7", "8/9"]
    learned = torch.cat([part.rows for task in stream for part in (task.train, task.valid)])
    assert learned.sort().values.tolist() == list(range(len(digits.train_y)))
    tested = torch.cat([task.test.rows for task in stream])
    assert tested.sort().values.tolist() == list(range(len(digits.test_y)))
    for task in stream:
        pair = [2 * task.index, 2 * task.index + 1]
        for part, images, labels in (
            (task.train, digits.train_x, digits.train_y),
            (task.valid, digits.train_x, digits.train_y),
            (task.test, digits.test_x, digits.test_y),
        ):
            assert original_labels(part, labels) == pair
            assert part.targets.tolist() == [label - pair[0] for label in labels[part.rows].tolist()]
            assert torch.equal(part.samples, images[part.rows])
            assert part.rows.tolist() == sorted(part.rows.tolist())
        assert 0.08 < len(task.valid) / (len(task.train) + len(task.valid)) < 0.12
        assert task.valid.targets.bincount().min() >= 14


def test_samples_are_shared_not_copied() -> None:
    stream = build()
    assert len({part.storage.data_ptr() for task in stream for part in (task.train, task.valid)}) == 1
    moved = stream.to("meta")
    assert len({id(part.storage) for task in moved for part in (task.train, task.valid)}) == 1
    assert len({id(task.test.storage) for task in moved}) == 1
    assert all(task.test.targets.is_meta and task.scale is not None and task.scale.is_meta for task in moved)
    assert not stream.tasks[0].train.storage.is_meta


def test_task_incremental_has_one_head_per_task() -> None:
    stream = build()
    assert stream.heads == (2, 2, 2, 2, 2) and stream.num_outputs == 10 and stream.outputs == (2, 2, 2, 2, 2)
    for task in stream:
        assert isinstance(task.objective, Classification) and task.objective.head == task.index
        assert task.training_objective is task.objective and columns(task.objective) is None
        assert task.classes == task.seen == (0, 1)
        heads = [torch.full((3, 2), float(head)) for head in range(5)]
        batch = task.batch(task.train, torch.arange(3))
        assert torch.equal(task.objective.outputs(lambda _, heads=heads: heads, batch), heads[task.index])


def test_domain_incremental_shares_the_outputs() -> None:
    stream = build(scenario="domain")
    assert stream.heads is None and stream.num_outputs == 2 and stream.outputs == 2
    for task in stream:
        assert set(task.test.targets.tolist()) == {0, 1}
        assert isinstance(task.objective, Classification)
        assert columns(task.objective) is None and task.objective.head is None
        assert task.classes == task.seen == (0, 1)


@pytest.mark.parametrize(
    ("training_outputs", "expected"),
    [
        ("all", [None] * 5),
        ("seen", [tuple(range(2 * t + 2)) for t in range(5)]),
        ("current", [(2 * t, 2 * t + 1) for t in range(5)]),
    ],
)
def test_class_incremental_says_which_outputs_training_sees(training_outputs: str, expected: list[Any]) -> None:
    stream = build(scenario="class", training_outputs=training_outputs)
    assert stream.outputs == 10 and stream.training_outputs == training_outputs
    assert [columns(task.training_objective) for task in stream] == expected
    for task in stream:
        assert columns(task.objective) is None  # at test all outputs compete
        assert set(task.train.targets.tolist()) == set(task.classes) == {2 * task.index, 2 * task.index + 1}
        assert task.seen == tuple(range(2 * task.index + 2))
        batch = task.batch(task.train, torch.arange(4))
        outputs = task.training_objective.outputs(lambda x: torch.zeros(len(x), 10), batch)
        assert outputs.shape == (4, len(expected[task.index] or range(10)))
        assert torch.allclose(
            task.training_objective.losses(outputs, batch), torch.tensor(float(outputs.shape[1])).log()
        )


def test_the_number_of_classes_comes_from_the_name_or_the_argument() -> None:
    for stream in (build("split-digits-5"), build(classes_per_task=5), build("split-digits-5", classes_per_task=5)):
        assert [task.name for task in stream] == ["0/1/2/3/4", "5/6/7/8/9"] and stream.heads == (5, 5)
    assert len(build("split-digits-3", tasks=3)) == 3
    shorter = build(tasks=3, scenario="class")
    assert shorter.num_outputs == 6 and [task.name for task in shorter] == ["0/1", "2/3", "4/5"]


def test_classes_arrive_in_the_order_asked_for(digits: ImageDataset) -> None:
    stream = build(scenario="class", class_order=[7, 1, 4, 0])
    assert [task.name for task in stream] == ["7/1", "4/0"] and stream.num_outputs == 4
    for position, label in enumerate((7, 1, 4, 0)):
        task = stream.tasks[position // 2]
        assert original_labels(task.test, digits.test_y) == sorted([(7, 1), (4, 0)][position // 2])
        chosen = digits.test_y[task.test.rows] == label
        assert set(task.test.targets[chosen].tolist()) == {position}
    drawn = [[task.name for task in build(class_order="seeded", seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted("/".join(drawn[0])) == sorted("0/1/2/3/4/5/6/7/8/9")


def test_a_seed_fixes_everything_and_changes_the_validation_part() -> None:
    first, again, other = build(), build(), build(seed=1)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.valid.rows, b.valid.rows) and not torch.equal(a.valid.rows, c.valid.rows)
        assert torch.equal(a.test.rows, c.test.rows)
    none = build(validation_fraction=0)
    assert all(len(task.valid) == 0 for task in none)
    assert sum(len(task.train) for task in none) == 1438


def test_a_quick_version_keeps_the_first_of_every_class(digits: ImageDataset) -> None:
    stream = build(limit_per_class=20, test_limit_per_class=5, scenario="class")
    for task in stream:
        kept = torch.cat([task.train.rows, task.valid.rows]).sort().values
        assert digits.train_y[kept].bincount(minlength=10)[list(task.classes)].tolist() == [20, 20]
        first = (digits.train_y == task.classes[0]).nonzero().flatten()[:20]
        assert set(first.tolist()) <= set(kept.tolist())
        assert len(task.valid) == 4 and len(task.test) == 10
        assert task.test.rows.tolist() == sorted(task.test.rows.tolist())


def by_hand(task: Task, image: torch.Tensor, mean: float, std: float) -> list[float]:
    pixels = image.flatten().tolist()
    order = range(64) if task.pixel_order is None else task.pixel_order.tolist()
    return [(pixels[source] / 255 - mean) / std for source in order]


@pytest.mark.parametrize("name", ["split-digits", "permuted-digits"])
def test_inputs_are_normalised_and_permuted_pixel_by_pixel(name: str, digits: ImageDataset) -> None:
    stream = build(name)
    assert stream.input_shape == (1, 8, 8)
    for task in stream:
        inputs, targets = task.batch(task.train, torch.tensor([3, 0]))
        assert inputs.shape == (2, 1, 8, 8) and inputs.dtype == torch.float32
        for row, position in enumerate((3, 0)):
            image = digits.train_x[task.train.rows[position]]
            expected = torch.tensor(by_hand(task, image, digits.mean[0], digits.std[0]))
            assert torch.allclose(inputs[row].flatten(), expected, atol=1e-6)
            assert targets[row] == task.train.targets[position]


def test_permuted_tasks_have_all_classes_and_an_order_each() -> None:
    stream = build("permuted-digits")
    assert len(stream) == 5 and stream.heads == (10,) * 5
    assert stream.tasks[0].pixel_order is None
    orders = [task.pixel_order for task in stream.tasks[1:]]
    assert all(sorted(order.tolist()) == list(range(64)) for order in orders if order is not None)
    assert len({tuple(order.tolist()) for order in orders if order is not None}) == 4
    other = build("permuted-digits", seed=1).tasks[1].pixel_order
    assert other is not None and orders[0] is not None and not torch.equal(other, orders[0])
    assert build("permuted-digits", scenario="domain").num_outputs == 10
    assert stream.tasks[1].valid.rows.tolist() != stream.tasks[2].valid.rows.tolist()


def test_permuted_class_incremental_brings_new_outputs_with_every_task() -> None:
    stream = build("permuted-digits", scenario="class", training_outputs="current", tasks=3)
    assert stream.num_outputs == 30
    for task in stream:
        assert task.classes == tuple(range(10 * task.index, 10 * task.index + 10))
        assert set(task.test.targets.tolist()) == set(task.classes)
        assert columns(task.training_objective) == task.classes


def test_the_published_permutations_are_reproduced() -> None:
    state = random.getstate()
    stream = build("permuted-digits", permutation="anpyc", tasks=3)
    assert random.getstate() == state
    for task in stream:
        expected = list(range(64))
        random.seed(task.index)
        random.shuffle(expected)
        assert task.pixel_order is not None and task.pixel_order.tolist() == expected
    random.setstate(state)


def test_a_sequence_has_one_task_per_data_set() -> None:
    domain = build("sequence-digits-digits", scenario="domain")
    assert len(domain) == 2 and domain.num_outputs == 10 and domain.heads is None
    assert domain.tasks[0].train.storage is domain.tasks[1].train.storage
    assert build("sequence-digits-digits").heads == (10, 10)
    assert build("sequence-digits-digits", scenario="class").num_outputs == 20


def test_a_data_set_that_comes_again_has_another_name_and_the_same_validation_part() -> None:
    stream = build("sequence-digits-digits-digits", scenario="domain")
    assert [task.name for task in stream] == ["digits", "digits 2", "digits 3"]
    first = stream.tasks[0]
    for task in stream.tasks[1:]:
        assert torch.equal(task.train.rows, first.train.rows) and torch.equal(task.valid.rows, first.valid.rows)
        assert torch.equal(task.train.targets, first.train.targets)


def test_normalisation_and_padding_can_be_set(digits: ImageDataset) -> None:
    stream = build(mean=0.5, std=[0.25], pad=2)
    assert stream.input_shape == (1, 12, 12) and stream.mean == (0.5,) and stream.std == (0.25,)
    task = stream.tasks[0]
    inputs, _ = task.batch(task.test, torch.tensor([0]))
    assert torch.allclose(inputs[0, 0, :2], torch.tensor(-2.0))
    expected = (digits.test_x[task.test.rows[0]].double() / 255 - 0.5) / 0.25
    assert torch.allclose(inputs[0, :, 2:-2, 2:-2].double(), expected, atol=1e-6)


def test_batches_cover_a_part_once() -> None:
    task = build().tasks[0]
    count = len(task.train)
    plain = list(task.batches(task.train, 64))
    assert torch.equal(torch.cat([targets for _, targets in plain]), task.train.targets)
    assert [len(targets) for _, targets in plain] == [64] * (count // 64) + [count % 64]
    assert len(list(task.batches(task.train, 64, drop_last=True))) == count // 64
    assert list(task.batches(task.train, count + 1, drop_last=True)) == []

    def shuffled() -> torch.Tensor:
        draw = torch.Generator().manual_seed(3)
        return torch.cat([inputs for inputs, _ in task.batches(task.train, 50, generator=draw)])

    inputs = shuffled()
    assert torch.equal(inputs, shuffled())
    everything = task.inputs(task.train.samples)
    assert not torch.equal(inputs, everything)
    assert sorted(map(tuple, inputs.flatten(1).tolist())) == sorted(map(tuple, everything.flatten(1).tolist()))


def test_samples_without_a_scale_go_to_the_model_as_they_are() -> None:
    tokens = torch.arange(12).view(4, 3)
    part = Split(tokens, torch.tensor([1, 3]), torch.tensor([0, 1]))
    plain = Classification()
    task = Task("text", 0, part, part, part, (0, 1), (0, 1), plain, plain)
    inputs, targets = task.batch(part, torch.tensor([1]))
    assert inputs.tolist() == [[9, 10, 11]] and inputs.dtype == torch.int64 and targets.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("split-digit", {}, r"there is no stream 'split-digit'; the nearest are split-digits"),
        ("spilt-digits", {}, r"there is no stream 'spilt-digits'; the nearest are split-digits"),
        ("split-imdb", {}, "there is no stream 'split-imdb'"),
        ("split", {}, "there is no stream 'split'"),
        ("sequence-mnist", {}, "there is no stream 'sequence-mnist'; the nearest are"),
        ("split-digits-0", {}, "0 classes per task"),
        ("split-digits", {"scenario": "tasks"}, "scenario is 'tasks'; expected one of task, domain, class"),
        ("split-digits", {"training_outputs": "seen"}, "training_outputs='seen' needs scenario='class', got 'task'"),
        ("split-digits", {"tasks": 0}, "tasks is 0; expected at least 1"),
        ("split-digits", {"tasks": 6}, "6 tasks of 2 classes need 12, there are 10"),
        ("split-digits", {"classes_per_task": 3}, "10 classes do not divide into tasks of 3; expected 1 or 2 or 5"),
        ("split-digits-5", {"classes_per_task": 2}, "classes_per_task is 2, but the stream 'split-digits-5' says 5"),
        ("split-digits", {"class_order": "random"}, "class_order is 'random'; expected 'seeded' or a list of labels"),
        ("split-digits", {"class_order": [1, 1]}, "expected different labels of 0 to 9"),
        ("split-digits", {"class_order": [9, 10]}, "expected different labels of 0 to 9"),
        ("split-digits", {"limit_per_class": 0}, "limit_per_class is 0"),
        ("split-digits", {"validation_fraction": 1.0}, "validation_fraction is 1.0; expected at least 0"),
        ("split-digits", {"std": 0.0}, "std is 0.0; expected a positive number"),
        ("split-digits", {"mean": [0.1, 0.2]}, "expected a number, or 1 of them"),
        ("split-digits", {"pad": -1}, "pad is -1"),
        ("split-digits", {"permutation": "anpyc"}, "permutation does not apply to the stream 'split-digits'"),
        ("permuted-digits", {"permutation": "random"}, "permutation is 'random'; expected one of seeded, anpyc"),
        ("permuted-digits", {"classes_per_task": 2}, "classes_per_task does not apply"),
        ("sequence-digits-digits", {"tasks": 2}, "tasks does not apply"),
        ("sequence-digits-digits", {"class_order": [1]}, "class_order does not apply"),
    ],
)
def test_bad_input_gets_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value)


def test_every_listed_stream_parses() -> None:
    for name, about in streams.names().items():
        read = asked.parse(name)
        kind, datasets = read.kind, list(read.datasets)
        assert kind in ("split", "permuted", "sequence", "language", "longtail", "fewshot") and datasets and about


@pytest.mark.usefixtures("holdfast_data")
def test_real_streams() -> None:
    split = build("split-mnist-5", scenario="class", mean=0.5, std=0.5)
    assert [len(task.train) + len(task.valid) for task in split] == [30_596, 29_404]
    assert [len(task.test) for task in split] == [5139, 4861]
    sequence = build("sequence-mnist-fashion_mnist", scenario="domain", validation_fraction=0)
    assert sequence.mean == (0.1307,) and [len(task.train) for task in sequence] == [60_000, 60_000]
    permuted = build("permuted-mnist", permutation="anpyc")
    first = permuted.tasks[0].pixel_order
    assert len(permuted) == 10 and first is not None and first.shape == (784,)
    assert len(build("split-cifar10")) == 5
    with pytest.raises(ConfigurationError, match="mnist has 1x28x28, cifar10 has 3x32x32"):
        build("sequence-mnist-cifar10")
