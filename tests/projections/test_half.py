"""HFT: which half is drawn, that it holds to the last bit, and that every round draws anew."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from holdfast import HFT
from holdfast.errors import ConfigurationError
from holdfast.projections.half import drawn_half


def layers(depth: int) -> dict[str, bool]:
    found = {"model.embed": True, "lm_head": True, "model.norm": False}
    for i in range(depth):
        block = f"model.layers.{i}"
        found |= {f"{block}.attn.{name}": True for name in "qkvo"}
        found |= {f"{block}.mlp.{name}": True for name in ("gate", "up", "down")}
        found |= {f"{block}.{name}": False for name in ("before", "after")}
    return found


@pytest.mark.parametrize("seed", range(20))
def test_every_block_and_every_kind_has_its_half(seed: int) -> None:
    half = drawn_half(layers(4), torch.Generator().manual_seed(seed))
    per_block = Counter(path.rpartition(".")[0] for path in half)
    for i in range(4):
        assert per_block[f"model.layers.{i}.attn"] == 2
        assert per_block[f"model.layers.{i}"] == 1
        assert per_block[f"model.layers.{i}.mlp"] in (1, 2)
    assert sum(per_block[f"model.layers.{i}.mlp"] for i in range(4)) == 6
    assert not half & {"model.embed", "lm_head", "model.norm"}


def test_each_layer_is_drawn_as_often_as_the_others() -> None:
    g, times = torch.Generator().manual_seed(0), Counter[str]()
    for _ in range(600):
        times.update(drawn_half(layers(2), g))
    shares = [times[path] / 600 for path in layers(2) if "layers" in path]
    assert len(shares) == 18 and all(abs(share - 0.5) < 0.08 for share in shares)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm, self.last = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.BatchNorm1d(6),
            nn.BatchNorm1d(6),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.two(torch.tanh(self.norm(self.one(x)))))
        return found


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 6), nn.Flatten(0, 1), Block(), Block(), nn.Linear(6, 9)).double()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for step in range(steps):
        words = torch.randint(0, 9, (4, 2), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(words), words.flatten()).backward()
        optimizer.step()


def test_the_half_holds_exactly_and_the_next_round_draws_another() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.3)
    keep = HFT(net, seed=3).attach(optimizer)
    train(net, optimizer)
    rounds = []
    for _ in range(3):
        keep.consolidate()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items() if "num_batches" not in name}
        train(net, optimizer)
        moved = {name for name, tensor in net.state_dict().items() if name in before and not tensor.equal(before[name])}
        stands = {name for name in before if name not in moved}
        statistics = {
            f"{name.rpartition('.')[0]}.{kind}" for name in keep.frozen for kind in ("running_mean", "running_var")
        }
        assert stands == set(keep.frozen) | statistics & set(before)
        assert {"0.weight", "4.weight", "4.bias"} <= moved
        assert [sum(name.startswith(f"{i}.") and name.endswith("weight") for name in keep.frozen) for i in (2, 3)] == [
            2,
            2,
        ]
        rounds.append(set(keep.frozen))
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]


def test_a_seed_or_a_generator_says_which_and_a_state_goes_on() -> None:
    net = model()
    one, two, other = HFT(net, seed=1), HFT(net, seed=1), HFT(net, seed=1)
    one.consolidate()
    two.consolidate()
    assert one.frozen == two.frozen
    draws = set()
    for seed in range(6):
        fresh = HFT(net)
        fresh.consolidate(generator=torch.Generator().manual_seed(seed))
        draws.add(fresh.frozen)
    assert len(draws) > 1
    other.load_state_dict(one.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    other.attach(optimizer)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, optimizer)
    assert {name for name, p in net.named_parameters() if p.equal(before[name])} == set(one.frozen)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"seed is 0\.5; expected a whole number or None"):
        HFT(model(), seed=0.5)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigurationError, match="of these no two are alike: 1"):
        HFT(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2))).consolidate()
