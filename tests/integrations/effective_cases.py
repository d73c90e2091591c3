"""A small network with adapters, what was remembered of it, and the penalty as its equation reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import EWC

peft = pytest.importorskip("peft")

X = torch.randn(24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Net(nn.Module):
    """A linear layer, a convolution, an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.conv = nn.Conv1d(1, 2, 3, padding=1)
        self.words = nn.Embedding(5, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        h = torch.tanh(self.conv(h[:, None])).flatten(1)
        return self.head(h + self.words((x[:, 0] > 0).long()))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


def adapted(model: nn.Module, **options):
    config = peft.LoraConfig(
        **{
            "r": 2,
            "lora_alpha": 6,
            "target_modules": ["first", "conv", "words"],
            "modules_to_save": ["head"],
            **options,
        }
    )
    found = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in found.parameters():
            if p.requires_grad:  # B begins at 0, where half of the gradients are
                p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return found


def remembered(kind=EWC, **options):
    model = network()
    keep = kind(model, **{"strength": 2.0, **options})
    keep.consolidate([(X, Y)])
    return keep, model


def effective_penalty(keep, model) -> torch.Tensor:
    """The penalty as its equation reads, over weights composed by hand."""
    total = torch.zeros((), dtype=torch.float64)
    layers = dict(model.named_modules())
    for name, held in keep.state.items():
        if name.endswith(".base_layer.weight"):
            layer = layers[name.removesuffix(".base_layer.weight")]
            weight = layer.base_layer.weight.detach()
            for adapter in layer.active_adapters:
                scale = layer.scaling[adapter]
                if adapter in layer.lora_embedding_A:
                    delta = (layer.lora_embedding_B[adapter] @ layer.lora_embedding_A[adapter]).T
                elif isinstance(layer.base_layer, nn.Conv1d):
                    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                    delta = torch.einsum("or,rik->oik", b[:, :, 0], a)
                else:
                    delta = layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight
                weight = weight + scale * delta
        else:
            weight = dict(model.named_parameters())[name]
        importance = held.get("importance", torch.ones(()))
        total = total + (importance * (weight - held["anchor"]).square()).sum()
    return keep.factor * total
