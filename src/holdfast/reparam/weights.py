"""What all parametrisations here share: which weights they may take, and the way back."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from holdfast.errors import ConfigurationError
from holdfast.names import Select, canonical_modules, canonical_parameters, named
from holdfast.sharding import is_flat, is_sharded
from holdfast.wrappers import canonical_name

__all__ = ["LAYERS", "Layers", "Reparametrised", "plain", "plain_layers", "reparametrised"]

Layers: TypeAlias = "dict[str, list[nn.Module]]"

LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, _ConvNd)


class Reparametrised(nn.Module, abc.ABC):
    """Computes a layer's weight; one that is loaded from a plain model's state goes through :meth:`right_inverse`."""

    def __init__(self) -> None:
        super().__init__()
        self.loading: list[RemovableHandle] = []  # of every layer that computes with it

    @abc.abstractmethod
    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What a weight ``[*p]`` is computed from: a tensor of its shape, or several of any."""

    def take_over(self, state: dict[str, Any], prefix: str, held: nn.Module) -> None:
        """Turn the plain weight in a state dict into what this one is computed from.

        Args:
            state: of a whole model; changed.
            prefix: of the layer's names in it.
            held: what it is computed from now, by PyTorch's names.
        """
        state[f"{prefix}parametrizations.weight.original"] = self.right_inverse(state.pop(f"{prefix}weight"))

    @abc.abstractmethod
    def fit(self, state: dict[str, Any], prefix: str, held: nn.Module) -> None:
        """Make ready for a state dict of such a model; arguments as for :meth:`take_over`.

        Raises:
            ConfigurationError: if its tensors would stand for another weight here.
        """


def reparametrised(module: nn.Module) -> Reparametrised | None:
    """What computes a layer's weight; ``None`` for a layer that nothing of ours computes."""
    return next((one for one in _chain(module) if isinstance(one, Reparametrised)), None)


def _chain(module: nn.Module) -> Any:
    """All that computes a layer's weight, in PyTorch's order."""
    lists: Any = module.parametrizations if parametrize.is_parametrized(module, "weight") else {"weight": ()}
    return lists["weight"]


def plain_layers(
    model: nn.Module,
    select: Select,
    purpose: str,
    kinds: tuple[type[nn.Module], ...] = LAYERS,
    *,
    again: bool = False,
) -> Layers:
    """The layers whose weights can be computed from something else, by the canonical names of these.

    Args:
        model: any module, wrapped or not.
        select: which weights; ``None`` for all of these layers, also frozen ones.
        purpose: who asks, for the sentence of an error.
        kinds: of layers.
        again: pass over those that are computed by something of ours already.

    Returns:
        name of a weight -> the layers that compute with it, several where it is shared.

    Raises:
        ConfigurationError: if there is none, or one that is sharded, not yet initialised, computed from something else
            already, or shared with another kind of layer.
    """
    if is_flat(model.modules()):
        raise ConfigurationError(f"the model is sharded (FSDP1); {purpose} takes whole weights: call it before that")
    wanted = set(named(model, select))
    names = {id(p): name for name, p in canonical_parameters(model).items()}
    found: Layers = {}
    passed = False
    for prefix, module in canonical_modules(model):
        if not isinstance(module, kinds):
            continue
        name = f"{prefix}.weight" if prefix else "weight"
        weight = module._parameters.get("weight")
        name = names.get(id(weight), name)
        if name not in wanted and (weight is not None or select is not None):
            continue
        if weight is None:
            by = reparametrised(module)
            passed = passed or (again and by is not None)
            if again and by is not None:
                continue
            how = "in another way" if by is None else f"by {type(by).__name__}"
            raise ConfigurationError(
                f"parameter {name!r} is computed {how} already, and {purpose} takes plain weights: leave it out with "
                "select, or bake it in with holdfast.reparam.plain(model)"
            )
        if is_lazy(weight) or is_sharded(weight):
            how = "not yet initialised" if is_lazy(weight) else "sharded"
            raise ConfigurationError(f"parameter {name!r} is {how}; {purpose} takes whole weights: call it earlier")
        found.setdefault(name, []).append(module)
    if not found and not passed:
        shown = "" if select is None else f" that select={select!r} names"
        raise ConfigurationError(
            f"the model has no layer for {purpose}{shown}; expected one of "
            f"{', '.join(kind.__name__.strip('_') for kind in kinds)}"
        )
    _check_shared(model, found, purpose)
    return found


