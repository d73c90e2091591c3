"""Every registry entry says the truth about itself; `tests/contract/` holds the methods to their promises.

- `contract/test_training.py`: what a method promises about the steps of training;
- `contract/test_consolidating.py`: what it promises about consolidate, and where its state fits;
- `contract/test_numerics.py`: closed forms, resting points, scaled gradients and skipped steps.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch

from holdfast import ConfigurationError, Method, registry
from holdfast.registry import Choice, Range
from tests.contract.cases import build, consolidate, network, same, same_state, sgd, step, task, train, weights

ENTRIES = registry.entries()
ROOT = Path(__file__).parents[1]

entry_of = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
optimizers = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry.kind == "optimizer"], ids=lambda entry: entry.name
)
methods = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry.kind == "method"], ids=lambda entry: entry.name
)


@entry_of
def test_it_has_a_page(entry):
    page = ROOT / "docs" / "methods" / f"{entry.name}.md"
    assert "source" in page.read_text(encoding="utf-8").lower()


def _arguments(build) -> dict[str, inspect.Parameter]:
    """By name: what a class and those that it hands its keywords on to take."""
    found: dict[str, inspect.Parameter] = {}
    for kind in reversed(build.__mro__ if isinstance(build, type) else [build]):
        if kind is not object:
            found |= inspect.signature(kind).parameters
    return found


@entry_of
def test_its_defaults_are_arguments_and_its_search_is_of_them(entry):
    if entry.build is None:
        assert not entry.settings
        return
    arguments = _arguments(entry.build)
    assert set(entry.settings) <= set(arguments)
    assert all(arguments[key].default == value for key, value in entry.further.items())  # it may be left out
    assert set(entry.search) <= set(entry.defaults)
    for key, where in entry.search.items():
        default = entry.defaults[key]
        if isinstance(where, Range):
            if (key, default) == ("strength", "auto"):  # no point of the range: a search tries it first
                default = where.low
                assert entry.auto_fraction is not None
            assert where.low <= default <= where.high or default == 0
            assert where.low > 0 or not where.log
        else:
            assert isinstance(where, Choice)
            assert default in where.values


@methods
def test_it_needs_data_and_steps_exactly_if_it_says_so(entry):
    assert entry.build.needs_data is entry.needs_data
    assert entry.build.trains is entry.trains
    assert issubclass(entry.build, Method)


def test_what_a_protocol_alone_needs_is_found_and_not_listed():
    hidden = registry.lookup("ewc-foreign")
    assert hidden not in ENTRIES and not hidden.listed
    with pytest.raises(ConfigurationError) as caught:
        registry.lookup("ewc-foreing")
    assert "ewc-foreign" not in str(caught.value)


@methods
def test_it_bounds_any_weight_exactly_if_it_says_so(entry):
    assert entry.build.bounds is ("bounds" in entry.promises)


@methods
def test_it_acts_through_the_loss_exactly_if_it_says_so(entry):
    assert build(entry.name, network()).needs_penalty is ("through-loss" in entry.promises)


@methods
def test_it_asks_for_retraining_exactly_if_it_says_so(entry):
    model = network()
    optimizer = sgd(model)
    method = build(entry.name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    assert method.next_round(task(1)) is ("retrains" in entry.promises)


@methods
def test_what_must_hold_exactly_holds(entry):
    if "exact-weights" not in entry.promises:
        pytest.skip("it holds no weight exactly")
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    method = build(entry.name, model).attach(optimizer)
    train(model, optimizer, task(1), method)
    if "retrains" in entry.promises:
        assert method.next_round(task(1))
        zero = {n: p == 0 for n, p in model.named_parameters() if (p == 0).any()}
        assert zero
        train(model, optimizer, task(2), method)
        assert all((dict(model.named_parameters())[n][mask] == 0).all() for n, mask in zero.items())
        return
    consolidate(model, optimizer, task(1), method)
    held = {n: (t["anchor"].clone(), t.get("owner", torch.tensor(1)) > 0) for n, t in method.state.items()}
    assert any(mask.any() for _, mask in held.values())
    train(model, optimizer, task(2), method)
    moved = weights(model)
    assert all(torch.equal(moved[n] * mask, anchor * mask) for n, (anchor, mask) in held.items())


@optimizers
def test_an_optimizer_resumes_bit_for_bit(entry):
    model = network()
    optimizer = entry.build(model.parameters(), **entry.defaults)
    train(model, optimizer, task(1))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, task(2))
    again = network(seed=4)
    again.load_state_dict(saved[0])
    other = entry.build(again.parameters(), **entry.defaults)
    other.load_state_dict(saved[1])
    train(again, other, task(2))
    assert same(weights(model), weights(again))
    assert same_state(optimizer.state_dict(), other.state_dict())


@optimizers
def test_an_optimizer_takes_a_closure(entry):
    found = []
    for with_closure in (False, True):
        model = network()
        optimizer = entry.build(model.parameters(), **entry.defaults)
        for batch in task(1):
            if not with_closure:
                step(model, optimizer, batch)
                continue

            def closure(batch=batch, model=model, optimizer=optimizer):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
                loss.backward()
                return loss

            assert optimizer.step(closure) is not None
        found.append(weights(model))
    assert same(*found)
