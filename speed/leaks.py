"""How much of a weight's change lies where a method claims to preserve it: ``python -m speed.leaks [--out FILE]``.

One linear layer of 64 by 64, on random regression, for 100 and 1,000 steps of AdamW with weight decay: PEFT's OSF,
which projects gradients, beside GPM and AdamNSCL, which project the step that the optimizer made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast import GPM, AdamNSCL

__all__ = ["leaks"]

_SIZE, _STEPS, _RATE, _DECAY = 64, (100, 1000), 1e-3, 1e-2


def leaks(seed: int = 0) -> dict[str, float]:
    """Method and steps -> share of the change (Frobenius norm) in the directions that it claims to preserve.

    Args:
        seed: of data and weights.
    """
    found = {}
    for steps in _STEPS:
        each = {
            "peft OSF": _osf(seed, steps),
            "gpm": _ours(GPM, seed, steps),
            "adam-nscl": _ours(AdamNSCL, seed, steps),
        }
        found |= {f"{name}, {steps} steps": share for name, share in each.items()}
    return found


def _task(seed: int, rank: int) -> tuple[Tensor, Tensor]:
    """Inputs that fill a part of their space, and what they are to become."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(256, rank, generator=generator) @ torch.randn(rank, _SIZE, generator=generator) / rank**0.5
    return inputs, torch.randn(256, _SIZE, generator=generator)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()


def _osf(seed: int, steps: int) -> float:
    """Of ΔW, what is not orthogonal to the left and right singular vectors that OSF holds."""
    import peft

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(_SIZE, _SIZE, bias=False))
    before = model[0].weight.detach().clone()
    wrapped = peft.get_peft_model(model, peft.OSFConfig(target_modules=["0"], effective_rank=_SIZE // 2))
    left, _, right = torch.linalg.svd(before)
    left, right = left[:, : _SIZE // 2], right[: _SIZE // 2]
    _train(wrapped, torch.optim.AdamW(wrapped.parameters(), _RATE, weight_decay=_DECAY), *_task(seed + 1, _SIZE), steps)
    change = wrapped.merge_and_unload()[0].weight.detach() - before
    free = change - left @ (left.T @ change)
    free = free - (free @ right.T) @ right
    return float((change - free).norm() / change.norm())


def _ours(kind: type[GPM] | type[AdamNSCL], seed: int, steps: int) -> float:
    """Of ΔW, what acts on the directions in which the first task's inputs lie."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(_SIZE, _SIZE, bias=False)).double()
    inputs, targets = (t.double() for t in _task(seed + 1, 8))
    keep = kind(model, objective=lambda outputs, batch: (outputs - batch[1]).square().sum(1))
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=_DECAY)
    keep.attach(optimizer)
    _train(model, optimizer, inputs, targets, _STEPS[0])
    keep.consolidate([(inputs, targets)])
    before = model[0].weight.detach().clone()
    _train(model, optimizer, *(t.double() for t in _task(seed + 2, _SIZE)), steps)
    change = model[0].weight.detach() - before
    _, _, directions = torch.linalg.svd(inputs, full_matrices=False)
    return float((change @ directions[:8].T).norm() / change.norm())


def main() -> None:
    """Print the shares; keep them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = leaks()
    for name, share in found.items():
        print(f"{name}: {100 * share:.2g} % of the change")
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
