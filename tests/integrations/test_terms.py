"""A term in the loss as a framework weighs it: shares of micro-batches, and models that compute their own loss."""

from __future__ import annotations

import contextlib
import copy
from typing import NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import EWC, L2SP, Classification, ConfigurationError, LwF, TokenClassification
from holdfast.integrations.terms import add_terms
from tests.objectives.tiny import GPT2

METHODS = pytest.mark.parametrize(
    "make",
    [
        lambda m, o: LwF(m, strength=1.0, objective=o),
        lambda m, o: EWC(m, strength=1.0, coupling="loss", objective=o),
        lambda m, o: L2SP(m, strength=0.3, coupling="loss", objective=o),
    ],
    ids=["lwf", "ewc", "l2sp"],
)


def _trained(make, micro, weigh):
    """The weights after three steps of so many micro-batches of 8 rows of a different number of labelled tokens."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x, y = torch.randn(8, 5, 6), torch.randint(0, 3, (8, 5))
    y[torch.rand(8, 5) < 0.4] = -100
    y[:, 0] = 1
    method = make(model, TokenClassification())
    method.consolidate([(x, y.clamp_min(0))])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    method.attach(optimizer)
    total = (y != -100).sum()
    for _ in range(3):
        optimizer.zero_grad()
        for inputs, labels in zip(x.split(8 // micro), y.split(8 // micro), strict=True):
            outputs = model(inputs)
            loss = F.cross_entropy(outputs.transpose(1, 2), labels, reduction="sum") / total
            share = weigh((labels != -100).sum(), total)
            (loss + method.penalty((inputs, labels), outputs, scale=share)).backward()
        optimizer.step()
    return model.weight.detach()


@METHODS
@pytest.mark.parametrize("weigh", [lambda n, total: n / total, lambda n, total: float(n / total)])
def test_four_micro_batches_are_one_batch(make, weigh):
    whole = _trained(make, 1, lambda n, total: 1.0)
    assert (_trained(make, 4, weigh) - whole).abs().max() < 1e-6
    assert (_trained(make, 4, lambda n, total: 1.0) - whole).abs().max() > 1e-3  # it was worth an argument


@pytest.mark.parametrize("scale", [-1.0, float("nan"), True, "1", torch.ones(2)])
def test_a_scale_that_is_none_is_named(scale):
    with pytest.raises(ConfigurationError, match="scale is"):
        L2SP(nn.Linear(2, 2), strength=1.0).penalty(scale=scale)


class _Named(NamedTuple):
    loss: Tensor
    logits: Tensor


class _Own(nn.Module):
    """Computes its own loss, and returns it in one of many ways."""

    def __init__(self, way="dict"):
        super().__init__()
        self.line, self.way, self.calls = nn.Linear(6, 3), way, 0

    def forward(self, x, labels=None):
        self.calls += 1
        logits = self.line(x)
        if labels is None:
            return {"logits": logits}
        loss = F.cross_entropy(logits, labels)
        found = {
            "dict": {"loss": loss, "logits": logits},
            "output": transformers.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=logits),
            "tuple": (loss, logits),
            "named": _Named(loss, logits),
            "scalar": loss,
        }
        return found[self.way]


def _loss(outputs):
    return outputs if isinstance(outputs, Tensor) else outputs["loss"] if isinstance(outputs, dict) else outputs[0]


def _moved(way="dict", make=lambda m: LwF(m, strength=1.0, objective=Classification())):
    model = _Own(way)
    method = make(model)
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
    method.consolidate([{"x": x, "labels": y}])
    with torch.no_grad():
        model.line.weight[0] += 0.5
    return model, method, x, y


@pytest.mark.parametrize("way", ["dict", "output", "tuple", "named", "scalar"])
def test_the_model_adds_the_term_itself(way):
    make = (lambda m: L2SP(m, strength=0.3, coupling="loss")) if way in ("scalar", "tuple", "named") else None
    model, method, x, y = _moved(way, *([make] if make else []))
    plain = _loss(model(x, labels=y)).detach()
    expected = method.penalty({"x": x, "labels": y}).detach()
    assert expected > 0
    with add_terms(method) as terms:
        terms.share = 0.25
        outputs = model(x, labels=y)
        assert type(outputs) is type(model.eval()(x, labels=y))
        torch.testing.assert_close(_loss(outputs).detach(), plain + 0.25 * expected)
        torch.testing.assert_close(terms.latest, expected)
        _loss(outputs).backward()
    assert torch.equal(_loss(model.train()(x, labels=y)).detach(), plain)  # removed


def test_evaluation_and_no_grad_stay_clean_and_a_teacher_is_left_alone():
    model, x, y = _Own(), torch.randn(8, 6), torch.randint(0, 3, (8,))
    method = LwF(model, strength=1.0, objective=Classification())
    with add_terms(method):
        method.consolidate()  # copies the model, its hook too
        with torch.no_grad():
            model.line.weight[0] += 0.5
        plain = copy.deepcopy(model)(x, labels=y)["loss"].detach()
        with torch.no_grad():
            assert torch.equal(model(x, labels=y)["loss"], plain)
        assert torch.equal(model.eval()(x, labels=y)["loss"].detach(), plain)
        before = model.train().calls
        assert model(x, y)["loss"] > plain  # by position too
        assert model.calls == before + 1  # the student's outputs are used


def test_a_method_that_calls_the_model_itself_does_not_call_itself():
    def forward(model, batch):
        return model(batch["x"])

    objective = Classification(forward=forward)
    model, method, x, y = _moved(make=lambda m: LwF(m, strength=1.0, objective=objective))
    method.objective = Classification()  # so that the outputs at hand are not those of the objective
    with add_terms(method):
        model(x, labels=y)["loss"].backward()
    assert model.line.weight.grad is not None


@pytest.mark.parametrize("coupling", ["loss", "gradient"])
def test_the_guards_are_content(coupling):
    model, method, x, y = _moved(make=lambda m: EWC(m, strength=1.0, coupling=coupling, objective=Classification()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method.attach(optimizer)
    with add_terms(method) as terms:
        for _ in range(2):
            optimizer.zero_grad()
            for part in (slice(4), slice(4, 8)):
                terms.share = 0.5
                (model(x[part], labels=y[part])["loss"] / 2).backward()
            optimizer.step()
    assert (terms.latest is None) is (coupling == "gradient")


def test_a_model_without_a_loss_is_refused():
    model, method, x, _ = _moved()
    with add_terms(method), pytest.raises(ConfigurationError, match=r"LwF has no place.*returned no loss"):
        model(x)
    with pytest.raises(ConfigurationError, match="no method"):
        add_terms()
    with pytest.raises(ConfigurationError, match="methods of 2 models"):
        add_terms(method, L2SP(nn.Linear(2, 2), strength=1.0))


def test_a_trainer_of_transformers_distils_and_evaluates_clean(tmp_path):
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    rows = [{"input_ids": torch.randint(3, 20, (6,))} for _ in range(8)]
    for row in rows:
        row["labels"] = row["input_ids"].clone()
    old = copy.deepcopy(model).eval()
    keep = LwF(model, strength=20.0)
    keep.consolidate()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_train_epochs=10, learning_rate=3e-3,
        report_to=[], use_cpu=True, save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=1,
    )  # fmt: skip
    far = {}
    for protected in (False, True):
        model.load_state_dict(old.state_dict())
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        with add_terms(keep) if protected else contextlib.nullcontext():
            if protected:
                trainer.create_optimizer()
                keep.attach(trainer.optimizer)
            trainer.train()
            evaluated = trainer.evaluate()["eval_loss"]
        assert trainer.evaluate()["eval_loss"] == evaluated
        with torch.no_grad():
            ids = torch.stack([row["input_ids"] for row in rows])
            far[protected] = (model.eval()(ids).logits - old(ids).logits).square().mean().item()
    assert far[True] < far[False] / 2
