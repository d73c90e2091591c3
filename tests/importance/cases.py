"""Small float64 models and batches over which every importance must equal its plain twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.objectives import CausalLM, Classification, Loss, MultiLabel, Objective, Regression

RULES, VMAP, ALONE, LOOP = "rules", "vmap", "alone", "loop"


@dataclass
class Case:
    """One model and its data; ``way`` is the slowest way that any of its parameters must take."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...] = (6,)
    way: str = RULES
    objective: Objective = field(default_factory=Classification)
    batch: Callable[[int], Any] | None = None
    sizes: tuple[int, ...] = (4, 3)

    def build(self) -> tuple[nn.Module, list[Any]]:
        torch.manual_seed(0)
        model = self.model().double().eval()
        for p in model.parameters():  # biases and scales away from 0 and 1
            p.data += 0.1 * torch.randn_like(p)
        make = self.batch or self.plain
        return model, [make(size) for size in self.sizes]

    def plain(self, size: int) -> Any:
        return torch.randn(size, *self.shape, dtype=torch.float64), torch.randint(3, (size,))


class Apply(nn.Module):
    """A model as a function of its parts."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.function(self, *args, **kwargs)


class Doubled(nn.Linear):
    """A subclass that computes something else than its base."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def _tokens(size: int) -> Any:
    return torch.randint(7, (size, 5)), torch.randint(3, (size,))


def _ids(size: int) -> dict[str, Tensor]:
    ids = torch.randint(7, (size, 5))
    return {"input_ids": ids, "labels": ids.clone()}


def _padded(size: int) -> dict[str, Tensor]:
    batch = _ids(size)
    batch["labels"][0, 3:] = -100
    return batch


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    return model


def _tied() -> nn.Module:
    embedding, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embedding.weight
    return Apply(
        lambda m, input_ids: m.head(torch.tanh(m.middle(m.embedding(input_ids)))),
        embedding=embedding,
        middle=nn.Linear(4, 4),
        head=head,
    )


