"""Which weights a normalisation follows, so that their norm changes nothing of what the model computes.

The model's forward is traced (``torch.fx``), without data, and every use of a weight is followed to whatever uses its
output. Only what is certain counts: a layer whose output goes to a normalisation and nowhere else.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from holdfast.errors import ConfigurationError
from holdfast.names import canonical_parameters, unwrap
from holdfast.sharding import fsdp_modules

__all__ = ["final_weights", "followed_weights", "traced"]

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
# Of a channel's constant share nothing is left, so a bias does not matter.
_CENTRED = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_SCALED = (nn.LayerNorm, nn.GroupNorm, *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []))
_SCALING = {F.layer_norm, F.group_norm, F.normalize}
# f(c x) = c f(x) for c > 0
_HOMOGENEOUS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Identity,
    nn.Flatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
_HOMOGENEOUS_FUNCTIONS = {F.relu, torch.relu, F.leaky_relu, torch.flatten, F.dropout, F.max_pool2d, F.avg_pool2d}
_HOMOGENEOUS_FUNCTIONS |= {F.adaptive_avg_pool2d, torch.permute, torch.transpose, torch.reshape}
_HOMOGENEOUS_METHODS = {"relu", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "unsqueeze"}
_SHAPES = {"size", "dim", "numel"}  # what says nothing of the values


class Traced:
    """A model's forward, as a graph."""

    root: nn.Module
    graph: fx.Graph

    def __init__(self, model: nn.Module) -> None:
        self.root = unwrap(model)
        with torch.random.fork_rng(devices=[]):  # a forward may draw
            self.graph = fx.Tracer().trace(self.root)

    def module(self, node: fx.Node) -> nn.Module | None:
        """What is called; ``None`` for anything but a module."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def uses(self) -> Iterator[tuple[nn.Parameter, bool]]:
        """Each use of each parameter, and whether it is that of a layer's weight which a normalisation follows."""
        for node in self.graph.nodes:
            module = self.module(node)
            if module is not None:
                layer = isinstance(module, _LAYERS) and not is_parametrized(module)
                followed = layer and self._followed(node, shifted=module.bias is not None)
                for parameter in module.parameters():
                    yield parameter, followed and parameter is module.weight
            elif node.op == "get_attr":
                found = operator.attrgetter(str(node.target))(self.root)
                if isinstance(found, nn.Parameter):
                    yield found, False

    def _followed(self, node: fx.Node, *, shifted: bool) -> bool:
        """Whether all that becomes of an output c x (+ b, where it is shifted) is the same for every c > 0."""
        return bool(node.users) and all(self._free(user, node, shifted) for user in node.users)

    def _free(self, user: fx.Node, node: fx.Node, shifted: bool) -> bool:
        module = self.module(user)
        if module is not None:
            if isinstance(module, _CENTRED):
                return True
            if isinstance(module, _HOMOGENEOUS) and (not shifted or isinstance(module, nn.Identity)):
                return self._followed(user, shifted=shifted)
            return isinstance(module, _SCALED) and not shifted
        if user.op == "call_method" and user.target in _SHAPES:
            return True
        if user.op == "call_function" and user.target is getattr:
            return user.args[1] in ("shape", "dtype", "device")
        if shifted or not user.args or user.args[0] is not node:
            return False
        if user.op == "call_function" and user.target in _SCALING:
            return True
        known = _HOMOGENEOUS_FUNCTIONS if user.op == "call_function" else _HOMOGENEOUS_METHODS
        return (
            user.op in ("call_function", "call_method") and user.target in known and self._followed(user, shifted=False)
        )

    def last(self) -> Iterator[nn.Linear]:
        """The linear layers behind which nothing is learned."""
        waiting = [node for node in self.graph.nodes if node.op == "output"]
        seen: set[fx.Node] = set()
        while waiting:
            for node in waiting.pop().all_input_nodes:
                module = self.module(node)
                if node in seen or node.op == "get_attr":
                    continue
                seen.add(node)
                if isinstance(module, nn.Linear) and not is_parametrized(module):
                    yield module
                elif module is None or next(module.parameters(), None) is None:
                    waiting.append(node)


def traced(
    model: nn.Module,
    option: str = "select",
    unknown: str = "it is not known which weights a normalisation follows",
) -> Traced:
    """A model's forward as a graph.

    Args:
        model: any module, wrapped or not.
        option: what names by hand what is looked for.
        unknown: what is not known otherwise.

    Raises:
        ConfigurationError: if it cannot be traced, such as one whose course depends on its data.
    """
    if fsdp_modules(model):
        raise ConfigurationError(
            f"{type(unwrap(model)).__name__} is sharded, and its forward can only be traced before that, so {unknown}: "
            f"make the method before fully_shard, or name them with {option}"
        )
    try:
        return Traced(model)
    except Exception as error:  # whatever a forward does with what is no tensor
        first = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"the forward of {type(unwrap(model)).__name__} cannot be traced, so {unknown} ({first}): name them with "
            f"{option}"
        ) from error


def followed_weights(model: nn.Module, graph: Traced) -> list[str]:
    """The weights of layers all of whose uses a normalisation follows, by canonical names.

    BatchNorm and InstanceNorm count in any case, for while they train they take the mean away and with it the bias;
    LayerNorm, GroupNorm and RMSNorm behind layers without a bias. ReLU, dropout, pooling and a change of shape may lie
    between, where there is no bias.

    Args:
        model: any module, wrapped or not.
        graph: its forward.
    """
    verdicts: dict[int, bool] = {}
    for parameter, followed in graph.uses():
        verdicts[id(parameter)] = verdicts.get(id(parameter), True) and followed
    return [name for name, p in canonical_parameters(model).items() if verdicts.get(id(p), False)]


def final_weights(model: nn.Module, graph: Traced) -> list[str]:
    """The weights of the linear layers that give a model's outputs, by canonical names.

    Args:
        model: any module, wrapped or not.
        graph: its forward.
    """
    last = {id(layer.weight) for layer in graph.last()}
    return [name for name, p in canonical_parameters(model).items() if id(p) in last]
