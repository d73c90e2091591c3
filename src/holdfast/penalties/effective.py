r"""The weights that a layer with adapters computes with, and how a gradient on them reaches the adapters.

Adapters are coordinates: :math:`A \to -2A,\ B \to -B/2` changes nothing of what a layer computes. A penalty on
:math:`W = W_0 + \sum_a s_a B_a A_a` sees what is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.names import canonical_modules, canonical_parameters
from holdfast.penalties.gradient import add_quadratic_gradient
from holdfast.sharding import is_sharded
from holdfast.wrappers import adapters_of, is_copied, is_lora

__all__ = ["Site", "gradient_at", "merged", "moved_with", "pulled_back", "sites"]


@dataclass(frozen=True)
class Site:
    """One layer with adapters.

    Attributes:
        layer: of PEFT.
    """

    layer: Any

    @property
    def base(self) -> Tensor:
        """W₀, ``[*p]``."""
        weight: Tensor = self.layer.get_base_layer().weight
        return weight.detach()

    @property
    def active(self) -> list[str]:
        """The adapters that take part now: none where they are switched off, or merged into the weight already."""
        if self.layer.disable_adapters or self.layer.merged:
            return []
        return [name for name in self.layer.active_adapters if name in self.layer.scaling]

    def trained(self) -> list[nn.Parameter]:
        """The parameters of the active adapters that are trained."""
        found = []
        for name in self.layer.adapter_layer_names:
            held = getattr(self.layer, name)
            for adapter in self.active:
                if adapter in held:
                    one = held[adapter]
                    found += [one] if isinstance(one, nn.Parameter) else list(one.parameters())
        return [parameter for parameter in found if parameter.requires_grad]

    def weight(self) -> Tensor:
        """W₀ + Σ s B A, ``[*p]``, with a graph to the adapters."""
        total = self.base
        for name in self.active:
            total = total + self.layer.get_delta_weight(name).to(total.dtype)
        return total


def gradient_at(
    anchor: Tensor, importance: Tensor | None, factor: float, scale: Tensor | None, weight: Tensor
) -> Tensor:
    r"""The gradient of a quadratic penalty on a weight: :math:`2 a F (W - W^*)`, times the scale.

    Args:
        anchor: W*, ``[*p]``.
        importance: F, ``[*p]``; ``None`` for 1 everywhere.
        factor: a.
        scale: what gradients are multiplied by, ``[]``; ``None`` for 1.
        weight: W, ``[*p]``.
    """
    found = torch.zeros_like(weight)
    add_quadratic_gradient([weight], [found], [anchor], None if importance is None else [importance], factor, scale)
    return found


def sites(model: nn.Module, names: Sequence[str]) -> dict[str, Site]:
    """The layers with adapters whose weights are among those named.

    Args:
        model: with adapters of PEFT.
        names: of parameters, as the model has them.

    Raises:
        ConfigurationError: for adapters that do more than add to a weight (DoRA, IA3, a bias of LoRA), that act on
            something else than a layer's weight, or sharded ones.
    """
    found = adapters_of(model)
    layers = {id(layer) for layer in (found[1] if found else ())}
    known = {}
    for name, module in canonical_modules(model):
        place = f"{name}.base_layer.weight"
        if id(module) not in layers or is_copied(module):
            continue
        inside = [each for each in names if each.startswith(f"{name}.")]
        if inside:
            _check_adds(name, module, inside)
        if place in names:
            if is_sharded(module.get_base_layer().weight):  # type: ignore[operator]  # known by its type
                raise ConfigurationError(f"{name} is sharded; on='effective' expects whole weights: DDP or one process")
            known[place] = Site(module)
    return known


def moved_with(model: nn.Module) -> set[str]:
    """Names of the weights that training a model with LoRA moves: those of adapted layers, and what else is trained.

    Args:
        model: with adapters of PEFT.
    """
    found = adapters_of(model)
    adapted = {id(layer): layer for layer in (found[1] if found else ()) if not is_copied(layer)}
    held = [getattr(layer, name) for layer in adapted.values() for name in layer.adapter_layer_names]
    theirs = {id(p) for one in held for p in ([one] if isinstance(one, nn.Parameter) else one.parameters())}
    bases = {f"{name}.base_layer.weight" for name, module in canonical_modules(model) if id(module) in adapted}
    return {
        name
        for name, p in canonical_parameters(model).items()
        if name in bases or (p.requires_grad and id(p) not in theirs)
    }


@contextlib.contextmanager
def merged(model: nn.Module, places: Mapping[str, Site]) -> Iterator[None]:
    """A model whose base weights are its effective ones meanwhile, and which computes the same.

    To merge and unmerge as PEFT does would leave rounding errors behind; here what was there is put back.

    Args:
        model: with adapters.
        places: name of a weight -> its layer.

    Raises:
        ConfigurationError: for a weight that something else computes with, too.
    """
    acting = {name: site for name, site in places.items() if site.active}
    weights = {name: site.layer.get_base_layer().weight for name, site in acting.items()}
    for name, weight in weights.items():
        users = [each for each, p in model.named_parameters(remove_duplicate=False) if p is weight]
        if len(users) > 1:
            raise ConfigurationError(
                f"{name!r} has an adapter, and {users[-1]!r} is the same weight without it, so that there is no one "
                "effective weight to remember; expected an adapter on neither, or weights that are not tied"
            )
    before = {name: (weight.data, acting[name].layer.merged_adapters) for name, weight in weights.items()}
    try:
        for name, site in acting.items():
            weights[name].data = site.weight().detach()
            site.layer.merged_adapters = site.active
        yield
    finally:
        for name, (data, known) in before.items():
            weights[name].data, acting[name].layer.merged_adapters = data, known


def _check_adds(name: str, layer: Any, inside: Sequence[str]) -> None:
    """Refuse a layer whose adapters are not a term of its weight, or of which more is remembered than that weight.

    Raises:
        ConfigurationError: naming the layer.
    """
    if not is_lora(layer):
        raise ConfigurationError(
            f"{name} has an adapter of the kind {type(layer).__module__}.{type(layer).__qualname__}; on='effective' "
            "knows the weight that LoRA gives: expected LoRA, or on='weights'"
        )
    for adapter, variant in layer.lora_variant.items():
        raise ConfigurationError(
            f"{name} has the adapter {adapter!r} with {type(variant).__name__} (DoRA and the like), which does "
            "more than add to the weight, so that no sum is its effective weight; expected LoRA without it"
        )
    biased = [adapter for adapter, has in layer.lora_bias.items() if has]
    other = [each for each in inside if each not in (f"{name}.base_layer.weight", f"{name}.base_layer.bias")]
    if other:
        raise ConfigurationError(
            f"{name} has an adapter on {other[0]!r}; on='effective' expects it on a layer's weight: drop([...]) what "
            "is remembered of this layer"
        )
    if biased and f"{name}.base_layer.bias" in inside:
        raise ConfigurationError(
            f"{name} has the adapter {biased[0]!r} with lora_bias=True, which also moves its bias; expected lora_bias="
            f"False, or drop('{name}.base_layer.bias') of what is remembered"
        )


def pulled_back(site: Site, trained: Sequence[nn.Parameter], gradient_on: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    r"""A gradient on an effective weight, at the adapters' parameters.

    .. math:: \partial A = s B^\top G, \qquad \partial B = s G A^\top

    and likewise for convolutions and embeddings, by the layer's own sum.

    Args:
        site: the layer.
        trained: those of its parameters for which it is asked.
        gradient_on: ``W -> G``, a function of the effective weight.

    Yields:
        The parameters, each with its gradient.
    """
    with torch.enable_grad():
        weight = site.weight()
    grads = torch.autograd.grad(weight, list(trained), gradient_on(weight.detach()), allow_unused=True)
    for parameter, grad in zip(trained, grads, strict=True):
        if grad is not None:
            yield parameter, grad
