"""Test, then train in the bench: what is answered, that nothing else changes, and where it is refused."""

from __future__ import annotations

import pytest
import torch

from holdfast import ConfigurationError, prequential, registry
from holdfast.bench import report
from holdfast.bench.data.tasks import Task
from holdfast.bench.records.record import Record, without_times
from holdfast.bench.report.page import render
from holdfast.bench.training import runner
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.heads import SLDA
from tests.bench.training.test_runner import Double, Stop, small_config, small_stream

WINDOW = 20


def run(method: str, scenario: str = "class", **changes) -> Record:
    stream = small_stream(scenario)
    return runner.run(small_config(stream, method, prequential=WINDOW, **changes), stream=stream)


def without_answers(record: Record) -> dict[str, object]:
    fields = without_times(record)
    fields["config"].pop("prequential")
    return {key: value for key, value in fields.items() if key not in ("first_answers", "command")}


def batches(task: Task, config) -> list[tuple[torch.Tensor, torch.Tensor]]:
    order = Session(task.index, (task,)).order(config, 0, 0)
    return [task.batch(task.train, index) for index in order.split(config.batch_size)]


def test_a_head_answers_as_one_that_met_the_earlier_tasks_and_then_batch_after_batch():
    stream = small_stream("class")
    config = small_config(stream, "slda", backbone="pixels", prequential=WINDOW)
    hits, labels = [], []
    for number, task in enumerate(stream.tasks):
        head = SLDA(**registry.lookup("slda").defaults)
        for earlier in stream.tasks[:number]:
            head.consolidate(earlier.batches(earlier.train, 256))
        found = prequential.evaluate(head, batches(task, config), window=WINDOW)
        hits, labels = hits + found.hits.tolist(), labels + found.labels.tolist()
    whole = prequential.Prequential(torch.tensor(hits), torch.tensor(labels), WINDOW)
    answers = runner.run(config, stream=stream).first_answers
    assert (answers.samples, answers.accuracy, answers.baseline) == (len(hits), whole.accuracy, whole.baseline)
    assert (answers.worst, answers.kappa) == (whole.worst, whole.kappa)
    assert answers.sliding == [whole.sliding[place - 1] for place in answers.at] and answers.at[-1] == len(hits)
    assert answers.sliding_baseline == [whole.sliding_baseline[place - 1] for place in answers.at]
    assert 0.4 < answers.accuracy < 1


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_a_model_answers_each_sample_once_before_the_step_that_learns_it(scenario, monkeypatch):
    hits, step = [], Learner.step

    def watched(self, parts):
        (part,) = parts
        with torch.no_grad():
            hits.append((self.model.eval()(part.inputs).argmax(1) == part.targets).tolist())
        self.model.train()
        return step(self, parts)

    monkeypatch.setattr(Learner, "step", watched)
    answers = run("finetune", scenario, epochs=2).first_answers
    per_task = len(hits) // 5
    first = [hit for number, found in enumerate(hits) if number % per_task < per_task // 2 for hit in found]
    assert answers.samples == len(first) and answers.accuracy == sum(first) / len(first)


@pytest.mark.parametrize(("method", "backbone"), [("ewc", None), ("lwf", None), ("ridge", "random-patches")])
def test_it_changes_nothing_about_the_run(method, backbone):
    stream = small_stream("class")
    changes = {} if backbone is None else {"backbone": backbone}
    plain = runner.run(small_config(stream, method, **changes), stream=stream)
    watched = run(method, **changes)
    assert plain.first_answers is None and watched.first_answers.samples == sum(len(t.train) for t in stream.tasks)
    assert without_answers(plain) == without_answers(watched)


@pytest.mark.parametrize("method", ["finetune", "slda"])
def test_a_run_that_is_stopped_goes_on_with_what_it_had_answered(method):
    stream = small_stream("class")
    config = small_config(stream, method, prequential=WINDOW)
    keeper = Double(4 if method == "finetune" else 0)
    with pytest.raises(Stop):
        runner.run(config, stream=stream, keeper=keeper)
    again = runner.run(config, stream=stream, keeper=Double(None, keeper.snapshot))
    assert without_times(again) == without_times(run(method))


def test_all_tasks_at_once_are_no_stream_and_a_choice_needs_none():
    assert run("joint").first_answers is None
    stream = small_stream("class")
    config = small_config(stream, "finetune", prequential=WINDOW)
    assert runner.run(config, stream=stream, read_test=False).first_answers is None


def test_it_is_refused_where_it_would_mislead():
    for method, scenario, changes, text in (
        ("ewc", "task", {}, "prequential=20 is for streams without boundaries"),
        ("slda", "class", {"backbone": "first-task+relu-40"}, "expected another backbone than first-task"),
        ("ewc", "class", {"prequential": 0}, "prequential is 0"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            small_config(small_stream(scenario), method, **{"prequential": WINDOW, **changes})
    assert small_config(small_stream("class"), "ewc", backbone="first-task", prequential=WINDOW).backbone is None


def test_tables_and_page_show_it_beside_the_last_label():
    records = [run("finetune"), run("slda", backbone="pixels"), run("joint")]
    plain, streamed = report.text_table(records)
    assert streamed.headers == ("Method", "Prequential (%)", "Last label (%)", "Kappa (%)", "Worst window (%)")
    assert not set(streamed.headers) & set(plain.headers[1:])
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in streamed.rows}
    answers = records[1].first_answers
    assert shown["slda"][:2] == [f"{100 * answers.accuracy:.2f}", f"{100 * answers.baseline:.2f}"]
    assert shown["joint [control]"] == ["–"] * 4 and "Windows of 20 samples" in streamed.notes[0]
    assert "No better than repeating the last label: finetune." in streamed.notes
    page = render(records)
    assert "Answered before it was learned" in page and "repeating the last label" in page
    assert 'data-metric="prequential_accuracy"' in page and "prequential_accuracy" in report.to_csv(records)
    assert len(report.text_table([r.model_copy(update={"first_answers": None}) for r in records])) == 1
