"""A head that grows as classes arrive: the common practice of class-incremental learning, ``--outputs growing``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["carry_over", "grow"]


@torch.no_grad()
def grow(head: nn.Linear, outputs: int, generator: torch.Generator) -> None:
    """Give a head more outputs: the old rows stay, new ones are drawn as PyTorch draws a layer's.

    Args:
        head: ``F -> K``; its parameters are replaced.
        outputs: the new K, at least the old one.
        generator: CPU generator of the new rows.
    """
    assert outputs >= head.out_features
    bound = head.in_features**-0.5
    for name, old in list(head.named_parameters()):
        shape = (outputs, *old.shape[1:])
        new = torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator).to(old)
        new[: len(old)] = old
        setattr(head, name, nn.Parameter(new, requires_grad=old.requires_grad))
    head.out_features = outputs


@torch.no_grad()
def carry_over(old: Optimizer, new: Optimizer) -> None:
    """Hand an optimizer's state on to one of the same parameters, of which some have grown; new entries start at 0.

    Args:
        old: the optimizer so far.
        new: one just made, with as many parameters in the same order.
    """
    new.load_state_dict(old.state_dict())
    for group in new.param_groups:
        for parameter in group["params"]:
            held = new.state.get(parameter, {})
            for name, value in held.items():
                if isinstance(value, Tensor) and value.ndim == parameter.ndim and value.shape != parameter.shape:
                    grown = value.new_zeros(parameter.shape)
                    grown[: len(value)] = value
                    held[name] = grown
