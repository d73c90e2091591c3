"""Canonical names: the same whatever wraps the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import ConfigurationError
from holdfast.names import canonical_parameters, selected, unwrap


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
