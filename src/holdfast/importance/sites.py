"""Where a layer's rule finds, in the graph of one batch, the rows of each sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from holdfast.importance.capture import Call, Graph, Layer
from holdfast.importance.rules import rule_of

__all__ = ["Site", "site_of"]


@dataclass(frozen=True)
class Site:
    """A layer in one batch.

    Attributes:
        layer: the layer.
        inputs: what each of its modules was given, ``[B, ...]``.
        edges: where the gradient of each one's output arrives, ``[B, ...]``.
    """

    layer: Layer
    inputs: tuple[Tensor, ...]
    edges: tuple[GradientEdge, ...]


def site_of(
    layer: Layer, calls: Mapping[nn.Module, Sequence[Call]], uses: Mapping[str, int], graph: Graph, size: int
) -> Site | None:
    """Where the layer's rule applies, if each of its modules was called once, with one leading row per sample.

    Args:
        layer: the layer.
        calls: the calls of each module.
        uses: canonical name -> how often the graph uses the parameter.
        graph: the autograd graph below the batch's outputs.
        size: how many samples the batch has.
    """
    made = [calls.get(module, ()) for module in layer.modules]
    # The one use of a parameter is the one call, or where modules share the weight, one in the call of each.
    once = all(uses.get(name, 0) == (len(layer.modules) if key == "weight" else 1) for key, name in layer.names.items())
    if not once or any(len(each) != 1 for each in made):
        return None
    found = [_spread(each[0], graph, size) for each in made]
    inputs = tuple(call.inputs for call in found if call.inputs is not None)
    edges = tuple(call.edge for call in found if call.edge is not None and call.edge.node in graph.nodes)
    if not len(inputs) == len(edges) == len(found):
        return None
    for module, call, given in zip(layer.modules, found, inputs, strict=True):
        rule = rule_of(module)
        assert rule is not None
        rows = given.dim() > 0 and given.shape[0] == size and given._version == call.version
        if not (rows and rule.accepts(module, given)):
            return None
    return Site(layer, inputs, edges)


def _spread(call: Call, graph: Graph, size: int) -> Call:
    """A call with one row for all samples (of positions, say), as if each sample had had it for itself.

    That is so where the one use of the output is to be added to something with one row per sample: the gradient
    of the sum has what each sample gives, before autograd adds it up.
    """
    if call.inputs is None or call.edge is None:
        return call
    users = graph.users.get((call.edge.node, call.edge.output_nr), [])
    if len(users) != 1 or type(users[0]).__name__ != "AddBackward0":
        return call
    whole = torch.Size(users[0]._input_metadata[0].shape)
    if call.shape == whole or tuple(whole[:1]) != (size,):
        return call
    if call.shape == (1, *whole[1:]) and call.inputs.shape[:1] == (1,):
        inputs = call.inputs
    elif call.shape == whole[1:]:
        inputs = call.inputs.unsqueeze(0)
    else:
        return call
    spread = inputs.expand(size, *inputs.shape[1:])
    return dataclasses.replace(call, inputs=spread, edge=GradientEdge(users[0], 0))
