"""ANPyC's pruning: the schedule, what is pruned, and that it stays exactly 0."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from holdfast.errors import ConfigurationError, DataError, ProtectionError
from holdfast.objectives import Classification
from holdfast.penalties.anpyc import ANPyC
from holdfast.projections.pruning import AnpycPruning, percentage, rounds, to_prune
from tests.projections.cases import OPTIMIZERS, data, heads, train

STATED = [50, 40, 32, 25, 20, 16, 12, 9, 7]


def learn(model, optimizer, keep, task: int, *, last: bool = False) -> int:
    """One task with its rounds; how many there were."""
    dtype = next(model.parameters()).dtype
    batches, objective, number = data(task, dtype=dtype), Classification(head=task), 0
    train(model, optimizer, batches, head=task)
    while keep.next_round(batches, objective=objective, last=last):
        number += 1
        train(model, optimizer, batches, head=task)
    keep.consolidate(batches, objective=objective)
    return number


def test_the_stated_percentages_and_the_release_s_rounds() -> None:
    assert [percentage(t) for t in range(9)] == STATED
    assert [rounds(p)[-1] for p in STATED] == STATED
    assert [rounds(p, variant="released")[-1] for p in STATED] == [50, 40, 40, 30, 20, 20, 20, 10, 10]
    assert rounds(25) == [10, 20, 25] and rounds(25, variant="released") == [10, 20, 30]
    assert rounds(7) == [7] and rounds(0) == [] and rounds(50, 25) == [25, 50]


@pytest.mark.parametrize("number", [4, 7, 10, 33])
@pytest.mark.parametrize("percent", [7, 10, 25, 50])
def test_which_weights_are_pruned(number: int, percent: int) -> None:
    g = torch.Generator().manual_seed(number)
    importance = torch.rand(number, generator=g, dtype=torch.float64)
    importance[::4] = 0
    importance[1::8] = 0.5
    eligible = torch.rand(number, generator=g) < 0.7
    chosen = importance[eligible].numpy()
    everything = torch.ones(number, dtype=torch.bool)
    # At least the percentage, and no kept weight is less important than a pruned one.
    mask = to_prune(importance, eligible, percent, first=False, variant="paper")
    assert not (mask & ~eligible).any()
    assert int(mask.sum()) * 100 >= percent * len(chosen)
    assert importance[mask].max() < importance[eligible & ~mask].min()
    # NumPy's percentile is the release's.
    released = to_prune(importance, eligible, percent, first=False, variant="released")
    assert importance[released].tolist() == [v for v in chosen.tolist() if v <= np.percentile(chosen, percent)]
    released = to_prune(importance, everything, percent, first=True, variant="released")
    cut = np.percentile(importance.numpy(), percent)
    assert released.tolist() == [v < cut or v == 0 for v in importance.tolist()]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_frees_what_is_stated_and_holds_it_at_exactly_zero(kind, dtype, variant) -> None:
    model = heads(3, dtype=dtype)
    optimizer = OPTIMIZERS[kind](model.parameters())
    keep = AnpycPruning(model, strength=1.0, variant=variant, select="trunk").attach(optimizer)
    eligible = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.trunk.named_parameters(prefix="trunk")}
    eligible = {name: mask for name, mask in eligible.items() if mask.dim() == 2}
    for task in range(3):
        before = {name: mask.clone() for name, mask in eligible.items()}
        number = learn(model, optimizer, keep, task, last=task == 2)
        assert number == (0 if task == 2 else len(rounds(percentage(task))))
        if task == 2:
            break
        pruned = 0
        for name in eligible:
            eligible[name] = keep.state[name]["pruned"] == 1
            assert not (eligible[name] & ~before[name]).any()  # only among what the task before left pruned
            assert not model.get_parameter(name)[eligible[name]].any(), name
            if variant == "paper":
                assert int(eligible[name].sum()) * 100 >= STATED[task] * int(before[name].sum()), name
            pruned += int(eligible[name].sum())
        report = keep.meta["pruned"][task]
        assert (report["task"], report["percentage"]) == (task, STATED[task])
        assert (report["eligible"], report["pruned"]) == (sum(int(m.sum()) for m in before.values()), pruned)
    # The last task was free to use all weights: what was pruned has moved.
    assert any(model.get_parameter(name)[mask].any() for name, mask in eligible.items())
    assert len(keep.meta["pruned"]) == 2


def test_the_least_important_go_and_the_importance_is_computed_anew() -> None:
    model = heads(2, norm=False, dtype=torch.float64)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = AnpycPruning(model, strength=1.0, select="trunk").attach(optimizer)
    batches = data(0, dtype=torch.float64)
    train(model, optimizer, batches)
    held = None
    for percent in (10, 20, 30, 40, 50):
        omega = plain_importance(model, batches)
        assert keep.next_round(batches, objective=Classification(head=0))
        for name, p in model.trunk.named_parameters(prefix="trunk"):
            if p.dim() < 2:
                assert name not in keep.state
                continue
            values = omega[name].flatten()
            order = values.sort().values
            cut = order[-(-percent * len(order) // 100) - 1]
            assert ((p == 0).flatten() == (values <= cut)).all(), name
        previous, held = held, (model.trunk[0].weight == 0).clone()
        assert previous is None or (held | ~previous).all()
        train(model, optimizer, batches)
        assert ((model.trunk[0].weight == 0) == held).all()


def plain_importance(model, batches) -> dict[str, torch.Tensor]:
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.trunk.named_parameters(prefix="trunk")}
    samples = sum(len(x) for x, _ in batches)
    for row in torch.cat([x for x, _ in batches]):
        p = model(row[None])[0].softmax(1)
        gradients = torch.autograd.grad(-(p * p.log()).sum(), list(model.trunk.parameters()))
        for name, g in zip(total, gradients, strict=True):
            u = g * model.get_parameter(name).detach()
            total[name] += (u + u * u / 2).clamp(min=0) / samples
    return total


def test_the_old_penalty_is_active_while_retraining_and_importances_add_up() -> None:
    model = heads(2, norm=False, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = AnpycPruning(model, strength=3.0, select="trunk").attach(optimizer)
    learn(model, optimizer, keep, 0)
    first = {name: held["importance"].clone() for name, held in keep.state.items()}
    anchor = keep.state["trunk.0.weight"]["anchor"].clone()
    batches, objective = data(1, dtype=torch.float64), Classification(head=1)
    train(model, optimizer, batches, head=1)
    assert keep.next_round(batches, objective=objective)
    (x, y), name = batches[0], "trunk.0.weight"
    weight = model.trunk[0].weight
    pruned = weight == 0
    assert pruned.any()
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x)[1], y).backward()
    expected = weight.grad + 2 * 3.0 * first[name] * (weight.detach() - anchor)
    expected = weight.detach() - 0.1 * expected.masked_fill(pruned, 0.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-15)
    while keep.next_round(batches, objective=objective):
        train(model, optimizer, batches, head=1)
    alone = ANPyC(model, strength=3.0, select="trunk")
    alone.consolidate(batches, objective=objective)
    keep.consolidate(batches, objective=objective)
    for name, held in keep.state.items():
        torch.testing.assert_close(held["importance"], first[name] + alone.state[name]["importance"])
        assert torch.equal(held["anchor"], model.get_parameter(name).detach())


def test_another_tasks_head_is_left_alone() -> None:
    model = heads(2)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = AnpycPruning(model, strength=1.0).attach(optimizer)
    other = copy.deepcopy(model.heads[1].state_dict())
    learn(model, optimizer, keep, 0)
    assert all(torch.equal(t, other[name]) for name, t in model.heads[1].state_dict().items())
    mine = copy.deepcopy(model.heads[0].state_dict())
    learn(model, optimizer, keep, 1)
    assert all(torch.equal(t, mine[name]) for name, t in model.heads[0].state_dict().items())
    assert "heads.1.weight" in keep.meta["pruned"][1]["parameters"]
    assert "heads.0.weight" not in keep.meta["pruned"][1]["parameters"]


def test_skipped_rounds_and_missing_data_are_refused_and_nothing_changes() -> None:
    model = heads()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = AnpycPruning(model, strength=1.0).attach(optimizer)
    batches, objective = data(0), Classification(head=0)
    train(model, optimizer, batches)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ProtectionError, match="needs its rounds"):
        keep.consolidate(batches, objective=objective)
    with pytest.raises(DataError, match="got no batch"):
        keep.next_round(iter(()), objective=objective)
    assert keep.num_tasks == 0 and not keep.state
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert keep.next_round(batches, objective=objective)
    with pytest.raises(ProtectionError, match="no optimizer step since it pruned"):
        keep.next_round(batches, objective=objective)
    train(model, optimizer, batches)
    while keep.next_round(batches, objective=objective):
        train(model, optimizer, batches)
    train(model, OPTIMIZERS["adam"](model.parameters()), batches)
    with pytest.raises(ProtectionError, match="have moved"):
        keep.consolidate(batches, objective=objective)


def test_save_and_load_between_rounds_continues_bit_identically() -> None:
    model = heads()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    keep = AnpycPruning(model, strength=1.0).attach(optimizer)
    learn(model, optimizer, keep, 0)
    batches, objective = data(1), Classification(head=1)
    train(model, optimizer, batches, head=1)
    for _ in range(2):
        assert keep.next_round(batches, objective=objective)
        train(model, optimizer, batches[:1], head=1)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), keep.state_dict()))

    def rest(model, optimizer, keep) -> int:
        train(model, optimizer, batches[1:], head=1)
        number = 0
        while keep.next_round(batches, objective=objective):
            train(model, optimizer, batches, head=1)
            number += 1
        keep.consolidate(batches, objective=objective)
        train(model, optimizer, data(2), head=0)
        return number

    assert rest(model, optimizer, keep) == 2
    other = heads()
    other.load_state_dict(saved[0])
    again = OPTIMIZERS["adamw"](other.parameters())
    again.load_state_dict(saved[1])
    resumed = AnpycPruning(other, strength=1.0).attach(again)
    resumed.load_state_dict(saved[2])
    assert rest(other, again, resumed) == 2
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in model.state_dict().items())
    for name, held in keep.state.items():
        assert all(torch.equal(tensor, resumed.state[name][kind]) for kind, tensor in held.items()), name
    assert keep.meta == resumed.meta


def test_refusals_name_what_is_wrong() -> None:
    for option, value in (("start", 100), ("start", 0), ("decay", 1.5), ("step", 0), ("variant", "x")):
        with pytest.raises(ConfigurationError, match=f"{option} is {value!r}"):
            AnpycPruning(heads(), strength=1.0, **{option: value})
