"""Closed-form heads in the bench: what they stand on, what they answer, and that a stopped run goes on."""

from __future__ import annotations

import pytest
import torch

from holdfast import ConfigurationError, registry
from holdfast.bench import compare, report
from holdfast.bench.comparing import plan, rehearsal
from holdfast.bench.data import streams
from holdfast.bench.models import representation
from holdfast.bench.records.record import without_times
from holdfast.bench.report.page import render
from holdfast.bench.training import runner
from holdfast.bench.training.learner import Learner
from tests.bench.training.test_runner import Counting, Double, Stop, small_config, small_stream

HEADS = [entry.name for entry in registry.entries() if entry.kind == "head" and not entry.needs_few_shot]
FEW_SHOT = [entry.name for entry in registry.entries() if entry.kind == "head" and entry.needs_few_shot]
BACKBONES = [
    ("random-patches", "class"),
    ("first-task", "task"),
    ("first-task+relu-40", "class"),
    ("random", "domain"),
    ("pixels", "task"),
    ("pixels+fourier-40", "domain"),
]


@pytest.mark.parametrize("name", HEADS)
def test_class_incremental_digits_are_told_apart(name):
    stream = small_stream("class")
    watcher = Counting()
    settings = {"tukey": "1"} if name == "fecam" else {}  # pixels are negative once they are normalised
    config = small_config(stream, name, backbone="pixels", settings=settings)
    record = runner.run(config, stream=stream, observer=watcher)
    assert record.status == "finished" and small_config(stream, name).backbone == "random-patches"
    assert record.costs.steps == watcher.done == watcher.planned == 0
    assert sum(record.matrix[-1]) / 5 > 0.6
    assert record.matrix[0][0] > 0.8 and record.matrix[0][4] == 0.0  # classes that were not met are not guessed
    assert record.costs.state_bytes > 0


@pytest.mark.parametrize("name", FEW_SHOT)
def test_few_shots_are_told_apart_over_a_network_that_learned_the_base_classes(name):
    stream = streams.build("fewshot-digits-6-2x5", seed=0, scenario="class")
    config = small_config(stream, name, backbone="first-task", epochs=4, lr=0.01)
    record = runner.run(config, stream=stream)
    assert record.status == "finished", record.failure
    assert record.matrix[0][0] > 0.8 and min(record.matrix[-1]) > 0.3


@pytest.mark.parametrize(("backbone", "scenario"), BACKBONES)
def test_every_backbone(backbone, scenario):
    stream = small_stream(scenario)
    record = runner.run(small_config(stream, "slda", backbone=backbone), stream=stream)
    assert record.status == "finished" and record.config.backbone == backbone
    assert record.costs.steps == (3 if backbone.startswith("first-task") else 0)  # 22 samples of one task, by 8
    assert sum(record.matrix[-1]) / 5 > {"task": 0.7, "domain": 0.5, "class": 0.3}[scenario]


def test_the_order_of_tasks_does_not_matter():
    stream = small_stream("class")
    config = small_config(stream, "ridge", backbone="pixels")
    found = []
    for order in ((0, 1, 2, 3, 4), (3, 1, 4, 0, 2)):
        learner = Learner(config, stream)
        for number in order:
            learner.closed.consolidate(stream.tasks[number])
        ((scores, _),) = learner.closed.answered(stream.tasks[0], stream.tasks[0].test, 1000)
        found.append(scores)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backbone", ["pixels+fourier-40", "first-task"])
def test_a_run_that_is_stopped_between_tasks_goes_on_as_if_it_was_not(backbone):
    stream = small_stream("class")
    config = small_config(stream, "slda", backbone=backbone)
    whole = runner.run(config, stream=stream)
    for stop in (2, 3) if backbone == "first-task" else (0,):
        keeper = Double(stop)
        with pytest.raises(Stop):
            runner.run(config, stream=stream, keeper=keeper)
        again = runner.run(config, stream=stream, keeper=Double(None, keeper.snapshot))
        assert without_times(again) == without_times(whole)


