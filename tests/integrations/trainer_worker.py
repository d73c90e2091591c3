"""One process of two in which a Trainer trains under DDP or FSDP2, or alone: writes down the weights that came out."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

import holdfast
from holdfast.integrations.transformers import HoldfastCallback
from holdfast.sharding import whole
from tests.integrations.trainers import arguments, batch_of, causal, rows, weights

# An older Trainer of several processes on a CPU reads its optimizer onto a device "cpu:0", which PyTorch does not know.
RESUMES = int(transformers.__version__.partition(".")[0]) >= 5
METHODS = {
    "ewc": lambda m: holdfast.EWC(m, strength=3.0, fisher="empirical"),
    "ewc, loss": lambda m: holdfast.EWC(m, strength=1.0, fisher="empirical", coupling="loss"),
    "lwf": lambda m: holdfast.LwF(m, strength=3.0),
}
_LAYERS = {"version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"]}
_AGAIN = {"version": 2, "auto_wrap_policy": "NO_WRAP"}  # sharded already: Accelerate finds no layer of that name then
WAYS: dict[str, list[dict[str, Any]]] = {
    "ddp": [{}, {}],
    "fsdp2": [{"fsdp": True, "fsdp_config": _LAYERS}, {"fsdp": True, "fsdp_config": _AGAIN}],
}


def shard_on_a_cpu() -> None:
    """Have Accelerate take the Trainer's plugin for FSDP on a CPU, too, where it offers that for GPUs alone."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    own = Accelerator.__init__

    @functools.wraps(own)
    def init(self: Accelerator, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        if fsdp_plugin is not None:
            for state in (AcceleratorState, PartialState):
                state._shared_state["distributed_type"] = DistributedType.FSDP
            AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin

    Accelerator.__init__ = init


def trainer_of(
    model: Any,
    keep: holdfast.Method,
    folder: Path,
    processes: int,
    task: int = 2,
    consolidate: bool = False,
    **settings: Any,
) -> transformers.Trainer:
    args = arguments(
        folder, per_device_train_batch_size=4 // processes, gradient_accumulation_steps=2, learning_rate=0.1,
        max_grad_norm=1.0, logging_strategy="steps", logging_steps=2, **settings,
    )  # fmt: skip
    callback = HoldfastCallback(keep, consolidate=consolidate, samples=16)
    return transformers.Trainer(model, args, train_dataset=rows(task, uneven=True), callbacks=[callback])


def run(name: str, folder: Path, processes: int, way: str = "ddp") -> dict[str, torch.Tensor]:
    """Two tasks, each remembered at its end by what each process has of it."""
    model = causal()
    keep = METHODS[name](model)
    keep.consolidate([batch_of(rows(1))])
    for task, settings in zip((2, 3), WAYS[way], strict=True):
        trainer = trainer_of(model, keep, folder, processes, task, consolidate=True, optim="sgd", **settings)
        assert trainer.is_fsdp_enabled is (way == "fsdp2")
        trainer.train()
    return {key: whole(p).clone() for key, p in weights(model).items()}


def resumed(name: str, folder: Path, processes: int, way: str) -> dict[str, dict[str, torch.Tensor]]:
    """A task that runs through, and one that a fresh model and method take up in its middle."""
    saving = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", **WAYS[way][0]}
    found = {}
    for kind, checkpoint in (("undisturbed", None), ("resumed", str(folder / name / "checkpoint-2"))):
        model = causal()
        keep = METHODS[name](model)
        if checkpoint is None:
            keep.consolidate([batch_of(rows(1))])
        trainer_of(model, keep, folder / name, processes, **saving).train(resume_from_checkpoint=checkpoint)
        assert keep.num_tasks == 1
        found[kind] = {key: whole(p).clone() for key, p in weights(model).items()}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    target, processes, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if how == "fsdp2":
        shard_on_a_cpu()
    for case in sys.argv[4:] or METHODS:
        found = {"": run(case, target, processes, how)}
        if RESUMES:
            found |= resumed(case, target, processes, how)
        here = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        for kind, each in found.items():
            holdfast.save_state(each, target / " ".join(filter(None, [case, kind, str(here)])))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
