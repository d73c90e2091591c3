"""Every importance, by whatever way, equals one backward per sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import holdfast.importance.engine as engine
from holdfast.errors import ConfigurationError
from holdfast.importance import fisher, mas, taylor
from holdfast.importance._reference import per_sample_sum_reference
from holdfast.importance.statistic import ABSOLUTE, SQUARE
from holdfast.names import canonical_parameters
from holdfast.objectives import CausalLM, Loss
from tests.importance.cases import ALONE, CASES, LOOP, RULES, VMAP, Case
from tests.importance.scales import SCALES

every_case = pytest.mark.parametrize("case", CASES + SCALES, ids=lambda case: case.name)


def reference(case: Case, model: Any, batches: Any, terms: Any, statistic: Any) -> dict[str, Any]:
    parameters = {n: p for n, p in canonical_parameters(model).items() if p.requires_grad}
    sums, samples = per_sample_sum_reference(
        model, batches, objective=case.objective, terms=terms, statistic=statistic, parameters=parameters
    )
    return {name: total / samples for name, total in sums.items()}


def summed(case: Case, each: Any, batch: Any) -> Any:
    """Values per position ``[B, ...]`` over each sample: of words, those that a labelled one follows."""
    if not isinstance(case.objective, CausalLM):
        return each.reshape(len(each), -1).sum(1)
    each = each[:, :-1] * (batch["labels"][:, 1:] != -100)
    return each if case.objective.per == "token" else each.sum(1)


def equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    # Of all parameters: the biases of attention keys have importances that are zero up to rounding.
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12 * largest)


@every_case
def test_empirical_fisher(case: Case) -> None:
    model, batches = case.build()
    found = fisher(model, batches, objective=case.objective, kind="empirical")

    def losses(outputs: Any, batch: Any) -> Any:
        yield case.objective.losses(outputs, batch)

    equal(found, reference(case, model, batches, losses, lambda g, w: g**2))
    assert any(bool(value.any()) for value in found.values())


@every_case
def test_exact_fisher(case: Case) -> None:
    model, batches = case.build()

    def factors(outputs: Any, batch: Any) -> Any:
        yield from case.objective.factors(outputs)

    try:
        expected = reference(case, model, batches, factors, lambda g, w: g**2)
    except ConfigurationError:
        with pytest.raises(ConfigurationError):
            fisher(model, batches, objective=case.objective, kind="exact")
        return
    equal(fisher(model, batches, objective=case.objective, kind="exact"), expected)


@every_case
def test_mas(case: Case) -> None:
    model, batches = case.build()
    found = mas(model, batches, objective=case.objective)

    def norm(outputs: Any, batch: Any) -> Any:
        yield summed(case, (outputs**2).sum(-1), batch)

    equal(found, reference(case, model, batches, norm, lambda g, w: g.abs()))


@every_case
def test_taylor(case: Case) -> None:
    model, batches = case.build()
    # Memory for one or two samples at a time: the chunks must add up.
    found = taylor(model, batches, objective=case.objective, output="l2", max_bytes=2000)

    def l2(outputs: Any, batch: Any) -> Any:
        yield summed(case, (outputs.softmax(-1) ** 2).sum(-1), batch)

    def change(g: Any, w: Any) -> Any:
        return torch.maximum(torch.zeros_like(w), g * w + (g * w) ** 2 / 2)

    equal(found, reference(case, model, batches, l2, change))


@every_case
def test_takes_the_fastest_way_that_is_right(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = case.build()
    ways = {RULES}

    def spy(way: str, name: str) -> None:
        true = getattr(engine, name)

        def called(work: Any) -> None:
            true(work)
            ways.add(way)

        monkeypatch.setattr(engine, name, called)

    spy(VMAP, "vectorized")
    spy(ALONE, "alone")
    spy(LOOP, "loop")
    fisher(model, batches, objective=case.objective, kind="empirical")
    assert ways == {RULES, case.way}


@pytest.mark.parametrize("statistic", [SQUARE, ABSOLUTE])
def test_a_multiplicative_statistic_is_one(statistic: Any) -> None:
    a, b = torch.randn(2, 50, dtype=torch.float64)
    torch.testing.assert_close(statistic.of(a) * statistic.of(b), statistic.of(a * b))


def test_the_cases_reach_every_way() -> None:
    assert {case.way for case in CASES} == {RULES, VMAP, ALONE, LOOP}
    assert any(isinstance(case.objective, Loss) for case in CASES)
