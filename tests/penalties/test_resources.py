"""Importances in bfloat16, and state that lives in the host's memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import EWC, L2SP, MAS, SI, Anastrophic, ANPyC, ConfigurationError, OnlineEWC, RWalk
from holdfast.penalties.resources import lent, placed
from holdfast.pieces import neighbours
from tests.contract import cases

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


def test_small_importances_do_not_vanish_and_are_right_to_a_half_of_their_last_bit():
    model = nn.Linear(64, 4, bias=False)
    draw = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1e-8, 1e-16):  # of inputs, whose squares the importances are
        keep = OnlineEWC(model, strength=1.0, decay=0.3, fisher="empirical", importance_dtype=torch.bfloat16)
        truth = torch.zeros(4, 64, dtype=torch.float64)
        for task in range(3):
            x, y = scale * torch.rand(16, 64, generator=draw), torch.randint(4, (16,), generator=draw)
            double = nn.Linear(64, 4, bias=False).double()
            double.load_state_dict(model.state_dict())
            total = torch.zeros_like(truth)
            for sample, label in zip(x.double(), y, strict=True):
                loss = nn.functional.cross_entropy(double(sample[None]), label[None])
                total += torch.autograd.grad(loss, double.weight)[0].square()
            held = keep.state["weight"]["importance"].double() if task else truth
            truth = 0.3 * held + total / 16
            if task:
                keep.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.1))  # nothing pulls where it stands
                model.weight.grad = torch.zeros_like(model.weight)
                optimizer.step()
            keep.consolidate([(x, y)])
            found = keep.state["weight"]["importance"].double()
            assert (found > 0).all()
            assert ((found - truth).abs() <= (2**-8 + 1e-4) * truth).all()
        keep.detach()


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
    "resources",
    [
        {"importance_dtype": torch.float16},
        {"importance_dtype": "bfloat16"},
        *({"state_device": device} for device in ("cuda", "gpu", "", 0, object(), torch.device("meta"))),
    ],
)
def test_storage_that_cannot_be_is_refused(resources):
    with pytest.raises(ConfigurationError, match=rf"^{next(iter(resources))} is .*; expected "):
        EWC(cases.network(), strength=1.0, **resources)


@pytest.mark.parametrize("kind", [L2SP, Anastrophic])
def test_a_precision_of_importances_that_are_not_there_is_refused(kind):
    with pytest.raises(ConfigurationError, match=rf"importance_dtype is torch.bfloat16, but {kind.__name__}.* has no"):
        kind(cases.network(), strength=1.0, importance_dtype=torch.bfloat16)
    kind(cases.network(), strength=1.0, importance_dtype=None)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 3, sparse=True)
        self.head = nn.Linear(6, 4)

    def forward(self, tokens):
        return self.head(self.words(tokens).flatten(1))


@pytest.mark.parametrize("options", [{}, {"state_device": "cpu"}, {"strength": "auto"}])
@pytest.mark.parametrize("kind", [EWC, L2SP, SI, RWalk, Anastrophic])
def test_a_sparse_gradient_is_named(kind, options):
    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = (torch.randint(10, (5, 2)), torch.randint(4, (5,)))
    keep = kind(model, **{"strength": 1.0, **options})
    if kind not in (SI, RWalk):
        keep.consolidate([batch])
    keep.attach(optimizer)
    before = cases.weights(model)
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}: .* of parameter 'words.weight' is torch.sparse"):
        for _ in range(2):
            cases.step(model, optimizer, batch)
    assert cases.same(cases.weights(model), before)


def test_state_on_the_host_serves_a_model_on_two_devices():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, device="meta"), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = EWC(model, strength=2.0, state_device="cpu").attach(optimizer)
    draw = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        keep.state[name] = {kind: torch.rand(p.shape, generator=draw) for kind in ("anchor", "importance")}
        p.grad = torch.ones_like(p)
    keep.meta["num_tasks"] = 1
    expected = {
        name: 1 + 2 * keep.state[name]["importance"] * (p.detach() - keep.state[name]["anchor"])
        for name, p in model.named_parameters()
        if p.device.type == "cpu"
    }
    optimizer.step()
    assert len(expected) == 4
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)


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


def test_groups_are_neighbours_that_have_room_together():
    assert neighbours([], 5) == []
    assert neighbours([1, 2, 2, 9, 1, 4, 1], 5) == [slice(0, 3), slice(3, 4), slice(4, 6), slice(6, 7)]
    assert neighbours([6, 6], 5) == [slice(0, 1), slice(1, 2)]


def test_nothing_lent_of_nothing():
    assert list(lent([], torch.device("cpu"))) == []


def test_penalties_on_groups_of_layers_are_together_the_one_on_all():
    ends, states = [], []
    for groups in (["*"], ["0.*", "2.*"]):
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        model.load_state_dict(ends[0] if ends else model.state_dict())
        ends = ends or [{name: t.clone() for name, t in model.state_dict().items()}]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        draw = torch.Generator().manual_seed(0)
        tasks = [(torch.randn(8, 6, generator=draw), torch.randint(3, (8,), generator=draw)) for _ in range(3)]
        keeps = [EWC(model, strength=2.0, select=group).attach(optimizer) for group in groups]
        for batch in tasks:
            for _ in range(3):
                cases.step(model, optimizer, batch)
            for keep in keeps:
                keep.consolidate([batch])
        states.append({name: held for keep in keeps for name, held in keep.state.items()})
    assert states[0].keys() == states[1].keys()
    for name, held in states[0].items():
        for kind, tensor in held.items():
            torch.testing.assert_close(tensor, states[1][name][kind], rtol=1e-6, atol=1e-7)
