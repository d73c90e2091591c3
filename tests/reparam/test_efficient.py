"""EfficientPackNet: the reference's masks, what tasks share, and old tasks that answer as they did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast import EfficientPackNet, ProtectionWarning, reparam
from holdfast.errors import ConfigurationError, DataError, ProtectionError
from holdfast.objectives import Classification, Regression
from holdfast.reparam.efficient import DENSITIES, largest, sparsest
from holdfast.testing import CHECKS
from tests.projections.cases import Heads, heads, train
from tests.reparam.test_power import reference

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}


def data(seed: int, batches: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three classes that a linear rule of the task's own gives."""
    draw = torch.Generator().manual_seed(seed)
    rule = torch.randn(5, 3, generator=draw)
    inputs = [torch.randn(16, 5, generator=draw) for _ in range(batches)]
    return [(x, (x @ rule).argmax(1)) for x in inputs]


def learn(model: Heads, optimizer, keep: EfficientPackNet, task: int) -> None:
    for _ in range(10):
        train(model, optimizer, data(task), head=task)
    keep.consolidate(data(task), objective=Classification(head=task), generator=torch.Generator().manual_seed(task))


def answers(model: Heads, index: int) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(data(99, 1)[0][0])[index].clone()


def test_the_masks_and_the_density_are_the_references() -> None:
    chosen = sparsest(reference("perf").tolist(), float(reference("perf")[-1]), float(reference("gamma")))
    assert chosen == int(reference("chosen"))
    mask = largest(reference("w_after_step"), float(reference("densities")[chosen]))
    assert torch.equal(mask, reference("mask_t"))
    assert torch.equal(mask, largest(reference("phi_after_step"), float(reference("densities")[chosen])))
    assert torch.equal(mask | reference("held"), reference("held_next"))
    assert torch.equal(mask & reference("held"), reference("reused"))
    assert sparsest([0.1, 0.2], dense=1.0, gamma=0.9) is None
    assert torch.equal(largest(torch.ones(2, 3), 0.5), torch.tensor([[True] * 3, [False] * 3]))
    assert len(DENSITIES) == 20 and DENSITIES[0] == 0.01 and DENSITIES[-1] == 1.0
    assert DENSITIES[7] == pytest.approx(0.01 * 100 ** (7 / 19), rel=1e-12)


@pytest.mark.filterwarnings("ignore:EfficientPackNet")  # that all weights are taken, as may be after three tasks
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_an_old_task_answers_as_it_did_to_the_last_bit(kind: str, alpha: float) -> None:
    model = heads(3)
    keep = EfficientPackNet(model, alpha=alpha, gamma=1.0)
    optimizer = OPTIMIZERS[kind](model.parameters())
    keep.attach(optimizer)
    learned = []
    for task in range(3):
        learn(model, optimizer, keep, task)
        with keep.task(task):
            learned.append(answers(model, task))
    for task in range(3):
        with keep.task(task):
            assert torch.equal(answers(model, task), learned[task])
    assert not torch.equal(answers(model, 0), learned[0])
    assert len(keep.densities) == 3 and keep.free_share < 1


def test_a_task_takes_the_sparsest_mask_that_keeps_its_accuracy_and_shares_what_is_large() -> None:
    model = heads(2, norm=False)
    keep = EfficientPackNet(model, gamma=0.95)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    keep.attach(optimizer)
    reused = 0
    for task in range(2):
        for _ in range(30):
            train(model, optimizer, data(task), head=task)
        before = copy.deepcopy(model)
        held = {name: state["owner"] > 0 for name, state in keep.state.items()}
        objective = Classification(head=task)
        keep.consolidate(data(task), objective=objective, generator=torch.Generator().manual_seed(1))

        def accuracy(other: nn.Module, task: int = task) -> float:
            right = [(other(x)[task].argmax(1) == y).double() for x, y in data(task)]
            return float(torch.cat(right).mean())

        def pruned(density: float, before: nn.Module = before, task: int = task) -> nn.Module:
            other = reparam.plain(copy.deepcopy(before))
            for name, p in other.named_parameters():
                if p.dim() == 2 and name != f"heads.{1 - task}.weight":
                    k = int(density * p.numel())
                    least = p.detach().abs().flatten().sort(descending=True).values[k - 1] if k else torch.inf
                    p.data[p.abs() < least] = 0.0
            return other

        dense = accuracy(before)
        expected = next(d for d in DENSITIES if accuracy(pruned(d)) >= 0.95 * dense)
        assert keep.densities[task] == expected < 1
        masks = {name: keep.buffers[f"mask.{task}.{name}"] for name in ("trunk.0.weight", "trunk.2.weight")}
        for name, mask in masks.items():
            assert int(mask.sum()) == int(expected * mask.numel())
            union = mask | held.get(name, torch.zeros_like(mask))
            assert torch.equal(keep.state[name]["owner"] > 0, union)
            reused += int((mask & held[name]).sum()) if name in held else 0
    assert reused > 0


