"""Which weights a normalisation follows: traced, and true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import ConfigurationError, FixNorm
from holdfast.projections.following import final_weights, followed_weights, traced


class Many(nn.Module):
    """What is followed by a normalisation, and what only looks like it."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.batch = nn.Linear(4, 4), nn.BatchNorm1d(4)  # a bias, which BatchNorm takes away
        self.relu_between, self.layer = nn.Linear(4, 4, bias=False), nn.LayerNorm(4)
        self.biased, self.after_biased = nn.Linear(4, 4), nn.LayerNorm(4)  # not free: LayerNorm keeps some of a bias
        self.relu_biased, self.after_relu = nn.Linear(4, 4), nn.BatchNorm1d(4)  # nor this: the bias lies before ReLU
        self.twice = nn.Linear(4, 4, bias=False)  # used a second time, without a normalisation
        self.shown, self.group = nn.Linear(4, 4, bias=False), nn.GroupNorm(2, 4)  # its output goes elsewhere, too
        self.tied, self.by_hand = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.bent = nn.Linear(4, 4, bias=False)  # tanh is not homogeneous
        self.conv, self.instance = nn.Conv1d(1, 2, 2), nn.InstanceNorm1d(2)
        self.head, self.other = nn.Linear(4, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.batch(self.plain(x))
        x = self.layer(torch.relu(self.relu_between(x)).reshape(x.shape[0], -1))
        x = self.after_biased(self.biased(x))
        x = self.after_relu(torch.relu(self.relu_biased(x)))
        x = self.layer(self.twice(x)) + 0.1 * self.twice(x)
        y = self.shown(x)
        x = self.group(y) + 0.1 * y
        x = F.layer_norm(self.tied(x), (4,)) + F.linear(x, self.tied.weight)
        x = F.layer_norm(self.by_hand(x), (4,), eps=1e-30)
        x = self.layer(torch.tanh(self.bent(x)))
        z = torch.randn(len(x), 2, 3) if x is None else self.instance(self.conv(x.unsqueeze(1)))
        return self.head(x), {"other": self.other(torch.cat([x, x], 1)) + z.mean()}


def test_what_a_normalisation_follows_is_what_the_loss_does_not_see_grow() -> None:
    model = Many().double()
    for p in model.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    graph = traced(model)
    found = followed_weights(model, graph)
    assert found == ["plain.weight", "relu_between.weight", "by_hand.weight", "conv.weight"]
    assert final_weights(model, graph) == ["head.weight", "other.weight"]
    # The truth: whether the output changes where the weight is three times as large.
    x = torch.randn(16, 4).double()
    for norm in (m for m in model.modules() if hasattr(m, "eps")):
        norm.eps = 1e-30
    before = model(x)
    free = []
    for name, p in model.named_parameters():
        if p.dim() > 1:
            with torch.no_grad():
                p.mul_(3.0)
                after = model(x)
                p.div_(3.0)
            if all(
                torch.allclose(a, b, rtol=1e-9)
                for a, b in zip((before[0], before[1]["other"]), (after[0], after[1]["other"]), strict=True)
            ):
                free.append(name)
    assert free == found


def test_random_numbers_are_left_where_they_were_by_tracing() -> None:
    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn(3))

    model = Noisy(nn.Linear(3, 3), nn.BatchNorm1d(3))
    state = torch.get_rng_state()
    assert FixNorm(model).fixed == ("0.weight",)
    assert torch.equal(torch.get_rng_state(), state)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) if x.sum() > 0 else x)


def test_what_cannot_be_known_is_named_or_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Branching cannot be traced.*name them with select"):
        FixNorm(Branching())
    keep = FixNorm(Branching(), select="body.0", head="head")
    assert (keep.fixed, keep.clipped) == (("body.0.weight",), ("head.weight",))
    assert FixNorm(Branching(), select="body.0").clipped == ()
    with pytest.raises(ConfigurationError, match="no weight of Sequential is followed by a normalisation"):
        FixNorm(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)))
    with pytest.raises(ConfigurationError, match=r"select is '\*\.bias', which names no weight of two dimensions"):
        FixNorm(Branching(), select="*.bias")
    with pytest.raises(ConfigurationError, match="norm is 'first'"):
        FixNorm(Branching(), norm="first")
    with pytest.raises(ConfigurationError, match="alpha is 0"):
        FixNorm(Branching(), alpha=0)