def _check_shared(model: nn.Module, layers: Layers, purpose: str) -> None:
    """Refuse a weight that a layer of another kind would go on to read as it is."""
    known = {id(module) for modules in layers.values() for module in modules}
    weights = {id(modules[0]._parameters["weight"]): name for name, modules in layers.items()}
    for prefix, module in canonical_modules(model):
        for each, p in module._parameters.items():
            if id(p) in weights and (id(module) not in known or each != "weight"):
                raise ConfigurationError(
                    f"parameter {weights[id(p)]!r} is shared with {prefix or 'the model'!r} (a "
                    f"{type(module).__name__}), which would read what {purpose} computes it from: leave it out with "
                    "select"
                )


def _before_loading(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    by = reparametrised(module)
    if by is not None and f"{prefix}weight" in state:
        by.take_over(state, prefix, _chain(module))
    elif by is not None:
        by.fit(state, prefix, _chain(module))


def register(layers: Iterable[nn.Module], build: Any) -> None:
    """Have layers that share a weight compute it; the parameter stays the same object, so optimizers still hold it.

    Args:
        layers: that compute with one weight.
        build: makes the :class:`Reparametrised` of one layer.
    """
    modules = list(layers)
    weight = modules[0]._parameters["weight"]
    assert weight is not None
    value = weight.detach().clone()
    for module in modules:
        with torch.no_grad():
            weight.copy_(value)  # registering turns it into what the weight is computed from, each time anew
        by: Reparametrised = build()
        parametrize.register_parametrization(module, "weight", by, unsafe=True)
        assert _chain(module).original is weight
        _take_plain_states(module, by)
    weight.grad = None


def register_several(layers: Iterable[nn.Module], by: Reparametrised) -> list[nn.Parameter]:
    """Have layers that share a weight compute it from several tensors, which they share then; the weight is no more.

    Args:
        layers: that compute with one weight.
        by: what computes it, for them all.

    Returns:
        The new parameters, in the order in which it takes them.
    """
    made: list[nn.Parameter] = []
    for module in layers:
        parametrize.register_parametrization(module, "weight", by, unsafe=True)
        tensors = _chain(module)
        made = made or [getattr(tensors, f"original{i}") for i in range(tensors.ntensors)]
        for i, parameter in enumerate(made):
            setattr(tensors, f"original{i}", parameter)
        _take_plain_states(module, by)
    return made


def _take_plain_states(module: nn.Module, by: Reparametrised) -> None:
    by.loading.append(module.register_load_state_dict_pre_hook(_before_loading))  # type: ignore[no-untyped-call]  # PyTorch's own


def _own_class(module: nn.Module) -> None:
    """Give a parametrised layer a class of its own: PyTorch makes one per layer, which the layer's copies share.

    Removing a parametrisation deletes the weight from that class, and so would take it from the copies.
    """
    kind = type(module)
    held = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, held)


def plain(model: nn.Module) -> nn.Module:
    """Bake every weight that is computed here into a plain parameter; the model answers as it did.

    Parameters stay the same objects; that of a weight which was computed from several is a new one. Methods that
    remember what the weights were computed from do not know the plain ones: this is for a model that is finished.

    Args:
        model: any module, wrapped or not; changed.

    Returns:
        The model.

    Raises:
        ConfigurationError: if a weight has another parametrisation beside ours.
    """
    layers = [(name, module) for name, module in canonical_modules(model) if reparametrised(module) is not None]
    values = {}
    for name, module in layers:
        if len(_chain(module)) > 1:
            others = ", ".join(type(each).__name__ for each in _chain(module))
            raise ConfigurationError(
                f"parameter {canonical_name(f'{name}.weight')!r} is computed by {others}; expected one of ours alone"
            )
        weight = module.weight
        assert isinstance(weight, Tensor)
        values[id(module)] = weight.detach().clone()
    new: dict[int, nn.Parameter] = {}  # of weights that have none any more, which layers may share
    for _, module in layers:
        by = reparametrised(module)
        assert by is not None
        while by.loading:
            by.loading.pop().remove()
        several = not _chain(module).is_tensor
        if several:
            trained = any(p.requires_grad for p in _chain(module).parameters())
            new.setdefault(id(by), nn.Parameter(values[id(module)], requires_grad=trained))
        _own_class(module)
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=several)
        if several:
            module._parameters["weight"] = new[id(by)]
    with torch.no_grad():
        for _, module in layers:
            parameter = module._parameters["weight"]
            assert parameter is not None
            parameter.copy_(values[id(module)])
            parameter.grad = None
            for name in [name for name in module._parameters if name != "weight"]:  # as a plain layer orders them
                module._parameters[name] = module._parameters.pop(name)
    return model