def test_a_preparation_that_is_stopped_goes_on_as_if_it_was_not_and_says_what_it_needs():
    stream = streams.build("fewshot-digits-6-2x5", seed=0, scenario="class", limit_per_class=30)
    config = small_config(stream, "lwpk", backbone="first-task", settings={"cluster_epochs": "2", "omega": "0.5"})
    seen = Counting()
    whole = runner.run(config, stream=stream, observer=seen)
    assert stream.unlabelled is not None and whole.status == "finished"
    assert whole.costs.steps == seen.planned == -(-(len(stream.tasks[0].train) + len(stream.unlabelled)) // 8)
    keeper = Double(3)
    with pytest.raises(Stop):
        runner.run(config, stream=stream, keeper=keeper)
    again = runner.run(config, stream=stream, keeper=Double(None, keeper.snapshot))
    assert without_times(again) == without_times(whole)
    with pytest.raises(ConfigurationError, match="trains no network, and this method prepares one"):
        rehearsal.check(small_config(stream, "lwpk", backbone="pixels"), stream)


def test_test_samples_are_represented_once_as_far_as_there_is_room(monkeypatch):
    stream = small_stream("class")
    config = small_config(stream, "slda", backbone="random+relu-40")
    rows, calls = {}, {}
    for room in (0, 4000, 1 << 30):
        monkeypatch.setattr("holdfast.bench.training.closed._KEPT_BYTES", room)
        learner, seen = Learner(config, stream), []
        head = learner.closed.head
        before = head.represent
        monkeypatch.setattr(
            head, "represent", lambda inputs, do=before, seen=seen: seen.append(len(inputs)) or do(inputs)
        )
        rows[room] = []
        for task in stream.tasks:
            learner.closed.consolidate(task)
            for other in stream.tasks:
                rows[room] += [scores for scores, _ in learner.closed.answered(other, other.test, 1000)]
        calls[room] = len(seen)
    assert calls == {0: 25, 4000: 5 + 4 * 3, 1 << 30: 5}  # 12 samples of 40 numbers a task: two of five fit
    assert all(torch.equal(*pair) for room in (4000, 1 << 30) for pair in zip(rows[0], rows[room], strict=True))


def test_the_command_repeats_it_and_others_know_nothing_of_a_backbone():
    stream = small_stream("class")
    assert "--backbone" not in plan.command(small_config(stream, "slda"))
    assert "--backbone first-task" in plan.command(small_config(stream, "slda", backbone="first-task"))
    assert small_config(stream, "ewc", backbone="first-task").backbone is None
    assert "--backbone" not in plan.command(small_config(stream, "ewc", backbone="first-task"))
    config = small_config(stream, "ridge", settings={"strength": "3"})
    assert config.hyperparameters["strength"].value == 3.0
    assert small_config(stream, "ridge").hyperparameters["strength"].value == "auto"


def test_what_does_not_fit_is_refused_before_anything_runs():
    stream = small_stream("class")
    for backbone, text in (
        ("resnet", "resnet"),
        ("pixels+relu", "must read"),
        ("random-patches+relu-40", "feature map over one"),
        ("given", "a model of your own"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            rehearsal.check(small_config(stream, "slda", backbone=backbone), stream)
    with pytest.raises(ConfigurationError, match="images of 8 pixels"):
        representation.parse("random-patches").build(torch.nn.Linear(1, 1), "transformer", (12,), 0)
    with pytest.raises(ConfigurationError, match="strength is 'most'"):
        small_config(stream, "ridge", settings={"strength": "most"})
    with pytest.raises(ConfigurationError, match="ewc, joint is none"):
        compare("split-digits", ["ewc", "joint"], scenario="class", seeds=1, controls=False, backbone="random")


def test_the_report_says_why_it_is_solved():
    stream = small_stream("class")
    names = ("finetune", "slda", "ncm", "joint")
    records = [runner.run(small_config(stream, name, backbone="pixels"), stream=stream) for name in names]
    text = " ".join(render(records).split())
    assert "computed, not trained" in text and "(pixels)" in text
    assert "nothing is forgotten" in text
    rows = {row.method: row for row in report.rows(records)}
    assert rows["slda"].estimates["step_time"] is None and rows["slda"].settings["backbone"] == "pixels"
    assert "backbone" not in rows["finetune"].settings and not rows["slda"].untuned
    assert rows["slda"].hyperparameters[0] == ("shrinkage", "auto (default)")
