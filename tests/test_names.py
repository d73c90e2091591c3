"""Canonical names: the same whatever wraps the model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize

from holdfast import EWC, L2SP, ConfigurationError, LwF
from holdfast.names import canonical_buffers, canonical_parameters, selected, unwrap
from holdfast.wrappers import canonical_name


class Own(nn.Module):
    """A user's attribute may be called `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 3)
        self.tail = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.tail.weight


PLAIN = ["module.weight", "module.bias", "tail.weight", "tail.bias", "tied.bias"]


def test_a_users_attribute_called_module_survives():
    assert list(canonical_parameters(Own())) == PLAIN


def test_names_match_pytorchs_on_a_plain_model():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    assert list(canonical_parameters(model)) == [name for name, _ in model.named_parameters()]


def test_wrappers_outside_leave_no_trace():
    model = Own()
    wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
    found = canonical_parameters(wrapped)
    assert list(found) == PLAIN
    assert found["module.weight"] is model.module.weight
    assert unwrap(wrapped) is model


def test_compile_in_mid_path_leaves_no_trace():
    model = Own()
    model.tail = torch.compile(model.tail, backend="eager")
    assert list(canonical_parameters(model)) == PLAIN


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (None, PLAIN),
        ("tail", ["tail.weight", "tail.bias"]),
        ("*.bias", ["module.bias", "tail.bias", "tied.bias"]),
        (["module", "tied.bias"], ["module.weight", "module.bias", "tied.bias"]),
        (lambda name, p: p.dim() == 2, ["module.weight", "tail.weight"]),
    ],
)
def test_selection(select, expected):
    assert list(selected(Own(), select)) == expected


def test_frozen_parameters_are_not_selected():
    model = Own()
    model.module.weight.requires_grad_(False)
    assert "module.weight" not in selected(model, None)


def test_selecting_nothing_is_an_error_that_names_the_selection():
    with pytest.raises(ConfigurationError, match="encoder"):
        selected(Own(), "encoder")


def test_a_selection_of_the_wrong_type_is_refused():
    with pytest.raises(ConfigurationError, match="3"):
        selected(Own(), [3])  # type: ignore[list-item]  # the mistake under test


def test_a_pattern_that_names_nothing_is_refused_beside_others_that_do():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match=r"select holds '1.weihgt', but .* it has 1.weight"):
        selected(model, ["0.*", "1.weihgt"])
    model[1].requires_grad_(False)
    assert set(selected(model, ["0", "1"])) == {"0.weight", "0.bias"}  # frozen, but there


@pytest.mark.parametrize("wrong", [3, torch.ones(2), ["0", 3]], ids=str)
def test_what_is_no_selection_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="select"):
        selected(nn.Sequential(nn.Linear(2, 2)), wrong)


def test_fabrics_wrapper_leaves_no_trace():
    fabric = pytest.importorskip("lightning.fabric")
    model = nn.Linear(2, 2)
    wrapped = fabric.Fabric(accelerator="cpu").setup_module(model)
    assert list(canonical_parameters(wrapped)) == ["weight", "bias"]
    assert unwrap(wrapped) is model


