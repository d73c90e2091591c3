"""Models: the protocols' shapes exactly, weights from the seed alone, heads that do not touch one another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.bench.models import named as models
from holdfast.bench.models import residual
from holdfast.bench.models.heads import Heads
from holdfast.errors import ConfigurationError


def build(name: str, shape: tuple[int, ...] = (1, 28, 28), outputs: Any = 10, **options: Any) -> nn.Module:
    return models.build(name, shape, outputs, **({"seed": 0} | options))


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "outputs", "expected"),
    [
        ("mlp", (1, 28, 28), 10, 784 * 400 + 400 + 400 * 400 + 400 + 400 * 10 + 10),
        ("mlp", (1, 28, 28), (2,) * 5, 784 * 400 + 400 + 400 * 400 + 400 + 5 * (400 * 2 + 2)),
        ("mlp-64-32", (1, 28, 28), 10, 784 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10),
        ("mlp-7", (3,), 2, 3 * 7 + 7 + 7 * 2 + 2),
        ("cnn-anastrophic", (1, 28, 28), 10, 160 + 4640 + 1568 * 128 + 128 + 1290),
        ("cnn-classp", (1, 28, 28), 10, 320 + 18_496 + 9216 * 128 + 128 + 1290),
        ("resnet18", (3, 224, 224), 1000, 11_689_512),
        ("resnet-small", (3, 32, 32), 10, 272_474),
    ],
)
def test_shapes_are_the_protocols(name: str, shape: tuple[int, ...], outputs: Any, expected: int) -> None:
    assert size(build(name, shape, outputs)) == expected


@pytest.mark.parametrize("name", [*models.names(), "mlp-64-32"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_model_takes_every_data_set(name: str, shape: tuple[int, ...]) -> None:
    images = torch.randn(3, *shape)
    single = build(name, shape, 4).eval()(images)
    assert isinstance(single, Tensor) and single.shape == (3, 4)
    several = build(name, shape, (2, 3)).eval()(images)
    assert isinstance(several, list) and [tuple(each.shape) for each in several] == [(3, 2), (3, 3)]


def test_the_anastrophic_network_is_what_the_protocol_says() -> None:
    model = build("cnn-anastrophic").double()
    conv1, bias1, conv2, bias2, hidden, bias3, head, bias4 = model.parameters()
    images = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    features = F.max_pool2d(F.relu(F.conv2d(images, conv1, bias1, padding=1)), 2)
    features = F.max_pool2d(F.relu(F.conv2d(features, conv2, bias2, padding=1)), 2)
    expected = F.linear(F.relu(F.linear(features.flatten(1), hidden, bias3)), head, bias4)
    assert torch.allclose(model(images), expected, rtol=1e-12)
    weights = [name for name, _ in model.named_parameters() if "weight" in name]
    assert len(weights) == 4  # the release's penalty picks tensors by this word


def test_the_classp_network_is_what_the_protocol_says() -> None:
    model = build("cnn-classp").double().eval()
    conv1, bias1, conv2, bias2, hidden, bias3, head, bias4 = model.parameters()
    images = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    features = F.relu(F.conv2d(F.relu(F.conv2d(images, conv1, bias1)), conv2, bias2))
    expected = F.linear(F.relu(F.linear(F.max_pool2d(features, 2).flatten(1), hidden, bias3)), head, bias4)
    assert torch.allclose(model(images), expected, rtol=1e-12)


def dropouts(model: nn.Module) -> list[tuple[str, float]]:
    return [(type(m).__name__, m.p) for m in model.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))]


def test_dropout_is_the_protocols_or_the_one_asked_for() -> None:
    assert dropouts(build("cnn-classp")) == [("Dropout2d", 0.25), ("Dropout", 0.5)]
    assert dropouts(build("cnn-classp", dropout=0.1)) == [("Dropout2d", 0.1), ("Dropout", 0.1)]
    assert dropouts(build("mlp")) == dropouts(build("mlp", dropout=0.0)) == []
    assert dropouts(build("mlp-5-4", dropout=0.5)) == [("Dropout", 0.5)] * 2
    assert dropouts(build("cnn-anastrophic", dropout=0.3)) == [("Dropout", 0.3)]
    assert build("cnn-classp")(torch.randn(2, 1, 28, 28)).shape == (2, 10)  # in training mode: no warning is raised


@pytest.mark.parametrize(("entering", "leaving", "stride"), [(16, 16, 1), (16, 32, 2), (16, 32, 1)])
def test_a_residual_block_adds_its_shortcut(entering: int, leaving: int, stride: int) -> None:
    block = residual.Block(entering, leaving, stride, lambda channels: nn.GroupNorm(8, channels)).double()
    images = torch.randn(2, entering, 6, 6, dtype=torch.float64)
    weights = dict(block.named_parameters())

    def norm(values: Tensor) -> Tensor:
        grouped = values.view(2, 8, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        return (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).view_as(values)

    body = F.relu(norm(F.conv2d(images, weights["body.0.weight"], stride=stride, padding=1)))
    body = norm(F.conv2d(body, weights["body.3.weight"], padding=1))
    shortcut = images
    if stride != 1 or entering != leaving:
        shortcut = norm(F.conv2d(images, weights["shortcut.0.weight"], stride=stride))
    assert torch.allclose(block(images), F.relu(body + shortcut), rtol=1e-9)


def test_the_normalisations_are_the_documented_ones() -> None:
    kinds = {
        name: {type(m).__name__ for m in build(name, (3, 32, 32)).modules() if "Norm" in type(m).__name__}
        for name in ("resnet-small", "resnet18")
    }
    assert kinds == {"resnet-small": {"GroupNorm"}, "resnet18": {"BatchNorm2d"}}


def bilinear(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A user's own factory, which draws weights."""
    return nn.Bilinear(*input_shape[1:], outputs)


