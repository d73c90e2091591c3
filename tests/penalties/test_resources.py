"""Importances in bfloat16, and state that lives in the host's memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contract import cases
from holdfast import EWC, L2SP, MAS, SI, ANPyC, ConfigurationError, OnlineEWC, RWalk
from holdfast.penalties.resources import lent, placed

WEIGHTED = [EWC, OnlineEWC, MAS, ANPyC, SI, RWalk]


def protected(kind: type, tasks: int = 2, **resources: object):
    model = cases.network()
    optimizer = cases.sgd(model)
    keep = kind(model, strength=0.3, **resources).attach(optimizer)
    for index in range(tasks):
        cases.train(model, optimizer, cases.task(index), keep)
        cases.consolidate(model, optimizer, cases.task(index), keep)
    return model, optimizer, keep


@pytest.mark.parametrize("kind", WEIGHTED)
def test_bfloat16_importances_take_six_bytes_and_keep_their_size(kind):
    _, _, half = protected(kind, tasks=1, importance_dtype=torch.bfloat16)
    _, _, full = protected(kind, tasks=1)
    for name, held in half.state.items():
        assert held["anchor"].dtype == torch.float32 and held["importance"].dtype == torch.bfloat16
        assert held["anchor"].nbytes + held["importance"].nbytes == 6 * held["anchor"].numel()
        assert torch.equal(held["anchor"], full.state[name]["anchor"])
        # Half a unit in the last of bfloat16's 8 bits.
        torch.testing.assert_close(held["importance"].float(), full.state[name]["importance"], rtol=2**-8, atol=0)


def test_tasks_fold_in_float32_whatever_the_importances_are_kept_in():
    model = nn.Linear(2, 1, bias=False)
    keep = L2SP(model, strength=1.0, anchors="all", importance_dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    seen = []
    for value in (1.0, 1.001, 4.0):
        with torch.no_grad():
            model.weight.fill_(value)
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
        seen.append(model.weight.detach().double().clone())
        keep.consolidate()
    held = keep.state["weight"]
    torch.testing.assert_close(held["anchor"].double(), torch.stack(seen).mean(0), rtol=1e-6, atol=0)
    assert held["importance"].tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("coupling", ["gradient", "loss", "proximal"])
@pytest.mark.parametrize("resources", [{"importance_dtype": torch.bfloat16}, {"state_device": "cpu"}])
def test_training_goes_the_same_way(resources, coupling):
    ends = []
    for given in (resources, {}):
        model, optimizer, keep = protected(EWC, coupling=coupling, **given)
        cases.train(model, optimizer, cases.task(5), keep)
        ends.append(cases.weights(model))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-2, atol=1e-3)
    assert cases.same(*ends) == ("state_device" in resources)


def test_a_loaded_state_is_kept_as_its_new_owner_keeps_it():
    _, _, full = protected(EWC)
    half = EWC(cases.network(), strength=0.3, importance_dtype=torch.bfloat16)
    half.load_state_dict(full.state_dict())
    assert {held["importance"].dtype for held in half.state.values()} == {torch.bfloat16}
    again = EWC(cases.network(), strength=0.3, importance_dtype=torch.float32)
    again.load_state_dict(half.state_dict())
    assert {held["importance"].dtype for held in again.state.values()} == {torch.float32}


def test_a_failed_consolidate_leaves_the_state_as_it_was_kept():
    model, optimizer, keep = protected(EWC, importance_dtype=torch.bfloat16)
    before = keep.state_dict()
    cases.train(model, optimizer, cases.task(3), keep)
    with pytest.raises(ValueError, match="no batch"):
        keep.consolidate([])
    assert cases.same_state(before["state"], keep.state_dict()["state"])


@pytest.mark.parametrize(
    "resources", [{"importance_dtype": torch.float16}, {"importance_dtype": "bfloat16"}, {"state_device": "cuda"}]
)
def test_storage_that_cannot_be_is_refused(resources):
    with pytest.raises(ConfigurationError, match=next(iter(resources))):
        EWC(cases.network(), strength=1.0, **resources)


def test_another_keyword_is_a_type_error():
    with pytest.raises(TypeError, match="importance_type"):
        EWC(cases.network(), strength=1.0, importance_type=torch.bfloat16)


def test_what_stays_as_it_is_is_not_copied():
    held = {"anchor": torch.ones(2), "importance": torch.ones(2), "path": torch.ones(2)}
    found = placed(held, torch.float32, torch.device("cpu"))
    assert all(found[kind] is held[kind] for kind in held)
    found = placed(held, torch.bfloat16, None)
    assert found["path"] is held["path"] and found["importance"].dtype == torch.bfloat16


@pytest.mark.parametrize("group_bytes", [1, 2048, 1 << 30])
def test_lent_copies_are_whole_and_live_in_two_rooms(group_bytes):
    draw = torch.Generator().manual_seed(0)
    shapes = [(300,), (5, 3), (1,), (2, 3, 4, 5), (0,), (70,)]
    held = [
        [torch.randn(shape, generator=draw), torch.randn(shape, generator=draw).to(torch.bfloat16)] for shape in shapes
    ]
    held[3] = [t.to(memory_format=torch.channels_last) for t in held[3]]
    seen, rooms = [], set()
    for group, copies in lent(held, torch.device("cpu"), group_bytes):
        for originals, tensors in zip(held[group], copies, strict=True):
            seen.append(originals)
            for original, tensor in zip(originals, tensors, strict=True):
                assert torch.equal(original, tensor) and original.stride() == tensor.stride()
                assert original.dtype == tensor.dtype
                rooms.add(tensor.untyped_storage().data_ptr())
    assert [id(each) for each in seen] == [id(each) for each in held]
    assert len(rooms - {0}) <= 2


def test_nothing_lent_of_nothing():
    assert list(lent([], torch.device("cpu"))) == []
