"""Low-rank adapters in place of all weights, through PEFT: which layers have them, another one, their merging."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from holdfast.errors import DependencyError

__all__ = ["adapted", "added", "layers", "merged", "number", "saved"]

_FIRST, _DOWN = "default", ".lora_A."


def adapted(model: nn.Module, rank: int, *, skip: nn.Module | None = None) -> nn.Module | None:
    """A model whose linear layers have adapters that are trained, and all else is frozen.

    Args:
        model: of Transformers, or any other.
        rank: of the adapters.
        skip: a layer that gets none.

    Returns:
        The model of PEFT; ``None`` where there is no layer for them.

    Raises:
        DependencyError: if PEFT is not installed.
    """
    try:
        from peft import get_peft_model
    except ImportError as error:
        raise DependencyError("adapters need: pip install 'holdfast[adapt]'") from error
    targets = [name for name, layer in layers(model) if layer is not skip]
    if not targets:
        return None
    with _quietly():
        found: nn.Module = get_peft_model(model, _config(rank, targets))
    return found


def number(model: Any) -> int:
    """How many adapters a model has."""
    return len(getattr(model, "peft_config", ()))


def saved(names: Iterable[str]) -> int:
    """How many adapters the weights of these names are of."""
    return len({name.split(_DOWN)[1].split(".")[0] for name in names if _DOWN in name})


def added(model: Any) -> None:
    """One more adapter beside those there are: it is trained, the others stay in and are frozen.

    Args:
        model: as from :func:`adapted`; the new one is of the first's rank.
    """
    earlier = list(model.peft_config)
    name = f"task-{len(earlier)}"
    with _quietly():
        first = model.peft_config[_FIRST]
        model.add_adapter(name, _config(first.r, sorted(first.target_modules)))
    model.base_model.set_adapter([*earlier, name])
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(f".{name}." in path)


def merged(model: Any) -> Any:
    """The model with its adapters put into the weights, so that it is what it was before but for these."""
    merge = getattr(model, "merge_and_unload", None)
    return merge() if callable(merge) else model


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The linear layers within (GPT-2's are called Conv1D) that adapters can be put in, each with its name.

    A layer that shares its weight with another is none, for merging would change the other one, too; nor is the last
    layer of a language model, as is usual.
    """
    owners = Counter(id(owned) for layer in model.modules() for owned in layer._parameters.values())
    answering = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if (isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D")
        and layer is not answering
        and owners[id(layer.weight)] == 1
    ]


def _config(rank: int, targets: list[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)


@contextmanager
def _quietly() -> Iterator[None]:
    """PEFT sees for itself that GPT-2's layers are transposed, and says so; it asks Transformers in an older way."""
    with warnings.catch_warnings():
        for message in ("fan_in_fan_out", "`is_gradient_checkpointing` is deprecated"):
            warnings.filterwarnings("ignore", message=message)
        yield
