"""What Holdfast is measured against: the loops that people write, and stand-ins for released classes.

The stand-ins do the same operations in the same order as the released classes; they are written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

__all__ = [
    "ReleasedClassp",
    "one_by_one",
    "quadratic_by_autograd",
    "released_anastrophic",
    "Still",
    "train_step",
    "vectorized",
]

Batch = tuple[Tensor, Tensor]


class Still(Optimizer):
    """An optimizer whose step does nothing, so that only what is attached to it is measured."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # needs no closure
        """Do nothing."""


def quadratic_by_autograd(
    params: Sequence[Tensor], anchors: Sequence[Sequence[Tensor]], fishers: Sequence[Sequence[Tensor]], strength: float
) -> None:
    """The loop over tasks and parameters of a usual EWC: a loss term, and autograd's backward into ``.grad``."""
    loss = torch.zeros((), device=params[0].device)
    for task_anchors, task_fishers in zip(anchors, fishers, strict=True):
        for p, anchor, fisher in zip(params, task_anchors, task_fishers, strict=True):
            loss = loss + (fisher * (p - anchor) ** 2).sum()
    (strength / 2 * loss).backward()


def released_anastrophic(params: Sequence[Tensor], previous: Sequence[Tensor], coherence: float, eta: float) -> None:
    """Both spectra by full complex transforms, the phase as an angle, everything through autograd."""
    total = torch.zeros((), device=params[0].device)
    for w, before in zip(params, previous, strict=True):
        spectrum = torch.fft.fft(w.flatten().to(torch.complex64))
        old = torch.fft.fft(before.flatten().to(torch.complex64))
        power = spectrum.abs() ** 2
        share = power / (power.sum() + 1e-8)
        coherent = (share * torch.exp(1j * torch.angle(spectrum))).sum().abs()
        distance = ((torch.view_as_real(spectrum) - torch.view_as_real(old)) ** 2).mean()
        total = total + coherence * (1 - coherent) + eta * distance
    total.backward()


class ReleasedClassp(Optimizer):
    """One tensor after another, one temporary per operation, a look at each gradient that waits for the device."""

    def __init__(self, params: Any, lr: float, threshold: float, eps: float, power: float) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold, "eps": eps, "power": power})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # needs no closure
        """Take one step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                held = self.state[p]
                if not held:
                    held["sum"] = torch.zeros_like(p)
                if (p.grad**2).any() > group["threshold"]:
                    held["sum"].add_(p.grad.abs())
                    scaled = p.grad / (group["eps"] + held["sum"]) ** (1 / group["power"])
                    p.add_(-group["lr"] * scaled)


def train_step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> None:
    """One plain training step."""
    loss = functional.cross_entropy(model(batch[0]), batch[1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def one_by_one(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The empirical Fisher of a batch as most people write it: one backward per sample."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in zip(*batch, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x[None]), y[None]).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad**2
    return total


def vectorized(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The same by ``torch.func``: per-sample gradients side by side, then squared and summed."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, values, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, *batch)
    return {name: g.square().sum(0) for name, g in each.items()}
