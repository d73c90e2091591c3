"""What is kept of a teacher's answers, and how far the model has come from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from holdfast.distillation.cached import bucketed_divergence, most_probable
from holdfast.integrations.seen import figures
from tests.distillation.texts import WORDS, apart, gradients, network, taught, text


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("count", [3, WORDS - 1])
def test_answers_that_are_kept_stand_for_the_teacher(direction: Any, count: int) -> None:
    memory = [text(1), text(2, 4)]
    model, keep, old = taught(memory=memory, cached=count, direction=direction, temperature=2.0)
    assert not any(name.startswith("teacher.") for name in keep.buffers)
    for batch in (*memory, memory[0]):
        outputs, found = model(batch["input_ids"]), keep.penalty()
        total, number = 0.0, 0
        for row, place in (batch["labels"][:, 1:] != -100).nonzero().tolist():
            p, q = ((f[row, place] / 2).softmax(-1).tolist() for f in (outputs.detach(), old(batch)))
            top = sorted(range(WORDS), key=lambda k: -q[k])[:count]
            buckets = [([s[k] for k in top] + [sum(s) - sum(s[k] for k in top)]) for s in (p, q)]
            a, b = buckets if direction == "reverse" else buckets[::-1]
            total, number = total + sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)), number + 1
        assert found.item() == pytest.approx(0.7 * 4 * total / number, rel=1e-9)
        if count == WORDS - 1:  # then nothing is lost
            whole = 0.7 * 4 * apart(outputs, old(batch), batch, direction, 2.0)
            for one, other in zip(gradients(found, model), gradients(whole, model), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def test_the_rest_as_one_is_never_farther_than_all_of_them() -> None:
    g = torch.Generator().manual_seed(0)
    new, old = (2 * torch.randn(50, WORDS, generator=g, dtype=torch.float64) for _ in range(2))
    full = (old.softmax(-1) * (old.log_softmax(-1) - new.log_softmax(-1))).sum(-1)
    found = [bucketed_divergence(new, *most_probable(old, k, 1.0), 1.0, "forward") for k in range(1, WORDS)]
    for fewer, more in zip(found, [*found[1:], full], strict=True):
        assert bool((fewer <= more + 1e-12).all()) and bool((fewer >= 0).all())
    sure = torch.tensor([[60.0, 0.0, -torch.inf]])
    assert bucketed_divergence(sure, *most_probable(sure, 2, 1.0), 1.0, "forward").item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("on", ["batch", "memory"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_how_far_the_model_has_come_is_measured_on_new_data(on: str, temperature: float) -> None:
    new = text(9)
    model, keep, old = taught(memory=[text(1)] if on == "memory" else None, temperature=temperature)
    assert keep.divergence is None and "holdfast/divergence" not in figures(keep)
    keep.penalty(new, outputs := model(new["input_ids"]))
    wanted = apart(outputs, old(new), new, "forward").item()
    assert keep.divergence == pytest.approx(wanted, rel=1e-9)
    assert figures(keep)["holdfast/divergence"] == keep.divergence
    for step in range(2, 21):
        batch = text(20 + step)
        keep.penalty(batch, outputs := model(batch["input_ids"]))
        if step <= 10 or step == 20:
            wanted = apart(outputs, old(batch), batch, "forward").item()
        assert keep.divergence == pytest.approx(wanted, rel=1e-9)


def test_the_strength_rises_while_the_budget_is_exceeded_and_falls_again() -> None:
    new, memory = text(9), [text(1), text(2)]
    model, keep, old = taught(memory=memory, kl_budget=0.05)
    there = {name: p.detach().clone() for name, p in model.named_parameters()}
    factor = 1.0
    for step, share in enumerate([1.0, 1.0, 0.3, 0.0, 0.0, 0.0]):
        with torch.no_grad():
            for (name, p), (_, start) in zip(model.named_parameters(), network().named_parameters(), strict=True):
                p.copy_(torch.lerp(start, there[name], share))
        outputs, batch = model(new["input_ids"]), memory[step % 2]
        assert keep.current_strength == pytest.approx(0.7 * factor, rel=1e-6)
        wanted = 0.7 * factor * apart(model(batch["input_ids"]), old(batch), batch, "forward").item()
        assert keep.penalty(new, outputs).item() == pytest.approx(wanted, rel=1e-6, abs=1e-12)
        d = apart(outputs, old(new), new, "forward").item()
        factor = max(1.0, factor * math.exp(0.1 * max(-1.0, min(1.0, (d - 0.05) / 0.05))))
        if step == 1:
            assert factor > 1.15
    assert factor == 1.0
    keep.count_step()
    keep.consolidate()
    assert keep.current_strength == 0.7
