"""Record what the layers of one forward pass met, and where its autograd graph uses each parameter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from holdfast.errors import ConfigurationError
from holdfast.importance.rules import RULES
from holdfast.names import canonical_modules
from holdfast.sharding import kind_of

__all__ = ["Call", "Capture", "Graph", "Layer", "exact", "layers_of"]


@dataclass(frozen=True)
class Layer:
    """A module that a rule knows, and its wanted parameters: local name -> canonical name."""

    module: nn.Module
    names: dict[str, str]


def layers_of(model: nn.Module, wanted: Mapping[str, nn.Parameter]) -> list[Layer]:
    """The layers whose wanted parameters a rule may handle.

    Left out are subclasses, layers with a forward of their own, parametrized weights, and every parameter
    that two modules share: for those a rule could be wrong.
    """
    names = {id(p): name for name, p in wanted.items()}
    owners: dict[int, int] = {}
    modules = [module for _, module in canonical_modules(model)]
    for module in modules:
        for p in module._parameters.values():
            if p is not None:
                owners[id(p)] = owners.get(id(p), 0) + 1
    layers = []
    for module in modules:
        local = {key: names[id(p)] for key, p in module._parameters.items() if p is not None and id(p) in names}
        plain = kind_of(module) in RULES and "forward" not in vars(module)
        if local and plain and all(owners[id(module._parameters[key])] == 1 for key in local):
            layers.append(Layer(module, local))
    return layers


@dataclass(frozen=True)
class Call:
    """One call of a layer: its input, that input's version then, and the edge at which its output's gradient arrives.

    The edge, not the output: an in-place activation would turn the output tensor into its own.
    """

    inputs: Tensor | None
    version: int
    edge: GradientEdge | None


class Capture:
    """The calls of each layer during one forward pass."""

    def __init__(self, layers: list[Layer]) -> None:
        self._layers = layers
        self._on = False
        self.calls: dict[nn.Module, list[Call]] = {}

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Hooks on all layers, removed on leaving."""
        # First among the output hooks, so that a user's hook cannot have changed the output.
        handles = [layer.module.register_forward_hook(self._see, prepend=True) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record within; outside, a recomputed forward pass (checkpointing) is not another call."""
        self.calls = {}
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def inputs(self) -> Iterator[Tensor | None]:
        """What each call was given."""
        return (call.inputs for calls in self.calls.values() for call in calls)

    def _see(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._on:
            return
        known = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        edge = get_gradient_edge(output) if known and output.requires_grad else None
        call = Call(args[0].detach(), args[0]._version, edge) if known else Call(None, 0, None)
        self.calls.setdefault(module, []).append(call)


class Graph:
    """The autograd graph below a tensor.

    Attributes:
        nodes: every node that can be reached.
        uses: id of a parameter -> how many edges lead to it.
    """

    def __init__(self, root: Node | None) -> None:
        self.nodes: set[Node] = set()
        self.uses: dict[int, int] = {}
        stack = [] if root is None else [root]
        while stack:
            node = stack.pop()
            if node in self.nodes:
                continue
            self.nodes.add(node)
            if type(node).__name__ == "CheckpointFunctionBackward":
                raise ConfigurationError(
                    "the model uses reentrant activation checkpointing, which hides its parameters from "
                    "torch.autograd.grad; expected use_reentrant=False"
                )
            for following, _ in node.next_functions:
                if following is None:
                    continue
                variable = getattr(following, "variable", None)  # only AccumulateGrad, the leaf, has one
                if variable is None:
                    stack.append(following)
                else:
                    self.uses[id(variable)] = self.uses.get(id(variable), 0) + 1


def exact(module: nn.Module, call: Call, graph: Graph, size: int) -> bool:
    """Whether the one use of the layer's parameters is this call, with one leading row per sample."""
    inputs, edge = call.inputs, call.edge
    return (
        inputs is not None
        and edge is not None
        and edge.node in graph.nodes
        and inputs._version == call.version
        and inputs.dim() > 0
        and inputs.shape[0] == size
        and RULES[kind_of(module)].accepts(module, inputs)
    )
