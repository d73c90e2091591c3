"""A language model in a real ``Trainer``, anchored to its own words: a step by hand, what is logged, and a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from holdfast import LwF, generations  # noqa: E402  # after the skip
from holdfast.integrations.transformers import protect  # noqa: E402  # after the skip
from tests.integrations.trainers import apart, arguments, batch_of, causal, rows, twin, weights  # noqa: E402  # likewise


def anchored(model: Any, **settings: Any) -> LwF:
    def own(model: Any) -> Any:
        return generations(model, 1, samples=6, length=5, batch_size=2, generator=torch.Generator().manual_seed(0))

    keep = LwF(model, **{"strength": 2.0, "temperature": 1.0, "memory": own, "kl_budget": 0.01} | settings)
    keep.consolidate()
    return keep


def test_two_micro_batches_of_a_step_take_two_batches_of_own_words(tmp_path):
    model = causal(spread=0.3)
    old, data = twin(model), rows(1, 8)
    texts = list(generations(model, 1, samples=6, length=5, generator=torch.Generator().manual_seed(0)).batched(2))[:2]
    keep = anchored(model, kl_budget=None)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    plain = twin(model)
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1, "optim": "sgd"}
    args = arguments(tmp_path, **settings, lr_scheduler_type="constant", max_grad_norm=0.0, data_seed=0)
    trainer = transformers.Trainer(model, args, train_dataset=data)
    protect(trainer, keep)
    trainer.train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-2)
    loss = plain(**batch_of(data)).loss * 5 / 6  # a Trainer counts the first word, which nothing predicts, too
    for batch in texts:
        new, was = (m(input_ids=batch["input_ids"]).logits[:, :-1].log_softmax(-1) for m in (plain, old))
        loss = loss + 0.5 * 2.0 * (was.exp() * (was - new)).sum(-1)[batch["labels"][:, 1:] >= 0].mean()
    loss.backward()
    optimizer.step()
    assert apart(weights(model), weights(plain)) < 1e-6 < apart(weights(old), weights(plain))


def test_divergence_is_logged_and_a_run_goes_on_with_its_memory_and_its_strength(tmp_path):
    start = causal(spread=0.3).state_dict()
    found = {}
    for name in ("whole", "resumed"):
        model = causal()
        model.load_state_dict(start)
        args = arguments(tmp_path, save_strategy="steps", save_steps=2, logging_strategy="steps", logging_steps=2)
        trainer = transformers.Trainer(model, args, train_dataset=rows(1))
        keep = anchored(model)
        protect(trainer, keep)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2") if name == "resumed" else None)
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert [entry["step"] for entry in logs] == [2, 4] and logs[-1]["holdfast/divergence"] > 0.01
        found[name] = weights(model), keep.current_strength, keep.meta["num_tasks"]
    assert found["whole"][1] > 2.0 and found["whole"][1:] == found["resumed"][1:]
    assert apart(found["whole"][0], found["resumed"][0]) == 0
