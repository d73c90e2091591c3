"""Accelerate: the one thing that ``save_state`` and ``load_state`` do not do by themselves.

In one process and under DDP the optimizer's state holds what a method remembers, and Accelerate saves and loads that.
Of FSDP's and DeepSpeed's optimizers it saves what belongs to a parameter alone; there a method needs a file of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from accelerate import Accelerator
from accelerate.utils import DistributedType

from holdfast.errors import ConfigurationError
from holdfast.files import load_state, save_state
from holdfast.method import Method

__all__ = ["register_for_checkpointing"]

_TAKEN_APART: Final = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def register_for_checkpointing(accelerator: Accelerator, *keeps: Method) -> None:
    """Have ``accelerator.save_state`` and ``load_state`` take methods along wherever the optimizer's state does not.

    Where Accelerate takes the optimizer's state apart, each method's state is written, whole, into
    ``holdfast_0.safetensors`` (and so on) of the folder and read from it; nothing is pickled, and the number of
    processes may be another one then. Elsewhere it is part of the optimizer's state, and no file is written.

    Args:
        accelerator: whose checkpoints.
        keeps: the methods, in the same order when they are loaded.

    Raises:
        ConfigurationError: without a method, or for something else.

    Example:
        >>> import torch, holdfast
        >>> from accelerate import Accelerator
        >>> from holdfast.integrations.accelerate import register_for_checkpointing
        >>> accelerator, model = Accelerator(cpu=True), torch.nn.Linear(4, 2)
        >>> keep = holdfast.EWC(model, strength=1e3)
        >>> register_for_checkpointing(accelerator, keep)
    """
    if not keeps:
        raise ConfigurationError("register_for_checkpointing got no method; expected at least one")
    for keep in keeps:
        if not isinstance(keep, Method):
            raise ConfigurationError(
                f"register_for_checkpointing got a {type(keep).__name__}; expected a method of holdfast"
            )

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        each_node = accelerator.project_configuration.save_on_each_node
        writes = accelerator.is_local_main_process if each_node else accelerator.is_main_process
        for number, keep in enumerate(keeps):
            path = _path(folder, number)
            if accelerator.distributed_type in _TAKEN_APART:
                state = keep.state_dict()  # in every process: it gathers
                if writes:
                    save_state(state, path)
            elif writes:
                path.unlink(missing_ok=True)  # of an earlier checkpoint in the same folder

    def load(models: list[Any], folder: str) -> None:
        for number, keep in enumerate(keeps):
            path = _path(folder, number)
            if path.exists():
                keep.recall(load_state(path))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _path(folder: str, number: int) -> Path:
    return Path(folder) / f"holdfast_{number}.safetensors"