def _branch(m: Apply, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(F.relu(h)) if bool(h.sum() > 0) else m.b(torch.tanh(h))


def _patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    first = model[0]
    first.forward = lambda x: F.linear(3 * x, first.weight, first.bias)  # as some libraries change a layer
    return model


def _looks(m: Apply, x: Tensor) -> Tensor:
    if bool(x.isnan().any()):
        raise ValueError("nan")
    return m.b(torch.tanh(m.a(x)))


def _attention(m: Apply, x: Tensor) -> Tensor:
    q, k, v = m.query(x), m.key(x), m.value(x)
    return m.head((torch.softmax(q @ k.transpose(1, 2), -1) @ v).mean(1))


def _frames_first(m: Apply, x: Tensor) -> Tensor:
    return m.head(torch.tanh(m.a(x.transpose(0, 1))).sum(0))


def _conv(conv: nn.Module, channels: int, dims: int) -> Callable[[], nn.Module]:
    return lambda: Apply(
        lambda m, x: m.head(torch.tanh(m.conv(x)).flatten(2).mean(2)), conv=conv, head=nn.Linear(channels, 3)
    )


def _mixed_loss(outputs: Tensor, batch: Any) -> Tensor:
    each = F.cross_entropy(outputs, batch[1], reduction="none")
    return each * outputs.mean()  # each loss sees all samples


CASES = [
    Case("mlp", lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))),
    Case("linear without bias", lambda: nn.Linear(6, 3, bias=False)),
    Case("in-place relu", lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))),
    Case("dropout", lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))),
    Case("one sample at a time", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), sizes=(1, 1, 3)),
    Case("frozen parameters", _frozen),
    Case(
        "sequence",
        lambda: Apply(lambda m, x: m.b(torch.tanh(m.a(x)).mean(1)), a=nn.Linear(6, 5), b=nn.Linear(5, 3)),
        shape=(4, 6),
    ),
    Case(
        "sequence of sequences",
        lambda: Apply(lambda m, x: m.a(x).tanh().sum((1, 2)), a=nn.Linear(6, 3)),
        shape=(2, 3, 6),
    ),
    Case("conv1d", _conv(nn.Conv1d(2, 5, 3, stride=2, padding=1), 5, 1), shape=(2, 7)),
    Case("conv2d", _conv(nn.Conv2d(2, 4, 3, padding=1), 4, 2), shape=(2, 5, 6)),
    Case("conv2d valid", _conv(nn.Conv2d(2, 4, (2, 3)), 4, 2), shape=(2, 5, 6)),
    Case(
        "conv2d dilated",
        _conv(nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(2, 1), dilation=(2, 1)), 4, 2),
        shape=(2, 6, 5),
    ),
    Case(
        "conv2d same",
        _conv(nn.Conv2d(2, 4, (5, 3), padding="same", dilation=(1, 2), bias=False), 4, 2),
        shape=(2, 6, 7),
    ),
    Case("conv2d groups", _conv(nn.Conv2d(4, 6, 3, groups=2, padding=1), 6, 2), shape=(4, 4, 4)),
    Case("conv2d depthwise", _conv(nn.Conv2d(3, 6, 3, groups=3), 6, 2), shape=(3, 4, 4)),
    Case("conv2d circular", _conv(nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="circular"), 4, 2), shape=(2, 5, 6)),
    Case("conv2d reflect", _conv(nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect"), 4, 2), shape=(2, 5, 6)),
    Case("conv3d", _conv(nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 1, 2), padding=(0, 1, 1)), 3, 3), shape=(2, 2, 3, 4)),
    Case(
        "batchnorm",
        lambda: Apply(
            lambda m, x: m.head(m.b2(torch.tanh(m.b1(m.conv(x))).flatten(2).mean(2))),
            conv=nn.Conv2d(2, 4, 3, bias=False),
            b1=nn.BatchNorm2d(4),
            b2=nn.BatchNorm1d(4),
            head=nn.Linear(4, 3),
        ),
        shape=(2, 5, 5),
    ),
    Case(
        "layernorm",
        lambda: Apply(
            lambda m, x: m.head(m.outer(torch.tanh(m.inner(x)).mean(1))),
            inner=nn.LayerNorm((3, 6)),
            outer=nn.LayerNorm((3, 6), bias=False),
            head=nn.Sequential(nn.Flatten(), nn.Linear(18, 3)),
        ),
        shape=(2, 3, 6),
    ),
    Case(
        "rmsnorm",
        lambda: Apply(lambda m, x: m.head(m.norm(x).tanh().sum(1)), norm=nn.RMSNorm(6), head=nn.Linear(6, 3)),
        shape=(2, 6),
    ),
    Case(
        "groupnorm",
        lambda: Apply(lambda m, x: m.head(m.norm(x).tanh().mean(2)), norm=nn.GroupNorm(2, 4), head=nn.Linear(4, 3)),
        shape=(4, 5),
    ),
    Case(
        "embedding",
        lambda: Apply(
            lambda m, x: m.head(torch.tanh(m.embedding(x)).sum(1)),
            embedding=nn.Embedding(7, 4, padding_idx=2),
            head=nn.Linear(4, 3),
        ),
        batch=_tokens,
    ),
    Case(
        "attention",
        lambda: Apply(
            _attention, query=nn.Linear(6, 4), key=nn.Linear(6, 4), value=nn.Linear(6, 4), head=nn.Linear(4, 3)
        ),
        shape=(3, 6),
    ),
    Case("unused head", lambda: Apply(lambda m, x: m.used(x), used=nn.Linear(6, 3), unused=nn.Linear(6, 2))),
    Case(
        "head called for nothing",
        lambda: Apply(
            lambda m, x: m.used(x) + 0 * m.other(x).detach().sum(), used=nn.Linear(6, 3), other=nn.Linear(6, 2)
        ),
    ),
    Case(
        "two heads",
        lambda: Apply(lambda m, x: [m.a(x), m.b(x)], a=nn.Linear(6, 3), b=nn.Linear(6, 3)),
        objective=Classification(head=1),
    ),
    Case(
        "dict batch",
        lambda: Apply(
            lambda m, input_ids: m.head(torch.tanh(m.embedding(input_ids)).mean(1)),
            embedding=nn.Embedding(7, 4),
            head=nn.Linear(4, 3),
        ),
        batch=lambda size: {"input_ids": _tokens(size)[0], "labels": torch.randint(3, (size,))},
    ),
    Case(
        "two inputs",
        lambda: Apply(lambda m, x, y: m.a(x) + m.b(y), a=nn.Linear(6, 3), b=nn.Linear(4, 3)),
        batch=lambda size: ((torch.randn(size, 6).double(), torch.randn(size, 4).double()), torch.randint(3, (size,))),
    ),
    Case(
        "regression",
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)),
        objective=Regression(),
        batch=lambda size: (torch.randn(size, 6).double(), torch.randn(size, 2).double()),
    ),
    Case(
        "multi-label",
        lambda: nn.Linear(6, 4),
        objective=MultiLabel(),
        batch=lambda size: (torch.randn(size, 6).double(), torch.randint(2, (size, 4))),
    ),
    Case(
        "language per token",
        lambda: Apply(
            lambda m, input_ids: m.head(torch.cumsum(m.embedding(input_ids), 1).tanh()),
            embedding=nn.Embedding(7, 4),
            head=nn.Linear(4, 7),
        ),
        objective=CausalLM(per="token"),
        batch=_padded,
    ),
    Case(
        "language per sequence",
        lambda: Apply(
            lambda m, input_ids: m.head(m.embedding(input_ids).tanh()),
            embedding=nn.Embedding(7, 4),
            head=nn.Linear(4, 7),
        ),
        objective=CausalLM(per="sequence"),
        batch=_padded,
    ),
    # What no rule can be trusted with.
    Case(
        "layer used twice",
        lambda: Apply(lambda m, x: m.head(m.a(torch.tanh(m.a(x)))), a=nn.Linear(6, 6), head=nn.Linear(6, 3)),
        way=VMAP,
    ),
    Case("tied embedding", _tied, objective=CausalLM(per="sequence"), batch=_ids),
    Case(
        "weight used elsewhere too",
        lambda: Apply(lambda m, x: m.a(x) + F.linear(x.tanh(), m.a.weight), a=nn.Linear(6, 3)),
        way=VMAP,
    ),
    Case(
        "weight used elsewhere only",
        lambda: Apply(lambda m, x: F.linear(x, m.a.weight) + 0 * m.a(x).detach(), a=nn.Linear(6, 3)),
        way=VMAP,
    ),
    Case(
        "bare parameter",
        lambda: Apply(
            lambda m, x: m.head(torch.cat([m.token.expand(len(x), 1, 6), x], 1).tanh().mean(1)),
            token=nn.Parameter(torch.zeros(1, 1, 6)),
            head=nn.Linear(6, 3),
        ),
        shape=(3, 6),
        way=VMAP,
    ),
    Case(
        "multi-head attention",
        lambda: Apply(
            lambda m, x: m.head(m.attention(x, x, x, need_weights=False)[0].mean(1)),
            attention=nn.MultiheadAttention(6, 2, batch_first=True),
            head=nn.Linear(6, 3),
        ),
        shape=(3, 6),
        way=VMAP,
    ),
    Case("subclass", lambda: nn.Sequential(Doubled(6, 5), nn.Tanh(), nn.Linear(5, 3)), way=VMAP),
    Case(
        "parametrized",
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 3)),
        way=VMAP,
    ),
    Case(
        "samples merged with positions",
        lambda: Apply(lambda m, x: m.a(x.flatten(0, 1)).tanh().unflatten(0, x.shape[:2]).sum(1), a=nn.Linear(6, 3)),
        shape=(2, 6),
        way=VMAP,
    ),
    Case(
        "positions before samples",
        lambda: Apply(_frames_first, a=nn.Linear(6, 4), head=nn.Linear(4, 3)),
        shape=(4, 6),
        way=VMAP,
    ),
    Case("patched forward", _patched, way=VMAP),
    Case("transposed convolution", _conv(nn.ConvTranspose2d(2, 4, 3), 4, 2), shape=(2, 3, 3), way=VMAP),
    Case("looks at its input", lambda: Apply(_looks, a=Doubled(6, 4), b=nn.Linear(4, 3)), way=ALONE),
    Case("weight-dependent branch", lambda: Apply(_branch, a=Doubled(6, 4), b=nn.Linear(4, 3)), way=LOOP),
    Case(
        "samples see each other",
        lambda: Apply(lambda m, x: m.b(torch.tanh(m.a(x)).flip(0) + x.mean(0)), a=nn.Linear(6, 6), b=nn.Linear(6, 3)),
        way=LOOP,
    ),
    Case(
        "batch statistics",
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)),
        way=LOOP,
    ),
    Case("losses see each other", lambda: nn.Linear(6, 3), way=LOOP, objective=Loss(_mixed_loss)),
]
