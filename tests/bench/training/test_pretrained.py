"""A pretrained language model as the bench's model: its words, its losses, its weights, against Transformers' own."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.bench import compare
from holdfast.bench.comparing.protocols import protocol
from holdfast.bench.data import hub, pretrained
from holdfast.bench.data.arranging import stream_of
from holdfast.bench.models import adapters
from holdfast.bench.models import named as models
from holdfast.bench.records.record import Record, without_times
from holdfast.bench.report.page import render
from holdfast.bench.training import own_texts
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import Session
from holdfast.errors import ConfigurationError
from holdfast.generating import generations
from tests.bench import tiny

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and two data sets."""
    root = tmp_path_factory.mktemp("language")
    for kind in ("gpt2", "llama", "bert"):
        tiny.pretrained(root / kind, kind)
    words = tiny.TEXT.split()
    for number, name in enumerate(("a", "b")):
        rows = [
            {"prompt": f"what is {words[k % 9 + number]}", "answer": f"{words[k % 7]} {words[k % 5 + 3]}"}
            for k in range(20)
        ]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(own_texts, "TEXTS", 32)
    monkeypatch.setattr(hub, "_answers", lambda endpoint: False)


def run(method: str = "finetune", **changes: Any) -> Record:
    asked: dict[str, Any] = {
        "model": "gpt2",
        "epochs": 1,
        "batch_size": 8,
        "seeds": 1,
        "controls": False,
        "threads": 1,
        "note": list,
    }
    return compare("instruct-a.jsonl-b.jsonl", [method], **{**asked, **changes}).records[0]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_words_and_losses_are_those_of_transformers(kind: str) -> None:
    stream = stream_of("instruct-a.jsonl-b.jsonl", tokenizer=kind)
    words = transformers.AutoTokenizer.from_pretrained(kind)
    task = stream.tasks[1]
    pairs = {(row["prompt"] + "\n", row["answer"]) for row in map(json.loads, Path("b.jsonl").read_text().splitlines())}
    expected = {tuple(words(one)["input_ids"] + words(two)["input_ids"] + [words.eos_token_id]) for one, two in pairs}
    for row, labels in zip(task.train.samples.tolist(), task.train.targets.tolist(), strict=True):
        asked = [k for k, label in enumerate(labels) if label != -100]
        assert tuple(row[: asked[-1] + 1]) in expected and row[asked[-1]] == words.eos_token_id
        assert words.decode(row[: asked[0]]).endswith("\n") and [row[k] for k in asked] == [labels[k] for k in asked]
    config = run(model=kind).config
    learner = Learner(config, stream)
    inputs, targets = task.batch(task.train, torch.arange(8))
    mask = torch.stack([torch.arange(len(row)) <= (row != -100).nonzero().max() for row in targets]).long()
    model = transformers.AutoModelForCausalLM.from_pretrained(kind)
    wanted = model(input_ids=inputs.long(), attention_mask=mask, labels=targets).loss
    found = learner.step(Session(0, (task,)).parts(torch.arange(8)))
    torch.testing.assert_close(found, wanted.detach())


def test_a_run_begins_with_the_pretrained_weights_and_says_which() -> None:
    record = run()
    assert record.config.model == "gpt2" and record.config.model_options == {"digest": pretrained.digest("gpt2")}
    assert record.config.lr == protocol("x", "language", "gpt2").lr == 5e-5 and record.config.optimizer == "adamw"
    assert record.likelihood is not None
    base = transformers.AutoModelForCausalLM.from_pretrained("gpt2").eval()
    task = stream_of("instruct-a.jsonl-b.jsonl", tokenizer="gpt2").tasks[0]
    inputs, targets = task.batch(task.test, torch.arange(len(task.test)))
    with torch.no_grad():
        wanted = float(base(input_ids=inputs.long(), labels=targets).loss)
    assert record.likelihood.initial[0] == pytest.approx(wanted, rel=1e-5)
    assert all(distance is not None and distance > 0 for distance in record.likelihood.divergence)
    assert without_times(run()) == without_times(record)
    assert ">before<" in render([record])


def test_joint_training_takes_the_mean_over_all_answers() -> None:
    record = run("joint")
    assert record.status == "finished" and len(record.matrix) == 1


