"""One process of two in which a Trainer trains under DDP, or alone: writes down the weights that came out."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

import holdfast
from holdfast.integrations.transformers import HoldfastCallback
from tests.integrations.trainers import arguments, batch_of, causal, rows, weights

METHODS = {
    "ewc": lambda m: holdfast.EWC(m, strength=3.0, fisher="empirical"),
    "ewc, loss": lambda m: holdfast.EWC(m, strength=1.0, fisher="empirical", coupling="loss"),
    "lwf": lambda m: holdfast.LwF(m, strength=3.0),
}


def run(name: str, folder: Path, processes: int) -> dict[str, torch.Tensor]:
    """Two tasks, each remembered at its end by what each process has of it."""
    model = causal()
    keep = METHODS[name](model)
    keep.consolidate([batch_of(rows(1))])
    for task in (2, 3):
        args = arguments(
            folder, per_device_train_batch_size=4 // processes, gradient_accumulation_steps=2, optim="sgd",
            learning_rate=0.1, max_grad_norm=1.0, logging_strategy="steps", logging_steps=2,
        )  # fmt: skip
        data = rows(task, uneven=True)
        transformers.Trainer(
            model, args, train_dataset=data, callbacks=[HoldfastCallback(keep, consolidate=True, samples=16)]
        ).train()
    return weights(model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    target, processes = Path(sys.argv[1]), int(sys.argv[2])
    for case in METHODS:
        found = run(case, target, processes)
        here = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        holdfast.save_state(found, target / f"{case} {here}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
