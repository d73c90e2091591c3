"""PackNet: what a task owns never moves, and each task is tested with its own weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast.errors import ConfigurationError, ProtectionError
from holdfast.projections.packnet import PackNet
from tests.projections.cases import OPTIMIZERS, data, heads, train


def learn(model, optimizer, keep, task: int, *, last: bool = False) -> None:
    dtype = next(model.parameters()).dtype
    train(model, optimizer, data(task, dtype=dtype), head=task)
    while keep.next_round(last=last):
        train(model, optimizer, data(10 + task, dtype=dtype), head=task)
    keep.consolidate()


def answers(model, index: int) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(data(99, 1, next(model.parameters()).dtype)[0][0])[index].clone()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_old_task_answers_as_it_did_to_the_last_bit(kind, dtype) -> None:
    model = heads(3, dtype=dtype)
    optimizer = OPTIMIZERS[kind](model.parameters())
    keep = PackNet(model, prune=0.6).attach(optimizer)
    learned = []
    for task in range(3):
        learn(model, optimizer, keep, task, last=task == 2)
        with keep.task(task):
            learned.append(answers(model, task))
    for task in range(3):
        with keep.task(task):
            assert torch.equal(answers(model, task), learned[task])
    # Without its context the first task sees the weights of the others.
    assert not torch.equal(answers(model, 0), learned[0])


def test_the_smallest_free_weights_of_each_layer_are_pruned() -> None:
    model = heads()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model, prune=(0.5, 0.25)).attach(optimizer)
    free = {name: [True] * p.numel() for name, p in model.named_parameters() if p.dim() == 2}
    for task, share in ((0, 0.5), (1, 0.25)):
        train(model, optimizer, data(task), head=task)
        sizes = {name: model.get_parameter(name).detach().abs().flatten().tolist() for name in free}
        assert keep.next_round()
        for name in free:
            if name == f"heads.{1 - task}.weight":  # the other task's head
                continue
            candidates = sorted(i for i, is_free in enumerate(free[name]) if is_free)
            number = -(-len(candidates) * int(share * 100) // 100)
            pruned = sorted(sorted(candidates, key=lambda i, n=name: sizes[n][i])[:number])
            owner = keep.state[name]["owner"].flatten()
            assert torch.nonzero(owner == -1).flatten().tolist() == pruned, name
            assert not model.get_parameter(name).flatten()[pruned].any()
            free[name] = [i in pruned for i in range(len(free[name]))]
        train(model, optimizer, data(10 + task), head=task)
        assert not keep.next_round() and not keep.next_round()
        keep.consolidate()
    owner = keep.state["trunk.0.weight"]["owner"]
    assert sorted(owner.unique().tolist()) == [0, 1, 2]
    assert keep.free_share < 0.25


def test_what_a_task_does_not_train_it_neither_prunes_nor_owns() -> None:
    model = heads()
    model.register_parameter("idle", nn.Parameter(torch.ones(2, 2)))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    other = copy.deepcopy(model.heads[1].state_dict())
    learn(model, optimizer, keep, 0)
    assert not {"heads.1.weight", "heads.1.bias", "idle"} & keep.state.keys()
    assert all(torch.equal(t, other[name]) for name, t in model.heads[1].state_dict().items())
    learn(model, optimizer, keep, 1)
    assert set(keep.state["heads.0.weight"]["owner"].unique().tolist()) == {0, 1}
    assert set(keep.state["heads.1.bias"]["owner"].tolist()) == {2}
    assert set(keep.state["trunk.0.bias"]["owner"].tolist()) == {1}
    assert set(keep.state["trunk.1.weight"]["owner"].tolist()) == {1}


@pytest.mark.parametrize("last", [False, True])
def test_a_head_added_after_attach_is_owned_by_the_task_that_trained_it(last: bool) -> None:
    model = heads(1)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    learn(model, optimizer, keep, 0)
    model.heads.append(nn.Linear(6, 3))
    optimizer.add_param_group({"params": list(model.heads[1].parameters())})
    learn(model, optimizer, keep, 1, last=last)
    assert set(keep.state["heads.1.bias"]["owner"].tolist()) == {2}
    free = keep.state["heads.1.weight"]["owner"] == 0
    assert int(free.sum()) == (0 if last else 9)
    with keep.task(1):
        before = answers(model, 1)
    train(model, optimizer, data(2), head=1)
    with keep.task(1):
        assert torch.equal(answers(model, 1), before)


def test_later_weights_are_zero_in_a_tasks_context_and_come_back_exactly() -> None:
    model = heads(3)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    for task in range(2):
        learn(model, optimizer, keep, task)
    train(model, optimizer, data(2), head=2)
    before = copy.deepcopy(model.state_dict())
    owner = keep.state["trunk.0.weight"]["owner"]
    for index, hidden in ((0, owner != 1), (1, owner == 0), (2, torch.zeros_like(owner, dtype=torch.bool))):
        with pytest.raises(KeyError, match="out"), keep.task(index):
            expected = before["trunk.0.weight"].masked_fill(hidden, 0.0)
            assert torch.equal(model.trunk[0].weight, expected)
            raise KeyError("out")
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(ConfigurationError, match="index is -1"):
        keep.task(-1)


def test_the_last_task_keeps_all_that_is_free() -> None:
    model = heads()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    learn(model, optimizer, keep, 0)
    assert 0.4 < keep.free_share < 0.6
    learn(model, optimizer, keep, 1, last=True)
    assert set(keep.state["trunk.0.weight"]["owner"].unique().tolist()) == {1, 2}


def test_skipped_rounds_are_refused_and_nothing_changes() -> None:
    model = heads()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    train(model, optimizer, data(0))
    with pytest.raises(ProtectionError, match="needs its rounds"):
        keep.consolidate()
    assert keep.num_tasks == 0 and not keep.state
    assert keep.next_round()
    with pytest.raises(ProtectionError, match="no optimizer step since it pruned"):
        keep.next_round()
    with pytest.raises(ProtectionError, match="needs its rounds"):
        keep.consolidate()


def test_weights_that_moved_behind_its_back_are_noticed() -> None:
    model = heads()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    train(model, optimizer, data(0))
    assert keep.next_round()
    train(model, optimizer, data(1))
    assert not keep.next_round()
    train(model, OPTIMIZERS["adam"](model.parameters()), data(2))
    with pytest.raises(ProtectionError, match=r"'trunk.*have moved"):
        keep.consolidate()


def test_save_and_load_between_pruning_and_retraining_continues_bit_identically() -> None:
    model = heads()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    learn(model, optimizer, keep, 0)
    train(model, optimizer, data(1), head=1)
    assert keep.next_round()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), keep.state_dict()))

    def rest(model, optimizer, keep) -> None:
        train(model, optimizer, data(11), head=1)
        while keep.next_round():
            raise AssertionError
        keep.consolidate()
        train(model, optimizer, data(2), head=0)

    rest(model, optimizer, keep)
    other = heads()
    other.load_state_dict(saved[0])
    again = OPTIMIZERS["adam"](other.parameters())
    again.load_state_dict(saved[1])
    resumed = PackNet(other).attach(again)
    resumed.load_state_dict(saved[2])
    rest(other, again, resumed)
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in model.state_dict().items())
    for name, held in keep.state.items():
        assert all(torch.equal(tensor, resumed.state[name][kind]) for kind, tensor in held.items()), name


def test_a_pretrained_model_is_packed_before_any_training() -> None:
    model = heads(1, norm=False)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    keep = PackNet(model).attach(optimizer)
    assert keep.next_round()
    train(model, optimizer, data(0))
    assert not keep.next_round()
    keep.consolidate()
    assert keep.state.keys() == dict(model.named_parameters()).keys()


def test_refusals_name_what_is_wrong() -> None:
    for wrong in (1.0, -0.1, (), "half"):
        with pytest.raises(ConfigurationError, match="prune is"):
            PackNet(heads(), prune=wrong)