@pytest.mark.parametrize("method", ["ewc", "lwf", "l2sp"])
def test_methods_protect_adapters_and_leave_the_weights(method: str, tmp_path: Path) -> None:
    record = run(method, model_options={"lora": 2}, lr=1e-2, out=tmp_path / "out")
    assert record.status == "finished", record.failure
    assert record.config.model_options["lora"] == 2 and record.likelihood is not None
    stream = stream_of("instruct-a.jsonl-b.jsonl", tokenizer="gpt2")
    learner = Learner(record.config, stream)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.begin(Session(0, stream.tasks[:1]))
    for _ in range(2):
        learner.step(Session(0, stream.tasks[:1]).parts(torch.arange(8)))
    learner.consolidate(Session(0, stream.tasks[:1]))
    changed = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".lora_" in name for name in changed)
    assert learner.method is not None and all(".lora_" in name for name in learner.method.state)


def test_each_task_has_an_adapter_of_its_own(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model_options": {"lora": 2}, "lr": 1e-2, "settings": {"o-lora": {"strength": 3.0}}}
    record = run("o-lora", **asked)
    assert record.status == "finished", record.failure
    stream = stream_of("instruct-a.jsonl-b.jsonl", tokenizer="gpt2").with_validation(0.1, 0)
    learner = Learner(record.config, stream)
    sessions = [Session(task.index, (task,)) for task in stream]
    learner.begin(sessions[0])
    learner.step(sessions[0].parts(torch.arange(8)))
    learner.consolidate(sessions[0])
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.begin(sessions[1])
    trained = [name for name, p in learner.model.named_parameters() if p.requires_grad]
    assert trained and all(".task-1." in name for name in trained)
    outputs = learner.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    learner.step(sessions[1].parts(torch.arange(8)))
    learner.consolidate(sessions[1])
    after = dict(learner.model.named_parameters())
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert not torch.equal(learner.model(input_ids=torch.tensor([[1, 2, 3]])).logits, outputs)
    assert learner.method is not None
    assert {len(rows) for rows in learner.method.buffers.values()} == {4}  # two adapters of rank 2
    again = Learner(record.config, stream)
    again.load_state_dict(learner.state_dict(), with_optimizer=False)
    assert again.accuracies("test") == learner.accuracies("test")
    merged = adapters.merged(copy.deepcopy(learner.model))
    wanted = learner.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    torch.testing.assert_close(merged(input_ids=torch.tensor([[1, 2, 3]])).logits, wanted, rtol=1e-4, atol=1e-5)


def test_a_model_that_changed_is_refused(tmp_path: Path) -> None:
    shutil.copytree("gpt2", tmp_path / "copy")
    before = pretrained.digest(str(tmp_path / "copy"))
    assert before == pretrained.digest("gpt2") != pretrained.digest("llama")
    (tmp_path / "copy" / "note.txt").write_text("more")
    with pytest.raises(ConfigurationError, match=f"begun with: its files have the digest .*; expected {before}"):
        models.build(str(tmp_path / "copy"), (8,), 10, seed=0, digest=before)


@pytest.mark.parametrize(
    ("stream", "options", "sentence"),
    [
        (
            "instruct-a.jsonl-b.jsonl",
            {"model_options": {"lora": 2, "lora_start": "loar-null"}},
            "no start of adapters 'loar-null'.*lora-null",
        ),
        ("instruct-a.jsonl-b.jsonl", {"model_options": {"lora": 0}}, "lora is 0; expected at least 1"),
        ("instruct-a.jsonl-b.jsonl", {"model_options": {"loar": 2}}, "no option of a model .loar."),
        ("instruct-a.jsonl-b.jsonl", {"model": "no/such"}, "is 'no/such', which is no folder or hub id"),
        ("instruct-a.jsonl-b.jsonl", {"model": "bert"}, "bert is BertModel; expected a causal language model"),
        (
            "instruct-a.jsonl-b.jsonl",
            {"stream_options": {"text": {"tokens": 40}}},
            "rows of 40 words are longer than the 32 that 'gpt2' reads",
        ),
        (
            "instruct-a.jsonl-b.jsonl",
            {"methods": ["o-lora"]},
            "o-lora learns each task by an adapter of its own, and '",
        ),
        ("split-digits", {}, "model is gpt2, which continues texts, and the stream 'split-digits' has none such"),
    ],
)
def test_what_cannot_be_trained_is_said_before(stream: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        compare(stream, **{"methods": ["finetune"], "model": "gpt2", "seeds": 1, "note": list, **options})


def test_a_stream_with_other_words_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of the stream 'a' are others; expected text"):
        compare(stream_of("a.jsonl"), ["finetune"], model="gpt2", seeds=1)


def test_own_texts_of_such_a_model_go_on_from_prompts() -> None:
    texts = generations(models.build("gpt2", (8,), 10, seed=0), [[1, 2], [3]], samples=4, length=3)
    assert texts.given.tolist() == [2, 1, 2, 1] and not texts.pairs