@pytest.mark.parametrize("name", [*models.names(), f"{__name__}:bilinear"])
def test_weights_come_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build(name, (1, 8, 8)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    again, other = build(name, (1, 8, 8)).state_dict(), build(name, (1, 8, 8), seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_head_learns_without_touching_the_others() -> None:
    model = build("mlp-5", (4,), (2, 3, 2))
    assert isinstance(model, Heads)
    model(torch.randn(6, 4))[1].square().sum().backward()
    assert [head.weight.grad is not None for head in model.heads] == [False, True, False]
    assert all(parameter.grad is not None for parameter in model.trunk.parameters())


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "holdfast_own_model.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, input_shape, outputs):\n"
        "        super().__init__()\n"
        "        self.given = (input_shape, outputs)\n"
        "        self.layer = nn.Linear(2, 2)\n"
        "def number(input_shape, outputs):\n"
        "    return 3\n"
        "def failing(input_shape, outputs):\n"
        "    raise KeyError('depth')\n"
        "def positional(size):\n"
        "    return nn.Identity()\n"
        "constant = 4\n"
    )
    (tmp_path / "holdfast_broken_model.py").write_text("raise RuntimeError('on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "holdfast_own_model"


def test_any_module_can_be_named_by_its_import_path(own_module: str) -> None:
    model = models.build(f"{own_module}:Net", [1, 8, 8], [2, 2], seed=0)
    assert model.given == ((1, 8, 8), (2, 2))
    assert build(f"{own_module}:Net").given == ((1, 28, 28), 10)


def test_a_module_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "holdfast_model_here.py").write_text(
        "from torch import nn\n"
        "def factory(input_shape, outputs):\n"
        "    import holdfast_model_there\n"
        "    return holdfast_model_there.layer()\n"
    )
    (tmp_path / "holdfast_model_there.py").write_text("import torch\ndef layer():\n    return torch.nn.Linear(2, 3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # as an installed command has it
    before = list(sys.path)
    assert build("holdfast_model_here:factory").out_features == 3
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("holdfast_own_model:", "must read package.module:factory"),
        ("holdfast_no_such_model:Net", "could not be imported: ModuleNotFoundError"),
        ("holdfast_broken_model:Net", "could not be imported: RuntimeError: on purpose"),
        ("holdfast_own_model:Nett", "holdfast_own_model has no Nett"),
        ("holdfast_own_model:constant", "is a int; expected a function or a class"),
        ("holdfast_own_model:number", "returned a int; expected a torch.nn.Module"),
        ("holdfast_own_model:failing", r"could not be called as factory\(.*: KeyError: 'depth'"),
        ("holdfast_own_model:positional", r"could not be called as factory\(input_shape=\(1, 28, 28\), outputs=10\)"),
    ],
)
def test_a_wrong_import_path_gets_one_sentence(own_module: str, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet-18", {}, "there is no model 'resnet-18'; the nearest are resnet18"),
        ("mlp-", {}, "must read mlp-A-B"),
        ("mlp-0", {}, "must read mlp-A-B"),
        ("mlp", {"dropout": 1.0}, "dropout is 1.0; expected at least 0 and less than 1"),
        ("resnet18", {"dropout": 0.5}, "dropout=0.5 does not apply to 'resnet18'"),
        ("torch.nn:Identity", {"dropout": 0.5}, "dropout=0.5 does not apply to 'torch.nn:Identity'"),
        ("cnn-classp", {"shape": (1, 5, 5)}, r"needs images \[C, H, W\] of 6 pixels or more, got \(1, 5, 5\)"),
        ("resnet-small", {"shape": (30,)}, r"needs images \[C, H, W\]"),
        ("mlp", {"outputs": ()}, r"outputs is \(\); expected at least one head"),
        ("mlp", {"outputs": 0}, "outputs is 0"),
    ],
)
def test_bad_input_gets_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(name, **options)
