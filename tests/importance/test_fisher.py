"""Which Fisher is computed when, and in which precision."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.importance import fisher, mas, taylor
from holdfast.objectives import CausalLM, Classification, Loss, MultiLabel, Regression


def data(outputs: int = 3, size: int = 8) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return [(x, torch.randint(outputs, (size,), generator=generator))]


def linear(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, outputs).double()


def losses(outputs: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(outputs, batch[1], reduction="none")


def test_exact_fisher_of_a_linear_softmax() -> None:
    model, [(x, y)] = linear(), data()
    p = model(x).softmax(-1)
    # E_y (p - e_y)^2 = p (1 - p) for each output, times the squared input
    expected = (p * (1 - p)).T @ x**2 / len(x)
    torch.testing.assert_close(fisher(model, [(x, y)])["weight"], expected.detach(), rtol=1e-12, atol=0)


def test_sampled_fisher_tends_to_the_exact_one() -> None:
    model, [(x, y)] = linear(), data()
    many = [(x.repeat(4000, 1), y.repeat(4000))]
    exact = fisher(model, [(x, y)])
    sampled = fisher(model, many, kind="sampled", generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled, exact, rtol=0.1, atol=0)
    assert not torch.allclose(sampled["weight"], exact["weight"], rtol=1e-6)


@pytest.mark.parametrize("objective", [Regression(), MultiLabel()])
def test_sampled_fisher_of_other_distributions_tends_to_the_exact_one(objective: Any) -> None:
    model, [(x, _)] = linear(), data()
    y = torch.zeros(8, 3, dtype=torch.float64)
    exact = fisher(model, [(x, y)], objective=objective)
    many = [(x.repeat(2000, 1), y.repeat(2000, 1))]
    generator = torch.Generator().manual_seed(0)
    sampled = fisher(model, many, objective=objective, kind="sampled", generator=generator)
    torch.testing.assert_close(sampled, exact, rtol=0.1, atol=0)


def test_a_generator_decides_the_draw() -> None:
    def draw(seed: int) -> Tensor:
        return fisher(linear(), data(), kind="sampled", generator=torch.Generator().manual_seed(seed))["weight"]

    torch.testing.assert_close(draw(3), draw(3), rtol=0, atol=0)
    assert not torch.equal(draw(3), draw(4))


@pytest.mark.parametrize(("outputs", "kind"), [(20, "exact"), (21, "sampled")])
def test_auto_is_exact_up_to_twenty_outputs(outputs: int, kind: Any) -> None:
    model, batches = linear(outputs), data(outputs)
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    found = fisher(model, batches, generator=seeds[0])
    torch.testing.assert_close(found, fisher(model, batches, kind=kind, generator=seeds[1]), rtol=0, atol=0)


@pytest.mark.parametrize("objective", [losses, Loss(losses)])
def test_a_bare_callable_has_the_empirical_fisher_only(objective: Any) -> None:
    model, batches = linear(), data()
    expected = fisher(model, batches, kind="empirical")
    torch.testing.assert_close(fisher(model, batches, objective=objective), expected)
    for kind in ("exact", "sampled"):
        with pytest.raises(
            ConfigurationError, match="is a bare callable, which gives losses only; expected 'empirical'"
        ):
            fisher(model, batches, objective=objective, kind=kind)


def test_auto_samples_tokens() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).double()
    ids = torch.randint(5, (3, 6))
    found = fisher(model, [(ids, ids)], objective=CausalLM(per="token"), generator=torch.Generator().manual_seed(0))
    assert bool(found["1.weight"].any())


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).double()
    ids = torch.randint(5, (3, 6))
    padded = torch.cat([ids, torch.zeros(3, 2, dtype=ids.dtype)], 1)
    labels = torch.cat([ids, torch.full((3, 2), -100)], 1)
    objective = CausalLM(per="token")
    expected = fisher(model, [(ids, ids)], objective=objective, kind="empirical")
    found = fisher(model, [(padded, labels)], objective=objective, kind="empirical")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


def test_batched_is_not_a_fisher_because_it_shrinks_with_the_batch() -> None:
    model, [(x, y)] = linear(), data(size=64)
    batched = fisher(model, [(x, y)], kind="batched")["weight"].sum()
    assert batched < 0.2 * fisher(model, [(x, y)], kind="empirical")["weight"].sum()


@pytest.mark.parametrize("estimate", [fisher, mas, taylor])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_are_summed_in_float32(estimate: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(512, 6).to(dtype)
    y = torch.randint(3, (512,))
    narrow = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    for p in wide.parameters():  # no bias of 0, which has no Taylor importance
        p.data += 0.1 * torch.randn_like(p)
    narrow.load_state_dict(wide.state_dict())
    wide.load_state_dict(narrow.state_dict())  # the same numbers
    found = estimate(narrow, [(x, y)] * 4)
    expected = estimate(wide, [(x.double(), y)] * 4)
    for name, value in found.items():
        assert value.dtype == torch.float32
        error = torch.linalg.vector_norm(value - expected[name]) / torch.linalg.vector_norm(expected[name])
        # Each gradient is rounded to 8 or 11 bits; a sum of 2048 in that precision would stop growing.
        assert error < 0.05


@pytest.mark.parametrize("estimate", [fisher, mas, taylor])
def test_dtype_of_the_result(estimate: Any) -> None:
    assert estimate(linear(), data())["weight"].dtype == torch.float64
    found = estimate(linear(), data(), dtype=torch.bfloat16)["weight"]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), estimate(linear(), data())["weight"], rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("estimate", "options", "sentence"),
    [
        (fisher, {"kind": "true"}, "kind is 'true'; expected one of 'auto'"),
        (mas, {"form": "l1"}, "form is 'l1'; expected one of 'squared_norm'"),
        (taylor, {"output": "logits"}, "output is 'logits'"),
        (taylor, {"reduction": "mean"}, "reduction is 'mean'"),
        (taylor, {"sign": "plus"}, "sign is 'plus'"),
        (taylor, {"order": 3}, "order is 3; expected 1 or 2"),
        (fisher, {"objective": 5}, "objective is 5"),
    ],
)
def test_wrong_options_are_refused(estimate: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        estimate(linear(), data(), **options)


@pytest.mark.parametrize("estimate", [fisher, mas, taylor])
@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        *(("max_bytes", value, "a whole number of bytes, >= 1") for value in ("1GB", -1, 0, float("nan"), 1e9, True)),
        *(("dtype", value, "torch.bfloat16, ") for value in (torch.int32, torch.float16, "float32")),
        ("model", "x", "a torch.nn.Module"),
        ("model", None, "a torch.nn.Module"),
        ("batches", None, "an iterable of batches"),
        ("batches", 3, "an iterable of batches"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(estimate: Any, option: str, value: Any, expected: str) -> None:
    given = {"model": linear(), "batches": data(), option: value}
    error = DataError if option == "batches" else ConfigurationError
    with pytest.raises(error, match=rf"{option} is {re.escape(repr(value))}; expected {expected}"):
        estimate(**given)


def test_a_seed_is_no_generator() -> None:
    with pytest.raises(ConfigurationError, match=r"generator is 3; expected a torch\.Generator or None"):
        fisher(linear(), data(), generator=3)  # type: ignore[arg-type]  # the mistake under test


def test_only_the_objective_s_outputs_count() -> None:
    model, batches = linear(4), data(2)
    found = fisher(model, batches, objective=Classification(classes=(0, 1)))["weight"]
    assert bool(found[:2].all()) and not bool(found[2:].any())
