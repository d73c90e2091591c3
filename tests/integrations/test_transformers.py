"""A Trainer of Transformers, the real one: weighed, resumed, logged, consolidated, over two tasks."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers

from holdfast import EWC, L2SP, SI, ConfigurationError, LwF
from holdfast.integrations.transformers import FILE, HoldfastCallback, protect
from holdfast.testing.cases import same_state
from tests.integrations.trainers import apart, arguments, batch_of, causal, classes, classifier, rows, seq2seq, weights

METHODS = {
    "ewc": lambda m: EWC(m, strength=30.0),
    "ewc, loss": lambda m: EWC(m, strength=1.0, coupling="loss"),
    "si": lambda m: SI(m, strength=3.0),
    "lwf": lambda m: LwF(m, strength=3.0),
}
OLD, NEW = rows(1), rows(2, uneven=True)


def taught(name, model, data=OLD):
    """A method that remembers a first task, away from which the model has moved a little."""
    keep = METHODS[name](model)
    if name == "si":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        keep.attach(optimizer)
        model(**batch_of(data)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        keep.detach()
    keep.consolidate([batch_of(data)])
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=draw)
    return keep


def trained(folder, name, make=causal, old=OLD, data=NEW, kind=transformers.Trainer, more=None, **settings):
    model = make()
    keep = taught(name, model, old) if name else None
    trainer = kind(
        model=model, args=arguments(folder, **settings), train_dataset=data,
        callbacks=[HoldfastCallback(keep)] if keep else None, **(more or {}),
    )  # fmt: skip
    trainer.train()
    return weights(model)


@pytest.mark.parametrize("name", ["ewc, loss", "lwf"])
def test_four_micro_batches_of_two_are_one_of_eight(tmp_path, name):
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    whole = trained(tmp_path, name, **settings)
    parts = trained(tmp_path, name, per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    assert apart(parts, whole) < 1e-6
    assert apart(trained(tmp_path, None, **settings), whole) > 1e-4


class Mean(transformers.Trainer):
    """Computes a loss of its own, a mean, that the Trainer is to divide."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


