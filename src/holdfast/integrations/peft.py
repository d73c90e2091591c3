"""Starts of LoRA adapters that spare what the base knows, on a model of PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.checks import check_positive
from holdfast.errors import ConfigurationError
from holdfast.names import canonical_modules
from holdfast.objectives import Batch, Objective, as_objective
from holdfast.projections import starts
from holdfast.projections.basis import check_threshold
from holdfast.projections.inputs import collect
from holdfast.sharding import is_sharded
from holdfast.wrappers import is_lora

__all__ = ["FREEZES", "SETTINGS", "Start", "check_settings", "start_lora"]

Start: TypeAlias = Literal["milora", "corda", "lora-null", "inflora"]

_NEEDS = {"milora": (), "corda": ("keep",), "lora-null": ("keep",), "inflora": ("keep", "new")}
FREEZES: tuple[Start, ...] = ("lora-null", "inflora")
"""The starts that train B alone, without which they promise nothing."""

SETTINGS: dict[Start, tuple[str, ...]] = {
    "milora": (),
    "corda": ("damping",),
    "lora-null": ("tolerance",),
    "inflora": ("threshold",),
}
"""What each start can be told."""


def check_settings(**settings: float) -> None:
    """Refuse settings of a start that are no such numbers.

    Raises:
        ConfigurationError: naming the setting and its value.
    """
    for name, value in settings.items():
        (check_positive if name == "damping" else check_threshold)(name, value)


@torch.no_grad()
def start_lora(
    model: nn.Module,
    how: Start,
    *,
    keep: Iterable[Batch] | None = None,
    new: Iterable[Batch] | None = None,
    objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    adapter: str = "default",
    damping: float = 0.01,
    tolerance: float = 1e-6,
    threshold: float = 0.95,
) -> list[str]:
    r"""Set LoRA adapters to a start that spares the base; the model computes what it did.

    .. math:: W \leftarrow W - s B A, \qquad \text{A, B as } \texttt{how} \text{ says}

    Sources: :mod:`holdfast.projections.starts`. CorDA is in PEFT, too (``init_lora_weights="corda"``, prepared before
    the model is wrapped); this one takes a model that has its adapters, and A does not depend on the batches' shape.

    Say it before the optimizer is made. ``"lora-null"`` and ``"inflora"`` freeze A, without which they promise nothing.
    But for ``"inflora"``, the base that is left is not the one that was: save it with the adapter (or merge), and with
    ``LwF`` use ``teacher="copy"``, consolidated before this.

    Args:
        model: with LoRA adapters on linear layers.
        how: ``"milora"``, ``"corda"``, ``"lora-null"`` or ``"inflora"``.
        keep: batches of what must not be lost, such as ``holdfast.generations(…)``; all but MiLoRA need some.
        new: batches of what is to be learned, for InfLoRA.
        objective: what a batch means.
        adapter: its name.
        damping: CorDA's, in units of the mean energy, > 0.
        tolerance: LoRA-Null's: a direction is unused if its energy is at most that share of the largest one's.
        threshold: InfLoRA's: the share of the old inputs' energy whose directions are kept.

    Returns:
        The names of the layers that were set.

    Raises:
        ConfigurationError: for a wrong argument, no such adapter, one that does more than add to a weight, a quantised
            or sharded weight, or a rank that is too large. No layer has changed then.
    """
    if how not in _NEEDS:
        raise ConfigurationError(f"how is {how!r}; expected one of {', '.join(map(repr, _NEEDS))}")
    check_settings(damping=damping, tolerance=tolerance, threshold=threshold)
    given = {"keep": keep, "new": new}
    for name in _NEEDS[how]:
        if given[name] is None:
            raise ConfigurationError(
                f"{how} needs {name}=, batches; for keep= those of holdfast.generations(…) will do"
            )
    layers = _layers(model, adapter)
    asked = as_objective(objective, model)
    energies = {name: _energies(model, given[name], asked, layers) for name in _NEEDS[how]}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in layers.items():
        weight, rank = _matrix(layer), int(layer.r[adapter])
        energy = {which: energies[which][name].to(weight.device) for which in energies}
        try:
            if how == "milora":
                found[name] = starts.milora(weight, rank)
            elif how == "corda":
                found[name] = starts.corda(weight, energy["keep"], rank, damping)
            elif how == "lora-null":
                found[name] = starts.lora_null(weight, starts.unused_directions(energy["keep"], tolerance), rank)
            else:
                A = starts.inflora(energy["new"], starts.kept_directions(energy["keep"], threshold), rank)
                found[name] = A.new_zeros(len(weight), rank), A
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from error
    for name, layer in layers.items():
        _set(layer, adapter, *found[name], freeze=how in FREEZES)
    return list(layers)


def _layers(model: nn.Module, adapter: str) -> dict[str, Any]:
    """Name -> linear layer with that adapter."""
    found: dict[str, Any] = {}
    for name, module in canonical_modules(model):
        layer: Any = module
        if not is_lora(layer) or adapter not in layer.r:
            continue
        weight = layer.get_base_layer().weight
        if weight.dim() != 2 or adapter not in layer.lora_A:
            raise ConfigurationError(f"{name} is no linear layer; expected LoRA on linear layers alone")
        if not weight.is_floating_point() or is_sharded(weight):
            raise ConfigurationError(
                f"{name} has a quantised or sharded weight, which cannot take what is left exactly"
            )
        if layer.use_dora.get(adapter, False) or layer.lora_bias.get(adapter, False) or layer.merged:
            raise ConfigurationError(
                f"{name} has an adapter that is merged, or does more than add to a weight (DoRA, a bias)"
            )
        found[name] = layer
    if not found:
        raise ConfigurationError(f"the model has no LoRA adapter {adapter!r}; expected one of peft.get_peft_model")
    return found


def _energies(model: nn.Module, batches: Any, objective: Objective, layers: dict[str, Any]) -> dict[str, Tensor]:
    """Name of a layer -> the sum of the products of its inputs, ``[n, n]``."""
    weights = {name: layer.get_base_layer().weight for name, layer in layers.items()}
    inputs, _ = collect(model, batches, objective, weights)
    found = {name: held.columns for name, held in inputs.items() if held.columns is not None}
    missing = next((name for name in layers if name not in found), None)
    if missing is not None:
        raise ConfigurationError(f"{missing} was given no inputs by these batches, or is of a kind that is not known")
    return found


def _matrix(layer: Any) -> Tensor:
    """W, ``[o, n]``, float64."""
    weight: Tensor = layer.get_base_layer().weight.detach()
    return (weight.T if layer.fan_in_fan_out else weight).double()


def _set(layer: Any, adapter: str, B: Tensor, A: Tensor, *, freeze: bool) -> None:
    scaling = float(layer.scaling[adapter])
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    share = 1.0 if freeze else scaling**0.5  # what of the scaling A takes
    down.copy_(A / share)
    up.copy_(B * share / scaling)
    rest = _matrix(layer) - scaling * up.double() @ down.double()  # of A and B as they were rounded
    layer.get_base_layer().weight.copy_(rest.T if layer.fan_in_fan_out else rest)
    if freeze:
        down.requires_grad_(False)