class Doubled(nn.Module):
    """A parametrisation with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(2.0))

    def forward(self, original):
        return self.by * original


def parametrised() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    parametrize.register_parametrization(model[0], "weight", Doubled())
    parametrizations.weight_norm(model[2])
    return model


def test_a_parametrised_weight_goes_by_its_own_name_and_several_originals_by_one_each():
    model = parametrised()
    found = canonical_parameters(model)
    assert set(found) == {
        "0.weight", "0.bias", "0.parametrizations.weight.0.by", "2.weight.original0", "2.weight.original1", "2.bias",
    }  # fmt: skip
    assert found["0.weight"] is model[0].parametrizations.weight.original
    assert found["2.weight.original1"] is model[2].parametrizations.weight.original1
    assert set(selected(model, "2.weight")) == {"2.weight.original0", "2.weight.original1"}


def test_a_parametrised_buffer_goes_by_its_own_name():
    model = nn.BatchNorm1d(2)
    parametrize.register_parametrization(model, "running_mean", nn.Identity())
    assert set(canonical_buffers(model)) == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_plain_models_state_loads_into_a_parametrised_one_and_back():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    batch = torch.randn(8, 3), torch.randint(0, 2, (8,))
    keep = EWC(plain, strength=2.0)
    keep.consolidate([batch])
    model = copy.deepcopy(plain)
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    other = EWC(model, strength=2.0)
    other.load_state_dict(keep.state_dict())
    found = []
    for net, method in ((plain, keep), (model, other)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        method.attach(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch[0]), 1 - batch[1]).backward()
            optimizer.step()
        found.append({name: p.detach() for name, p in canonical_parameters(net).items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    keep.load_state_dict(other.state_dict())


def test_importances_of_a_parametrised_weight_are_its_originals():
    model = parametrised()
    batch = torch.randn(5, 3), torch.randint(0, 2, (5,))
    keep = EWC(model, strength=1.0, fisher="empirical")
    keep.consolidate([batch])
    want = {name: torch.zeros_like(p) for name, p in canonical_parameters(model).items()}
    for x, y in zip(*batch, strict=True):
        loss = nn.functional.cross_entropy(model(x[None]), y[None])
        for name, g in zip(want, torch.autograd.grad(loss, list(canonical_parameters(model).values())), strict=True):
            want[name] += g.square() / 5
    for name, expected in want.items():
        torch.testing.assert_close(keep.state[name]["importance"], expected, rtol=1e-5, atol=1e-9)


def test_a_state_from_when_marks_were_part_of_names_still_loads():
    model = parametrised()
    keep = L2SP(model, strength=1.0)
    keep.consolidate()
    saved = keep.state_dict()
    live = {id(p): name for name, p in model.named_parameters()}
    saved["state"] = {live[id(keep.params[name])]: held for name, held in saved["state"].items()}
    assert "0.parametrizations.weight.original" in saved["state"]
    other = L2SP(model, strength=1.0)
    other.load_state_dict(saved)
    assert other.state.keys() == keep.state.keys()


def test_a_teacher_of_a_parametrised_model_answers_as_it_did():
    model = parametrised()
    keep = LwF(model, strength=1.0)
    keep.consolidate()
    other = LwF(model, strength=1.0)
    other.load_state_dict(keep.state_dict())
    batch = torch.randn(5, 3), torch.randint(0, 2, (5,))
    with torch.no_grad():
        assert float(other.penalty(batch)) == pytest.approx(0, abs=1e-6)
        model[0].bias += 1.0
        assert float(other.penalty(batch)) == float(keep.penalty(batch)) > 0


def test_checkpointing_and_averages_leave_no_trace():
    model = nn.Sequential(nn.Linear(2, 2), checkpoint_wrapper(nn.Linear(2, 2)))
    average = torch.optim.swa_utils.AveragedModel(model)
    assert list(canonical_parameters(average)) == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.filterwarnings("ignore:FSDP is switching")
@pytest.mark.filterwarnings("ignore:.*FSDP.* is deprecated")
def test_fsdp_leaves_no_trace(tmp_path):
    from torch.distributed.fsdp import FullyShardedDataParallel

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        cpu = torch.device("cpu")
        part = FullyShardedDataParallel(nn.Linear(2, 2), use_orig_params=True, device_id=cpu)
        whole = FullyShardedDataParallel(nn.Sequential(nn.Linear(2, 2), part), use_orig_params=True, device_id=cpu)
        assert list(canonical_parameters(whole)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "name", ["module.weight", "original", "parametrizations.weight", "a.parametrizations.weight.0.by"]
)
def test_what_is_no_mark_stays_in_a_name(name):
    assert canonical_name(name) == name
