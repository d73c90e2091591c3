"""Record what the layers of one forward pass met, and where its autograd graph uses each parameter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from holdfast.errors import ConfigurationError
from holdfast.importance.rule import Rule
from holdfast.importance.rules import rule_of
from holdfast.names import canonical_modules

__all__ = ["Call", "Capture", "Graph", "Layer", "layers_of"]


@dataclass(frozen=True, eq=False)
class Layer:
    """What a rule handles as one: a module that it knows, and any other that shares the module's weight.

    Attributes:
        modules: the module, and those others.
        names: local parameter name of the module -> canonical name; wanted parameters only.
        rule: the rule.
    """

    modules: tuple[nn.Module, ...]
    names: dict[str, str]
    rule: type[Rule]


def layers_of(model: nn.Module, wanted: Mapping[str, nn.Parameter]) -> list[Layer]:
    """The layers whose wanted parameters a rule may handle.

    Left out are subclasses, layers with a forward of their own, parametrized weights, and every parameter that two
    modules share, but for a linear layer and an embedding: for those a rule could be wrong.
    """
    names = {id(p): name for name, p in wanted.items()}
    owners: dict[int, list[nn.Module]] = {}
    modules = [module for _, module in canonical_modules(model)]
    for module in modules:
        for p in module._parameters.values():
            if p is not None:
                owners.setdefault(id(p), []).append(module)
    layers = []
    for module in modules:
        local = {key: names[id(p)] for key, p in module._parameters.items() if p is not None and id(p) in names}
        others = [o for key in local for o in owners[id(module._parameters[key])] if o is not module]
        rule = rule_of(module, *others) if len(others) < 2 else None
        if local and rule is not None and not any("forward" in vars(each) for each in (module, *others)):
            layers.append(Layer((module, *others), local, rule))
    return layers


@dataclass(frozen=True)
class Call:
    """One call of a module: its input, that input's version then, and the edge at which its output's gradient arrives.

    The edge, not the output: an in-place activation would turn the output tensor into its own.
    """

    inputs: Tensor | None
    version: int
    edge: GradientEdge | None
    shape: torch.Size


_UNKNOWN = Call(None, 0, None, torch.Size())


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
        handles = [
            module.register_forward_hook(self._see, prepend=True, with_kwargs=True)
            for layer in self._layers
            for module in layer.modules
        ]
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

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._on:
            return
        known = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        edge = get_gradient_edge(output) if known and output.requires_grad else None
        call = Call(args[0].detach(), args[0]._version, edge, output.shape) if known else _UNKNOWN
        self.calls.setdefault(module, []).append(call)


class Graph:
    """The autograd graph below a tensor.

    Attributes:
        nodes: every node that can be reached.
        uses: id of a parameter -> how many edges lead to it.
        users: a node and the number of its output -> the nodes that take it, once for each time.
    """

    def __init__(self, root: Node | None) -> None:
        self.nodes: set[Node] = set()
        self.uses: dict[int, int] = {}
        self.users: dict[tuple[Node, int], list[Node]] = {}
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
            for following, number in node.next_functions:
                if following is None:
                    continue
                variable = getattr(following, "variable", None)  # only AccumulateGrad, the leaf, has one
                if variable is None:
                    self.users.setdefault((following, number), []).append(node)
                    stack.append(following)
                else:
                    self.uses[id(variable)] = self.uses.get(id(variable), 0) + 1
