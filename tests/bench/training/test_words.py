"""Streams of texts to be continued, from their words to the record: against losses computed by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from holdfast.bench.comparing.calling import compare
from holdfast.bench.data import language, named, vocabulary
from holdfast.bench.models import named as models
from holdfast.bench.records import record as records
from holdfast.bench.records.likelihood import Likelihood, measures
from holdfast.bench.report.page import render
from holdfast.bench.training import runner
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.bench.training.words import Moved, marked
from holdfast.errors import ConfigurationError
from holdfast.objectives import CausalLM
from tests.bench.training.texts import NAME, OPTIONS, config, load, stream

pytest.importorskip("tokenizers", reason="the bench's packages are not installed")


@pytest.fixture(autouse=True)
def small_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "load_text", load)


def test_rows_are_the_texts_one_after_another() -> None:
    known = vocabulary.trained(["a b c", "b c"], 10)
    end = known.end
    rows = language.blocks(known, ["a b", "c b a", "b"], 3, 10)
    a, b, c = (number for (number,) in known.numbers("abc"))
    assert rows.words.tolist() == rows.labels.tolist() == [[a, b, end], [c, b, a], [end, b, end]]
    assert language.blocks(known, ["a b", "c b a", "b"], 3, 2).words.tolist() == rows.words[:2].tolist()


def test_a_stream_has_one_vocabulary_and_parts_that_share_no_row() -> None:
    found = stream()
    assert found.scenario == "domain" and found.holds == language.HOLDS and found.outputs == found.num_outputs == 25
    assert [task.name for task in found] == ["imdb", "financial_phrasebank"]
    for task in found:
        assert not set(task.train.rows.tolist()) & set(task.valid.rows.tolist())
        assert torch.equal(task.train.targets, task.train.samples.long())
        assert int(task.answers_in(task.train.targets[:3])) == 3 * 7
    assert torch.equal(found.tasks[0].test.samples, stream(seed=1).tasks[0].test.samples)
    assert not torch.equal(found.tasks[0].valid.rows, stream(seed=1).tasks[0].valid.rows)


@pytest.mark.parametrize("name", ["gpt-tiny", "gpt-small"])
def test_a_word_is_told_from_those_before_it_alone(name: str) -> None:
    model = models.build(name, (8,), 25, seed=0).eval()
    words = torch.randint(25, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = words.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 25
    before, after = model(words), model(changed)
    assert before.shape == (2, 8, 25)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amin(-1).gt(0).all()


def test_marks_are_those_of_the_words_that_are_asked_for() -> None:
    outputs = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[0, 1, 2, 3], [4, -100, 0, -100]])
    right, losses = marked(CausalLM(per="token"), outputs, targets)
    asked = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 1, 0)]  # row, place before, word
    expected = [-outputs[row, place].log_softmax(0)[word] for row, place, word in asked]
    torch.testing.assert_close(losses, torch.stack(expected))
    assert right.tolist() == [int(outputs[row, place].argmax()) == word for row, place, word in asked]


@pytest.mark.parametrize("joint", [False, True])
def test_a_step_takes_the_mean_over_words(joint: bool) -> None:
    found = stream()
    learner = Learner(config("joint" if joint else "finetune"), found)
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.1)
    before = copy.deepcopy(learner.model)
    session = Session(0, found.tasks if joint else found.tasks[:1])
    parts = session.parts(torch.arange(50, 60) if joint else torch.arange(6))
    words = torch.cat([part.targets for part in parts])
    outputs = before(words)
    expected = functional.cross_entropy(outputs[:, :-1].flatten(0, 1), words[:, 1:].flatten())
    expected.backward()
    loss = learner.step(parts)
    torch.testing.assert_close(loss, expected.detach())
    for new, old in zip(learner.model.parameters(), before.parameters(), strict=True):
        gradient = torch.zeros_like(old) if old.grad is None else old.grad
        torch.testing.assert_close(new, old - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_how_far_a_task_moved_the_model() -> None:
    found = stream()
    model = models.build("gpt-tiny", (8,), 25, seed=0)
    moved = Moved()
    moved.begin(model, Session(0, found.tasks[:1]), found.holds)
    assert moved.measure(model, found.tasks[0]) is None
    old = copy.deepcopy(model)
    moved.begin(model, Session(1, found.tasks[1:]), found.holds)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    words = found.tasks[1].valid.samples.long()
    p, q = (each.eval()(words).detach()[:, :-1].double().log_softmax(-1) for each in (old, model))
    expected = (p.exp() * (p - q)).sum(-1).mean()
    assert moved.measure(model, found.tasks[1]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("method", ["finetune", "joint", "ewc", "lwf"])
def test_a_run_records_what_words_are_worth(method: str, tmp_path: Path) -> None:
    found = runner.run(config(method), stream=stream())
    assert found.status == "finished", found.failure
    worth = found.likelihood
    assert worth is not None
    height = 1 if method == "joint" else 2
    assert [len(worth.matrix), len(worth.validation), len(worth.divergence)] == [height] * 3
    assert worth.initial[0] == pytest.approx(math.log(25), abs=0.2)
    assert worth.divergence[0] is None and all(value > 0 for value in worth.divergence[1:] if value is not None)
    assert records.load(records.save(found, tmp_path / "record.json")) == found
    numbers = measures(worth)
    assert numbers["new_perplexity"] == pytest.approx(math.exp(worth.matrix[-1][1]))
    assert worth.matrix[-1][1] < worth.initial[1] - 0.3, "the last task was learned"


def test_the_test_loss_is_that_of_the_model() -> None:
    learner = Learner(config(), stream())
    learner.accuracies("test")
    words = learner.stream.tasks[1].test.samples.long()
    outputs = learner.model.eval()(words).detach()
    expected = functional.cross_entropy(outputs[:, :-1].flatten(0, 1), words[:, 1:].flatten())
    assert learner.nats[1] == pytest.approx(float(expected), rel=1e-6)


def test_what_is_remembered_may_be_the_models_own_texts() -> None:
    assert config("lwf").memory == "generations" and config("ewc").memory == "data"
    asked = config("ewc", memory="generations")
    learner = Learner(asked, stream())
    batches = list(learner.importance_batches(learner.stream.tasks[0]))
    words = torch.cat([batch[0] for batch in batches])  # type: ignore[index]  # pairs, as the model is called
    known = learner.stream.vocabulary
    assert known is not None and words.shape == (600, 8) and (words[:, 0] == known.end).all()
    assert len(words.unique(dim=0)) > 500 and not torch.equal(words[:300], learner.stream.tasks[0].train.samples[:300])


def test_measures_are_the_means_that_they_say() -> None:
    worth = Likelihood(initial=[5, 5, 5], matrix=[[1, 4, 4], [2, 1, 4], [3, 2, 1]], divergence=[None, 0.1, 0.2])
    assert measures(worth) == {
        "perplexity": pytest.approx(math.exp(2)),
        "old_perplexity": pytest.approx(math.exp(2.5)),
        "new_perplexity": pytest.approx(math.exp(1)),
        "nats_forgotten": pytest.approx((3 - 1 + 2 - 1) / 2),
        "divergence": 0.2,
    }


def test_a_comparison_chooses_by_likelihood_and_shows_perplexities(tmp_path: Path) -> None:
    found = compare(
        NAME, ["finetune", "l2sp"], seeds=1, grids={"l2sp": {"strength": ["0.01", "100"]}}, out=tmp_path,
        stream_options={"text": OPTIONS}, batch_size=8, epochs=1,
    )  # fmt: skip
    chosen = found.records[1].config.hyperparameters["strength"].choice
    assert chosen is not None and chosen.by == "validation likelihood"
    page = render(found.records)
    for words in ("Perplexity matrix", "lowest perplexity over all tasks", "KL on new", "Perplexity, old"):
        assert words in page or words in str(found)
    assert "Accuracy matrix" not in page


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"methods": ["slda"]}, "head over classes"),
        ({"methods": ["weight-balancing"]}, "weight-balancing is about classes, and the stream"),
        ({"methods": ["finetune"], "scenario": "class"}, "needs .*domain"),
        ({"methods": ["finetune"], "prequential": 10}, "samples with one label"),
        ({"methods": ["finetune"], "model": "mlp"}, "mlp"),
        ({"methods": ["finetune"], "stream_options": {"text": {"tokens": 1}}}, "text.tokens is 1"),
        ({"methods": ["finetune"], "stream_options": {"text": {"rows": 1}}}, "text.rows is 1"),
        ({"methods": ["finetune"], "stream_options": {"limit_per_class": 3}}, "limit_per_class.*does not apply"),
    ],
)
def test_what_does_not_fit_is_refused(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=said):
        compare(NAME, out=tmp_path, **{"stream_options": {"text": OPTIONS}, **asked})


def test_a_memory_of_texts_is_for_texts() -> None:
    with pytest.raises(ConfigurationError, match="memory is for texts to be continued"):
        compare("split-digits", ["lwf"], memory="generations")
