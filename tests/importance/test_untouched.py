"""Estimating leaves no trace in the model, also when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError, NumericsError
from holdfast.importance import fisher, mas, taylor

ESTIMATES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "exact": lambda *a, **k: fisher(*a, kind="exact", **k),
    "sampled": lambda *a, **k: fisher(*a, kind="sampled", **k),
    "batched": lambda *a, **k: fisher(*a, kind="batched", **k),
    "mas": mas,
    "taylor": taylor,
    "taylor per batch": lambda *a, **k: taylor(*a, reduction="batch", **k),
}
every_estimate = pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)


class Net(nn.Module):
    """Has everything that an estimate could disturb; ``extra`` takes the way of ``vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.extra = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.norm(self.conv(x))).flatten(2).mean(2)
        return self.frozen(self.head(torch.tanh(h * self.extra)))


def build() -> tuple[Net, list[Any]]:
    torch.manual_seed(0)
    model = Net()
    batches = [(torch.randn(4, 1, 5, 5), torch.randint(2, (4,))) for _ in range(2)]
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()  # so that .grad and the statistics are there
    model.norm.eval()  # as a user freezes one layer's statistics
    model.head.bias.requires_grad_(False)
    return model, batches


def trace(model: nn.Module) -> dict[str, Any]:
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "objects": [id(p) for p in model.parameters()],
        "random": torch.get_rng_state(),
        "enabled": torch.is_grad_enabled(),
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@every_estimate
@pytest.mark.parametrize("enabled", [True, False])
def test_leaves_no_trace(estimate: Any, enabled: bool) -> None:
    model, batches = build()
    with torch.set_grad_enabled(enabled):
        before = trace(model)
        found = estimate(model, batches)
        same(trace(model), before)
    assert found.keys() == {"conv.weight", "conv.bias", "norm.weight", "norm.bias", "extra", "head.weight"}
    assert not any(value.requires_grad for value in found.values())


@every_estimate
def test_training_mode_changes_nothing(estimate: Any) -> None:
    model, batches = build()
    found = estimate(model, batches)
    expected = estimate(model.eval(), batches)
    same(found, expected)


@every_estimate
def test_no_batch_is_refused(estimate: Any) -> None:
    model, _ = build()
    before = trace(model)
    with pytest.raises(DataError, match="no sample"):
        estimate(model, iter(()))
    same(trace(model), before)


@every_estimate
def test_a_failing_iterator_leaves_no_trace(estimate: Any) -> None:
    model, batches = build()

    def breaks() -> Iterator[Any]:
        yield batches[0]
        torch.rand(3)
        raise OSError("the disk is gone")

    before = trace(model)
    with pytest.raises(OSError, match="the disk is gone"):
        estimate(model, breaks())
    same(trace(model), before)


@every_estimate
def test_numbers_that_are_not_finite_name_their_parameter(estimate: Any) -> None:
    model, batches = build()
    batches[1][0][0, 0, 0, 0] = float("nan")
    before = trace(model)
    sentence = "the importance of 'extra' and 5 more is not finite|the model's outputs are not finite"
    with pytest.raises(NumericsError, match=sentence):
        estimate(model, batches)
    same(trace(model), before)


@every_estimate
def test_names_choose_what_is_estimated(estimate: Any) -> None:
    model, batches = build()
    everything = estimate(model, batches)
    before = trace(model)
    found = estimate(model, batches, names=["head.weight", "head.bias", "extra"])
    same(trace(model), before)
    assert list(found) == ["head.weight", "head.bias", "extra"]  # head.bias is frozen: asked for by name, it is there
    assert bool(found["head.bias"].any())
    torch.testing.assert_close(found["head.weight"], everything["head.weight"])
    torch.testing.assert_close(found["extra"], everything["extra"])


@every_estimate
def test_unknown_names_are_refused(estimate: Any) -> None:
    model, batches = build()
    with pytest.raises(ConfigurationError, match=r"no parameter 'head\.wieght'; the nearest are head\.weight"):
        estimate(model, batches, names=["head.wieght"])
    with pytest.raises(ConfigurationError, match="no trainable parameter"):
        estimate(model.requires_grad_(False), batches)


def test_a_user_s_hook_still_runs_and_counts() -> None:
    model, batches = build()
    plain = fisher(model, batches)
    handle = model.head.register_forward_hook(lambda module, args, output: 2 * output)
    hooked = fisher(model, batches)
    handle.remove()
    with torch.no_grad():
        model.frozen.weight.mul_(2)
    doubled = fisher(model, batches)
    torch.testing.assert_close(hooked, doubled)
    assert not torch.allclose(hooked["head.weight"], plain["head.weight"])


def test_inside_inference_mode() -> None:
    model, batches = build()
    expected = fisher(model, batches)
    with torch.inference_mode():
        found = fisher(model, batches)
    torch.testing.assert_close(found, expected)


class TwoNames(nn.Module):
    """One module under two names, whose weight is tied to another's: as older T5s have it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.body = nn.ModuleDict({"words": self.words})
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.body["words"](x) + self.words(x.flip(1))).mean(1))


def test_a_weight_that_stands_in_several_places_is_put_back_in_each() -> None:
    torch.manual_seed(0)
    model = TwoNames().double()
    batch = (torch.randint(5, (4, 3)), torch.randint(5, (4,)))
    weight = model.words.weight
    found = fisher(model, [batch], kind="empirical")
    assert model.words.weight is weight and model.head.weight is weight
    expected = torch.zeros_like(weight)
    for x, y in zip(*batch, strict=True):
        loss = F.cross_entropy(model(x[None]), y[None])
        expected += torch.autograd.grad(loss, weight)[0] ** 2 / 4
    torch.testing.assert_close(found["words.weight"], expected, rtol=1e-9, atol=0)