def _mean(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("way", ["override", "function", "smoothed"])
def test_however_the_loss_is_computed(tmp_path, way):
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    settings |= {"label_smoothing_factor": 0.1} if way == "smoothed" else {}
    kind = Mean if way == "override" else transformers.Trainer
    more = {"compute_loss_func": _mean} if way == "function" else None
    found = {}
    for micro in (1, 4):
        shape = {"per_device_train_batch_size": 8 // micro, "gradient_accumulation_steps": micro}
        found[micro] = trained(tmp_path, "lwf", classifier, classes(1), classes(2), kind, more, **settings, **shape)
    assert apart(found[1], found[4]) < 1e-6
    assert apart(trained(tmp_path, None, classifier, classes(1), classes(2), kind, more, **settings), found[1]) > 1e-4


def test_a_seq2seq_trainer(tmp_path):
    data = [{**row, "labels": row["labels"].clamp_min(0)} for row in rows(2)]
    assert apart(_seq2seq(tmp_path, None, data), _seq2seq(tmp_path, "lwf", data)) > 1e-4


def _seq2seq(folder, name, data):
    model = seq2seq()
    callbacks = [HoldfastCallback(taught(name, model))] if name else None
    args = arguments(folder, transformers.Seq2SeqTrainingArguments)
    transformers.Seq2SeqTrainer(model, args, train_dataset=data, callbacks=callbacks).train()
    return weights(model)


def test_evaluation_is_clean_and_what_the_method_does_is_logged(tmp_path):
    model = causal()
    keep = taught("lwf", model)
    before = weights(model)
    args = arguments(tmp_path, logging_strategy="steps", logging_steps=2, eval_strategy="steps", eval_steps=2)
    trainer = transformers.Trainer(model, args, train_dataset=NEW, eval_dataset=OLD)
    plain = trainer.evaluate()["eval_loss"]
    assert protect(trainer, keep) is keep
    assert trainer.evaluate()["eval_loss"] == plain
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4]
    for entry in logs:
        assert entry["holdfast/penalty"] > 0 and 0 < entry["holdfast/penalty_share"] < 1
        assert "holdfast/distance" not in entry  # LwF holds answers, no weights
    evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    again = causal()
    again.load_state_dict(model.state_dict())
    other = transformers.Trainer(again, arguments(tmp_path), eval_dataset=OLD).evaluate()["eval_loss"]
    assert evaluated[-1] == other and apart(before, weights(model)) > 0


def test_the_distance_is_logged(tmp_path):
    model = causal()
    keep = taught("ewc", model)
    args = arguments(tmp_path, logging_strategy="steps", logging_steps=4)
    trainer = transformers.Trainer(model, args, train_dataset=NEW, callbacks=[HoldfastCallback(keep)])
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    far = sum((weights(model)[name] - keep.state[name]["anchor"]).square().sum() for name in keep.state).sqrt()
    assert entry["holdfast/distance"] == pytest.approx(far.item(), rel=1e-5)
    assert entry["holdfast/penalty"] == pytest.approx(keep.value().item(), rel=1e-5)
    assert 0 < entry["holdfast/penalty_share"] < 1


@pytest.mark.parametrize("only_model", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_resumed_in_mid_task_is_one_that_was_never_stopped(tmp_path, name, only_model):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "save_only_model": only_model}
    settings |= {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant"} if only_model else {}
    learned, dropout = (False, 0.0) if only_model else (True, 0.1)  # no state of the generators is saved then
    model = causal(dropout)
    keep = taught(name, model)
    args = arguments(tmp_path / "a", **settings)
    transformers.Trainer(
        model, args, train_dataset=NEW, callbacks=[HoldfastCallback(keep, consolidate=learned)]
    ).train()
    moved = shutil.move(tmp_path / "a" / "checkpoint-2", tmp_path / "elsewhere")
    assert (moved / FILE).is_file() is only_model

    again = causal(dropout)
    other = METHODS[name](again)
    callback = HoldfastCallback(other, consolidate=learned)
    trainer = transformers.Trainer(
        again, arguments(tmp_path / "b", **settings), train_dataset=NEW, callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=str(moved))
    assert apart(weights(model), weights(again)) == 0
    assert other.num_tasks == 1 + learned and same_state(keep.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", ["ewc", "si", "lwf"])
def test_two_tasks_with_two_trainers_and_one_method(tmp_path, name):
    model = causal()
    keep = METHODS[name](model)
    for data in (OLD, NEW):
        trainer = transformers.Trainer(model, arguments(tmp_path), train_dataset=data)
        protect(trainer, keep)
        trainer.train()
        keep.consolidate(trainer.get_train_dataloader())
    assert keep.num_tasks == 2
    unprotected = causal()
    for data in (OLD, NEW):
        transformers.Trainer(unprotected, arguments(tmp_path), train_dataset=data).train()
    assert apart(weights(model), weights(unprotected)) > 1e-4


def test_consolidate_at_the_end_reads_so_many_samples(tmp_path, monkeypatch):
    model = causal()
    keep = EWC(model, strength=1.0)
    trainer = transformers.Trainer(model, arguments(tmp_path), train_dataset=rows(1, 40))
    protect(trainer, keep, samples=9)
    protect(trainer, keep, consolidate=True, samples=9)  # said again, it is the last that counts
    seen = []
    monkeypatch.setattr(EWC, "_remember", lambda self, batches, *rest: seen.extend(len(b["labels"]) for b in batches))
    trainer.train()
    assert seen == [8, 8] and keep.num_tasks == 1
    trainer.train()  # once more, with the optimizer that is there
    assert keep.num_tasks == 2
    assert len([c for c in trainer.callback_handler.callbacks if isinstance(c, HoldfastCallback)]) == 1


def test_removed_it_does_nothing(tmp_path):
    model = causal()
    keep = taught("lwf", model)
    trainer = transformers.Trainer(model, arguments(tmp_path, max_steps=1), train_dataset=NEW)
    protect(trainer, keep)
    trainer.remove_callback(HoldfastCallback)
    trainer.train()
    assert keep.meta["steps"] == 0


def test_refusals(tmp_path):
    model = causal()
    keep = EWC(model, strength=1.0)
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=2)
    with pytest.raises(ConfigurationError, match=r"model_init.*EWC protects another"):
        transformers.Trainer(args=args, model_init=lambda: model, callbacks=[HoldfastCallback(keep)])
    with pytest.raises(ConfigurationError, match=r"GPT2LMHeadModel that this Trainer does not train"):
        protect(transformers.Trainer(causal(), args), keep)
    with pytest.raises(ConfigurationError, match="keep is a Linear"):
        HoldfastCallback(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="samples is 0"):
        HoldfastCallback(keep, samples=0)
    with pytest.raises(ConfigurationError, match="called by no Trainer"):
        HoldfastCallback(keep).on_init_end(args, None, None)
    trainer = transformers.Trainer(model, args, train_dataset=NEW)
    trainer.add_callback(HoldfastCallback(L2SP(model, strength=1.0)))
    trainer.train()
    with pytest.raises(ConfigurationError, match=r"came too late.*callbacks="):
        late = transformers.Trainer(model, args, train_dataset=NEW)
        late.add_callback(HoldfastCallback(L2SP(model, strength=1.0)))
        late.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
