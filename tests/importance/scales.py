"""Layers that have nothing but a weight per channel, as language models write their own normalisations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.importance.cases import VMAP, Apply, Case


class Scaled(nn.Module):
    """``of(weight, normalised input)``, rounded to float32 on the way, as most of them do."""

    def __init__(self, width: int, of: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.of = of

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        wide = x.to(torch.float32)
        normal = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        found = self.of(self.weight, normal)
        return found if gate is None else found * gate


class Centred(Scaled):
    """With a mean taken off and something added that no weight is in."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return self.weight * (x - x.mean(-1, keepdim=True)) + x.sin()


class Subclassed(nn.LayerNorm):
    """A type that has a rule, with a forward of its own."""

    def __init__(self, width: int) -> None:
        super().__init__(width, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return 2 * F.layer_norm(input, self.normalized_shape, self.weight, None, self.eps)


def _plain(weight: Tensor, normal: Tensor) -> Tensor:
    return weight * normal


def _around_one(weight: Tensor, normal: Tensor) -> Tensor:
    return (1.0 + weight) * normal


def _squared(weight: Tensor, normal: Tensor) -> Tensor:
    return weight.square() * normal


def _shifted(weight: Tensor, normal: Tensor) -> Tensor:
    return weight.roll(1) * normal


def _case(name: str, norm: Callable[[], nn.Module], way: str = "rules", shape: tuple[int, ...] = (2, 6)) -> Case:
    def model() -> nn.Module:
        return Apply(
            lambda m, x: m.head(m.norm(torch.tanh(m.body(x))).tanh().flatten(1, -2).sum(1)),
            body=nn.Linear(6, 6),
            norm=norm(),
            head=nn.Linear(6, 3),
        )

    return Case(name, model, shape=shape, way=way)


def _gated() -> nn.Module:
    return Apply(
        lambda m, x: m.head(m.norm(x, gate=x.sigmoid()).tanh().sum(1)),
        norm=Scaled(6, _plain),
        head=nn.Linear(6, 3),
    )


SCALES = [
    _case("scale", lambda: Scaled(6, _plain)),
    _case("scale at several depths", lambda: Scaled(6, _plain), shape=(2, 3, 6)),
    _case("scale around one", lambda: Scaled(6, _around_one)),
    _case("scale and what it leaves", lambda: Centred(6, _plain)),
    _case("layer normalisation of one's own", lambda: Subclassed(6)),
    # What is none, or does not look like one.
    _case("squared scale", lambda: Scaled(6, _squared), way=VMAP),
    _case("scale of another channel", lambda: Scaled(6, _shifted), way=VMAP),
    _case("one scale for all channels", lambda: Scaled(1, _plain), way=VMAP),
    _case("slopes", lambda: nn.PReLU(2), way=VMAP),
    Case("gate by keyword", _gated, shape=(2, 6), way=VMAP),
]
