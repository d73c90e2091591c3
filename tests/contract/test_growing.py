"""What every method promises about a parameter that grows.

Old entries are protected where they lie, new ones are free, and the next consolidate remembers these as well.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import CLASSP, EWC, L2SP, LwF, StateError, registry
from holdfast.importance import fisher
from holdfast.objectives import Classification
from holdfast.penalties.quadratic import QuadraticPenalty
from tests.contract.cases import (
    build,
    consolidate,
    same,
    same_state,
    sgd,
    step,
    train,
    weights,
)
from tests.contract.growing import DOUBLE, EVERY, PROTECTING, data, grow, learned, made, plain_sgd, small


@PROTECTING
def test_new_rows_are_free_and_old_ones_are_protected(name, coupling):
    model, method = learned(name, coupling)
    before = {kind: t.clone() for kind, t in method.state.get("head.weight", {}).items()}
    grow(model, 4)
    with torch.no_grad():
        if name not in ("packnet", "efficient-packnet", "freeze"):  # what is held to the last bit stands where it stood
            model.head.weight += 0.1  # away from the anchor, where a penalty pulls
            model.middle.weight += 0.1
    plain = copy.deepcopy(model)
    batch = data(2, 4)[0]
    step(plain, plain_sgd(plain), batch)
    optimizer = plain_sgd(model)
    method.attach(optimizer)
    start = model.head.weight.detach().clone()
    step(model, optimizer, batch, [method])
    assert torch.equal(model.head.weight[2:], plain.head.weight[2:])
    assert torch.equal(model.head.bias[2:], plain.head.bias[2:])
    if "between-tasks" in registry.lookup(name).promises:
        return
    old, free = model.head.weight[:2], plain.head.weight[:2]
    assert not torch.equal(old, free)
    if name in ("packnet", "efficient-packnet", "freeze"):
        held = before.get("owner", torch.ones(2, 8)) > 0
        assert torch.equal(old[held], start[:2][held]) and held.any()
    elif isinstance(method, QuadraticPenalty) and name != "anastrophic":
        pull = 2 * method.factor * before.get("importance", torch.ones_like(start[:2]))
        gap = start[:2] - before["anchor"] if coupling != "proximal" else free - before["anchor"]
        moved = free - 0.05 * pull * gap
        if coupling == "proximal":
            moved = before["anchor"] + gap / (1 + 0.05 * pull)
        torch.testing.assert_close(old, moved, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:EfficientPackNet")
@PROTECTING
def test_a_head_that_grows_twice_is_remembered_whole(name, coupling):
    model, method = learned(name, coupling)
    for seed, outputs in ((2, 4), (3, 6)):
        grow(model, outputs)
        optimizer = sgd(model)
        method.attach(optimizer)
        train(model, optimizer, data(seed, outputs), method)
        held = method.state.get("head.weight", {})
        if "path-integral" not in registry.lookup(name).promises:
            assert all(t.shape[0] == outputs - 2 for t in held.values())
        consolidate(model, optimizer, data(seed, outputs), method)
        held = method.state.get("head.weight", {})
        assert held or registry.lookup(name).promises & {"through-loss", "between-tasks"}
        assert all(t.shape == model.head.weight.shape for t in held.values())
        assert all(t.shape == model.head.bias.shape for t in method.state.get("head.bias", {}).values())
        assert bool(torch.isfinite(method.penalty(data(seed, outputs)[0])))


@EVERY
def test_a_state_from_before_growing_goes_on_after_it_bit_for_bit(name, coupling):
    model, method = learned(name, coupling)
    grow(model, 4)
    optimizer = sgd(model)
    method.attach(optimizer)
    batches = data(2, 4)
    train(model, optimizer, batches[:2], method)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), method.state_dict()))
    train(model, optimizer, batches[2:], method)
    consolidate(model, optimizer, batches, method)

    again = small(4, seed=5)
    resumed = made(name, again, coupling)
    again.load_state_dict(saved[0])
    other = sgd(again)
    resumed.attach(other)
    other.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    train(again, other, batches[2:], resumed)
    consolidate(again, other, batches, resumed)
    assert same(weights(model), weights(again))
    assert same_state(method.state_dict(), resumed.state_dict())


@PROTECTING
def test_a_parameter_that_shrank_is_refused(name, coupling):
    model, method = learned(name, coupling, outputs=4)
    saved = method.state_dict()
    model.head = nn.Linear(8, 2).double()
    if registry.lookup(name).promises & {"through-loss", "between-tasks"} and not method.state:
        return  # its teacher has a head of its own, or it remembers classes alone
    with pytest.raises(StateError, match=r"parameter 'head.weight' has shape \(4, 8\), but the parameter has \(2, 8\)"):
        method.attach(sgd(model))
    with pytest.raises(StateError, match=r"head\.weight"):
        made(name, model, coupling).load_state_dict(saved)


def test_the_sum_over_tasks_is_exact_while_a_head_grows():
    """The folded penalty against one dense term per task, each of the shape that the head had."""
    model = small(2)
    method = EWC(model, strength=3.0, fisher="exact")
    terms = []
    for seed, outputs in ((1, 2), (2, 4), (3, 6)):
        if outputs > 2:
            grow(model, outputs)
        optimizer = plain_sgd(model)
        method.attach(optimizer)
        train(model, optimizer, data(seed, outputs), method)
        found = fisher(model, data(seed, outputs), objective=Classification(), kind="exact")
        terms.append({name: (found[name], p.detach().clone()) for name, p in method.params.items()})
        method.consolidate(data(seed, outputs))
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn(p.shape, dtype=DOUBLE)
    total = 0.0
    for term in terms:
        for name, (F, anchor) in term.items():
            here = method.params[name].detach()[tuple(slice(n) for n in F.shape)]
            total += 1.5 * float((F * (here - anchor).square()).sum())
    assert float(method.value().detach()) == pytest.approx(total, rel=1e-10)


def test_inputs_that_grow_are_a_leading_block_as_well():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).double()
    method = L2SP(model, strength=2.0)
    method.consolidate()
    anchor = model[1].weight.detach().clone()
    wider = nn.Linear(5, 2).double()
    wider.weight.data[:, :3] = anchor + 0.5
    model[0], model[1] = nn.Linear(2, 5).double(), wider
    optimizer = plain_sgd(model)
    method.attach(optimizer)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    start = model[1].weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model[1].weight[:, :3], start[:, :3] - 0.05 * 2.0 * 0.5)
    assert torch.equal(model[1].weight[:, 3:], start[:, 3:])


@pytest.mark.parametrize("shape", [(2, 3, 1), (3,)])
def test_another_number_of_dimensions_is_no_growth(shape):
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, 3))
    method = L2SP(model, strength=1.0)
    method.consolidate()
    model.weight = nn.Parameter(torch.zeros(shape))
    with pytest.raises(StateError, match=r"has shape \(2, 3\), but"):
        method.attach(plain_sgd(model))


class Language(nn.Module):
    """Words in, words out, by one tied matrix."""

    def __init__(self, words):
        super().__init__()
        self.words = nn.Embedding(words, 4)
        self.head = nn.Linear(4, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, inputs):
        return self.head(torch.tanh(self.words(inputs).mean(1)))


def more_words(model, words):
    old = model.words.weight.detach()
    model.words = nn.Embedding(words, 4).double()
    model.words.weight.data[: len(old)] = old
    model.head.weight = model.words.weight
    model.head.out_features = words


def sentences(words):
    return [(torch.randint(0, words, (6, 3)), torch.randint(0, words, (6,))) for _ in range(3)]


@PROTECTING
def test_a_tied_vocabulary_that_grows(name, coupling):
    if name == "weight-balancing":
        pytest.skip("it refuses a last layer that is another layer, too")
    if name == "hft":
        pytest.skip("it refuses a model of one layer, which has no half")
    model = Language(5).double()
    optimizer = sgd(model)
    method = made(name, model, coupling).attach(optimizer)
    batches = sentences(5)
    train(model, optimizer, batches, method)
    consolidate(model, optimizer, batches, method)
    more_words(model, 7)
    optimizer = sgd(model)
    method.attach(optimizer)
    batches = sentences(7)
    train(model, optimizer, batches, method)
    consolidate(model, optimizer, batches, method)
    assert method.num_tasks == 2
    assert list(method.params) == ["words.weight"]
    assert all(t.shape == (7, 4) for t in method.state.get("words.weight", {}).values())


def test_a_teacher_with_fewer_words_answers_for_those_that_it_knew():
    model = Language(5).double()
    method = LwF(model, strength=1.0, temperature=1.0)
    method.consolidate()
    old = copy.deepcopy(model)
    more_words(model, 7)
    method.attach(plain_sgd(model))
    with torch.no_grad():
        model.words.weight += 0.1 * torch.randn(7, 4, dtype=DOUBLE)
    inputs = torch.randint(0, 5, (6, 3))
    known = method.penalty((inputs, None)).detach()
    p, q = model(inputs)[:, :5].log_softmax(1), old(inputs).log_softmax(1)
    torch.testing.assert_close(known, (q.exp() * (q - p)).sum(1).mean())
    assert bool(torch.isfinite(method.penalty((torch.full((6, 3), 6), None))))
    again = LwF(model, strength=1.0, temperature=1.0)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.penalty((inputs, None)), method.penalty((inputs, None)))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.bfloat16])
def test_an_optimizer_that_is_the_memory_keeps_it_where_a_head_grows(dtype):
    model = small(2).to(dtype)
    optimizer = CLASSP(model.parameters(), lr=0.05, threshold=1e-4)
    train(model, optimizer, [(x.to(dtype), y) for x, y in data(1, 2)])
    saved = copy.deepcopy(optimizer.state_dict())
    grow(model, 4)
    model.to(dtype)
    other = CLASSP(model.parameters(), lr=0.05, threshold=1e-4)
    other.load_state_dict(saved)
    old = {id(p): optimizer.state[p]["sum"] for p in optimizer.param_groups[0]["params"] if p in optimizer.state}
    found = other.state[model.head.weight]["sum"]
    before = next(t for t in old.values() if t.shape == (2, 8))
    assert torch.equal(found[:2], before) and not found[2:].any() and before.any()
    train(model, other, [(x.to(dtype), y) for x, y in data(2, 4)])
    assert found[2:].any()
    model.head = nn.Linear(8, 1).to(dtype)
    with pytest.raises(StateError, match=r"shape \(2, 8\), expected its parameter's \(1, 8\)"):
        CLASSP(model.parameters()).load_state_dict(saved)


def test_steps_are_kept_out_of_earlier_inputs_while_layers_grow():
    """The old rows of a layer answer earlier inputs as before, however many rows and inputs are new."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    method = build("gpm", model, threshold=1.0)
    inputs = torch.randn(3, 6, dtype=DOUBLE)
    batch = inputs, torch.tensor([0, 1, 1])
    method.consolidate([batch])
    first = model[0](inputs).detach()
    wider = nn.Linear(6, 7, bias=False).double()
    wider.weight.data[:4] = model[0].weight.data
    head = nn.Linear(7, 3, bias=False).double()
    head.weight.data[:2, :4] = model[1].weight.data
    model[0], model[1] = wider, head
    for seed in (1, 2):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        method.attach(optimizer)
        more = torch.randn(2, 6, dtype=DOUBLE), torch.tensor([2, 0])
        train(model, optimizer, [more] * 3, method)
        torch.testing.assert_close(model[0](inputs)[:, :4], first, rtol=1e-9, atol=1e-10)
        method.consolidate([more])
        assert method.state["1.weight"]["anchor"].shape == (3, 7) and method.buffers["basis.1.weight"].shape[0] == 7
        assert seed == 1 or method.fullness["0.weight"] == 1
