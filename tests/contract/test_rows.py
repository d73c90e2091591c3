"""What every method promises about some rows of a parameter."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast import L2SP, ConfigurationError, Freeze, StateError, registry
from tests.contract.cases import (
    build,
    consolidate,
    same_state,
    sgd,
    step,
    train,
)
from tests.contract.growing import PROTECTING, data, grow, learned, made, plain_sgd, small


@PROTECTING
@pytest.mark.parametrize("rows", ["[:3]", "[1:3]", "[2:]"])
def test_rows_of_a_layer(name, coupling, rows):
    if registry.lookup(name).promises & {"through-loss", "between-tasks"}:
        pytest.skip("it takes no part in what single weights do in a step")
    start, stop = (int(text) if text else None for text in rows[1:-1].split(":"))
    inside = slice(start, stop)
    select = [f"head{rows}", "middle"]
    model, method = learned(name, coupling, outputs=4, select=select)
    assert all(t.shape == model.head.weight[inside].shape for t in method.state["head.weight"].values())
    with torch.no_grad():
        if name not in ("packnet", "efficient-packnet", "freeze"):
            model.head.weight += 0.1
    plain = copy.deepcopy(model)
    batch = data(2, 4)[0]
    step(plain, plain_sgd(plain), batch)
    optimizer = plain_sgd(model)
    method.attach(optimizer)
    step(model, optimizer, batch, [method])
    moved = model.head.weight != plain.head.weight
    outside = torch.ones(4, dtype=torch.bool)
    outside[inside] = False
    assert not moved[outside].any()
    owner = method.state["head.weight"].get("owner")
    assert moved[inside].any() or (owner is not None and not owner.any())  # or the task needs none of them

    again = copy.deepcopy(model)
    other = made(name, again, coupling, select=select)
    other.load_state_dict(method.state_dict())
    assert same_state(other.state_dict()["state"], method.state_dict()["state"])
    if start:
        whole = made(name, again, coupling, select="*")
        with pytest.raises(StateError, match=f"from row {start} on, but select names it from row 0"):
            whole.load_state_dict(method.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
    ids=["momentum", "adamw"],
)
def test_rows_are_held_exactly_by_any_optimizer(make):
    model = small(4)
    optimizer = make(model.parameters())
    method = Freeze(model, select=["head.weight[1:3]", "head.bias[1:3]"]).attach(optimizer)
    train(model, optimizer, data(1, 4), method)
    method.consolidate()
    before = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    train(model, optimizer, data(2, 4), method)
    for now, then in zip((model.head.weight, model.head.bias), before, strict=True):
        assert torch.equal(now[1:3], then[1:3])
        assert not (now[0] == then[0]).any() and not (now[3] == then[3]).any()


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("head.weight[-2:]", r"expected rows as \[START:STOP\]"),
        ("head.weight[::2]", r"expected rows as \[START:STOP\]"),
        ("head.weight[3:3]", r"expected rows as \[START:STOP\]"),
        ("head.weight[4:]", r"rows \[4:\] of a parameter of shape \(4, 8\)"),
        (["head.weight[:2]", "head[3:]"], "'head.weight' 2 times"),
        (["head.weight[:2]", "head.weight"], "'head.weight' 2 times"),
        ("haed[:2]", "haed"),
    ],
)
def test_rows_that_cannot_be_are_refused(select, message):
    with pytest.raises(ConfigurationError, match=message):
        L2SP(small(4), strength=1.0, select=select)


def test_rows_may_be_of_several_layers_and_reach_to_an_end_that_grows():
    model = small(4)
    method = Freeze(model, select=["head[2:]", "first"])
    method.consolidate()
    assert method.state["head.weight"]["anchor"].shape == (2, 8) and method.state["first.bias"]["anchor"].shape == (8,)
    grow(model, 6)
    optimizer = plain_sgd(model)
    method.attach(optimizer)
    before = model.head.weight.detach().clone()
    train(model, optimizer, data(2, 6), method)
    assert torch.equal(model.head.weight[2:4], before[2:4]) and not torch.equal(model.head.weight[4:], before[4:])
    method.consolidate()
    assert method.state["head.weight"]["anchor"].shape == (4, 8)


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries() if "merges" in entry.promises])
def test_weights_are_merged_where_they_are_selected_and_were_before(name):
    model = small(4)
    method = build(name, model, select="head[:3]")
    consolidate(model, sgd(model), data(1, 4), method)
    grow(model, 6)
    with torch.no_grad():
        model.head.weight += 1.0
    optimizer = sgd(model)
    method.attach(optimizer)
    train(model, optimizer, data(2, 6), method)
    before = model.head.weight.detach().clone()
    consolidate(model, optimizer, data(2, 6), method)
    assert not torch.equal(model.head.weight[:3], before[:3]) and torch.equal(model.head.weight[3:], before[3:])