def test_what_no_task_owns_is_drawn_anew_and_what_one_owns_stays() -> None:
    found = []
    for seed in (1, 1, 2):
        model = heads(1)
        keep = EfficientPackNet(model, alpha=3.0, gamma=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        keep.attach(optimizer)
        train(model, optimizer, data(0))
        before = keep.params["trunk.3.weight"].detach().clone()
        keep.consolidate(data(0), objective=Classification(head=0), generator=torch.Generator().manual_seed(seed))
        owned = keep.state["trunk.3.weight"]["owner"] > 0
        after = keep.params["trunk.3.weight"].detach().clone()
        assert torch.equal(after[owned], before[owned])
        assert not bool((after == before)[~owned].any())
        assert float(model.trunk[3].weight.detach()[~owned].abs().max()) <= 7**-0.5 + 1e-6
        found.append(after)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_heads_that_are_named_are_owned_whole() -> None:
    model = heads(2)
    keep = EfficientPackNet(model, gamma=0.5, head="heads")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    learn(model, optimizer, keep, 0)
    assert bool((keep.state["heads.0.weight"]["owner"] == 1).all())
    assert "heads.1.weight" not in keep.state and "mask.0.heads.0.weight" not in keep.buffers


def test_a_new_head_is_powerpropagated_when_it_is_found_and_a_state_goes_on() -> None:
    model = heads(1)
    keep = EfficientPackNet(model, gamma=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    learn(model, optimizer, keep, 0)
    with keep.task(0):
        expected = answers(model, 0)
    model.heads.append(nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    assert reparam.weights.reparametrised(model.heads[1]) is not None
    train(model, optimizer, data(1), head=1)
    again = heads(2)
    other = EfficientPackNet(again, gamma=0.5)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(keep.state_dict())
    with other.task(0):
        assert torch.equal(answers(again, 0), expected)


def test_when_everything_is_used_up_it_says_so() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    keep = EfficientPackNet(model, gamma=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    x = torch.randn(400, 5)
    batches = [(x, (x @ torch.randn(5, 3)).argmax(1))]
    for _ in range(50):
        nn.functional.cross_entropy(model(x), batches[0][1]).backward()
        optimizer.step()
    (y,) = (model(x).argmax(1),)
    with pytest.warns(ProtectionWarning, match="task 1 took all weights that were left"):
        keep.consolidate([(x, y)])
    assert keep.densities == (1.0,) and keep.free_share == 0


def learned() -> tuple[Heads, EfficientPackNet]:
    model = heads(1)
    keep = EfficientPackNet(model)
    keep.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    return model, keep


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: EfficientPackNet(heads(1), alpha=0.5), "alpha is 0.5"),
        (lambda: EfficientPackNet(heads(1), gamma=0.0), "gamma is 0.0; expected a share above 0, up to 1"),
        (lambda: EfficientPackNet(heads(1), gamma=1.5), "gamma is 1.5"),
        (
            lambda: EfficientPackNet(reparam.powerpropagate(heads(1), 3.0), alpha=2.0),
            "alpha is 2, and the model is powerpropagated with 3",
        ),
        (
            lambda: EfficientPackNet(heads(1)).consolidate(data(0), objective=Regression()),
            "the objective is Regression; expected a Classification",
        ),
        (lambda: learned()[1].task(-1), "index is -1"),
    ],
)
def test_what_is_refused(act, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        act()


def test_labels_that_are_none_and_weights_that_moved_are_refused() -> None:
    model = heads(1)
    keep = EfficientPackNet(model, gamma=0.5)
    x, y = data(0)[0]
    with pytest.raises(DataError, match="no batch has a label"):
        keep.consolidate([(x, torch.full_like(y, -100))], objective=Classification(head=0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    learn(model, optimizer, keep, 0)
    train(model, optimizer, data(1))
    with torch.no_grad():
        model.trunk[0].bias += 1
    with pytest.raises(ProtectionError, match=r"trunk\.0\.bias"):
        keep.consolidate(data(0), objective=Classification(head=0))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_every_promise_with_powers(check) -> None:
    check(lambda model: EfficientPackNet(model, alpha=2.0, gamma=0.8))


def test_it_says_that_a_first_task_trains_otherwise_exactly_where_it_does() -> None:
    x, y = data(0, 1)[0]
    for alpha, said in ((1.0, False), (2.0, True)):
        plain, model = heads(1), heads(1)
        keep = EfficientPackNet(model, alpha=alpha)
        assert keep.reparametrises is said
        for each in (plain, model):
            optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
            nn.functional.cross_entropy(each(x)[0], y).backward()
            optimizer.step()
        assert torch.equal(plain.trunk[0].weight, model.trunk[0].weight) is not said
