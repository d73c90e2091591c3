"""Adapters of a run and what they start from; words that are chosen: against models and losses by hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from holdfast.bench.data import named
from holdfast.bench.models import adapters
from holdfast.bench.models import named as models
from holdfast.bench.records.record import Record, RunConfig, without_times
from holdfast.bench.training import adapting, own_texts, pretraining, runner
from holdfast.bench.training.learner import Learner
from holdfast.bench.training.session import sessions
from holdfast.bench.training.snapshot import Forgetful
from holdfast.errors import ConfigurationError
from tests.bench.training.stops import run_with_stops
from tests.bench.training.texts import config, load, stream

pytest.importorskip("tokenizers", reason="the bench's packages are not installed")
peft = pytest.importorskip("peft")

STARTS: list[Any] = [None, "milora", "corda", {"how": "lora-null", "tolerance": 0.2}, {"how": "inflora"}]
FROZEN = ("lora-null", "inflora")


@pytest.fixture(autouse=True)
def small_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "load_text", load)
    monkeypatch.setattr(own_texts, "TEXTS", 32)


def adapted(start: Any, method: str = "finetune", **changes: Any) -> RunConfig:
    options = {"lora": 2} | ({} if start is None else {"lora_start": start})
    return config(method, model_options=options, pretrain_epochs=3, lr=0.02, **changes)


def run(settled: RunConfig) -> Record:
    return runner.run(settled, stream=stream())


def weights(settled: RunConfig) -> dict[str, torch.Tensor]:
    """What the first task, learned beforehand, left."""
    found = pretraining.start(
        settled, Forgetful(), lambda plain, keeper: runner.run(plain, stream=stream(), keeper=keeper)
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    "start", STARTS, ids=lambda start: str(start and (start if isinstance(start, str) else start["how"]))
)
def test_adapters_begin_at_the_model_that_was_learned_and_are_all_that_is_trained(start: Any) -> None:
    settled = adapted(start)
    base = models.build("gpt-tiny", (8,), 25, seed=0)
    base.load_state_dict(weights(settled))
    learner = Learner(settled, stream(), weights(settled))
    both = list(sessions(learner.stream, joint=False))
    learner.start(both)
    words = both[1].last.train.samples.long()[:6]
    torch.testing.assert_close(learner.model(words), base(words), rtol=1e-4, atol=1e-4)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.begin(both[1])
    for _ in range(5):
        learner.step(both[1].parts(torch.arange(8)))
    changed = {n for n, p in learner.model.named_parameters() if not torch.equal(before[n], p)}
    how = start["how"] if isinstance(start, dict) else start
    sides = (".lora_B.",) if how in FROZEN else (".lora_A.", ".lora_B.")
    assert changed == {name for name in before if any(side in name for side in sides)}
    assert not any("heads" in name for name in changed)
    merged = adapters.merged(learner.model)
    assert not torch.equal(merged(words), base(words))
    assert set(merged.state_dict()) == set(base.state_dict())


def test_all_starts_share_the_first_task_and_differ_after_it() -> None:
    plain = run(config(pretrain_epochs=3))
    records = [run(adapted(start)) for start in STARTS]
    for record in records:
        assert record.status == "finished" and record.likelihood is not None and plain.likelihood is not None
        assert record.likelihood.initial == pytest.approx(plain.likelihood.initial, rel=1e-3)
    ends = [record.likelihood.matrix[-1] for record in records if record.likelihood is not None]
    assert len({tuple(end) for end in ends}) == len(STARTS)


@pytest.mark.parametrize("method", ["ewc", "l2sp", "lwf"])
def test_methods_protect_the_adapters_of_a_model_of_ours(method: str) -> None:
    record = run(adapted(None, method))
    assert record.status == "finished", record.failure
    assert record.matrix != run(adapted(None)).matrix


@pytest.mark.parametrize(
    "settled",
    [
        lambda: adapted({"how": "inflora"}, epochs=12),
        lambda: adapted("corda", "ewc", epochs=12),
        lambda: config(low_perplexity=20.0, epochs=8),
    ],
    ids=["inflora", "corda", "low-perplexity"],
)
def test_a_run_that_is_stopped_anywhere_ends_the_same(
    settled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    asked = settled()
    whole = run(asked)
    assert whole.status == "finished", whole.failure
    record, resumed = run_with_stops(asked, stream(), tmp_path / "run", random.Random(1))
    assert resumed and without_times(record) == without_times(whole)


def test_the_words_that_are_learned_are_those_of_low_perplexity() -> None:
    settled = config(low_perplexity=24.0, pretrain_epochs=3)
    model = models.build("gpt-tiny", (8,), 25, seed=0).eval()
    model.load_state_dict(weights(settled))
    learner = Learner(settled, stream(), weights(settled))
    session = list(sessions(learner.stream, joint=False))[1]
    learner.begin(session)
    learner.choose(session)
    words = session.last.train.samples.long()
    with torch.no_grad():
        nats = functional.cross_entropy(model(words)[:, :-1].transpose(1, 2), words[:, 1:], reduction="none")
    kept = nats.exp() <= 24.0
    assert 0 < int(kept.sum()) < kept.numel()
    found = learner.as_chosen(session).last.train
    assert torch.equal(found.rows, session.last.train.rows[kept.any(1)])
    assert torch.equal(found.targets[:, 1:] != -100, kept[kept.any(1)])
    assert torch.equal(session.last.train.targets, words)  # importances are of all words, as before


def test_a_threshold_that_takes_every_word_changes_nothing() -> None:
    plain, all_words = run(config()), run(config(low_perplexity=1e9))
    assert plain.matrix == all_words.matrix and plain.likelihood == all_words.likelihood
    failed = run(config(low_perplexity=1.0001))
    assert failed.status == "failed" and "no word has a perplexity of at most 1.0001" in failed.failure


@pytest.mark.parametrize(
    ("options", "changes", "sentence"),
    [
        ({"lora_start": "corda"}, {}, "lora_start=corda is of adapters, and 'gpt-tiny' is trained without any: add"),
        ({"lora": 2, "lora_start": "crda"}, {}, "no start of adapters 'crda'; the nearest are corda"),
        ({"lora": 2, "lora_start": {"how": "corda", "dampin": 1}}, {}, "no setting of the start corda 'dampin'.*"),
        ({"lora": 2, "lora_start": {"how": "milora", "damping": 1}}, {}, "setting of the start milora 'damping'.*none"),
        ({"lora": 2, "lora_start": {"damping": 1}}, {}, "lora_start is {'damping': 1}; expected how among it, one of"),
        ({"lora": 2, "lora_start": {"how": "corda", "damping": 0}}, {}, "lora_start: damping is 0; expected a"),
        ({"lora": 2, "lora_start": {"how": "corda", "damping": float("inf")}}, {}, "damping is inf; expected a finite"),
        ({"lora": 2, "lora_start": {"how": "inflora", "threshold": 2}}, {}, "threshold is 2; expected a share of"),
        ({}, {"low_perplexity": 1.0}, "low_perplexity=1.0, but no word is below 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before(options: dict[str, Any], changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        config(model_options=options, **changes)


def test_an_adapter_for_each_task_and_a_first_task_beforehand_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="o-lora holds a new adapter against those of the tasks before"):
        config("o-lora", model_options={"lora": 2}, pretrain_epochs=1)
    with pytest.raises(ConfigurationError, match="lora_start=milora is of one adapter, and o-lora learns each task by"):
        config("o-lora", model_options={"lora": 2, "lora_start": "milora"})
    assert run(config("o-lora", model_options={"lora": 2})).status == "finished"


def test_what_all_tasks_at_once_need_is_what_the_adapters_begin_along(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(adapting, "start_lora", lambda *_, new, **__: seen.append(sum(len(words) for words, _ in new)))
    tasks = stream().tasks
    for method, wanted in (("joint", sum(len(task.train) for task in tasks)), ("finetune", len(tasks[0].train))):
        settled = config(method, model_options={"lora": 2, "lora_start": "inflora"})
        learner = Learner(settled, stream())
        learner.start(list(sessions(learner.stream, joint=learner.entry.all_at_once)))
        assert seen.pop() == wanted


def test_a_rank_that_is_too_large_names_the_layer() -> None:
    with pytest.raises(ConfigurationError, match=r"blocks\.0\.up: rank is 2, but the inputs leave 1"):
        run(adapted({"how": "lora-null", "tolerance": 1e-9}))
