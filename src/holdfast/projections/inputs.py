"""What the layers of a model are given: one collector for all that protects, or measures, by inputs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.errors import NumericsError
from holdfast.importance.rules import unfolded
from holdfast.importance.untouched import untouched
from holdfast.names import canonical_modules
from holdfast.objectives import Batch, Objective
from holdfast.processes import in_step, several

__all__ = ["Inputs", "as_matrix", "collect", "sizes"]

_BLOCK = 1 << 22  # entries of unfolded inputs at a time


@dataclass
class Inputs:
    r"""What a weight met: the sum of the products of its inputs, or how often each of its rows was looked up.

    .. math:: C = \sum_i x_i x_i^\top

    Attributes:
        first: whether inputs act on the weight's first dimension, as in a transposed convolution.
        columns: C, float64 ``[d, d]``, over all samples, positions and layers that share the weight; ``None`` for a
            weight whose rows are looked up alone.
        rows: how often each row was looked up, float64 ``[V]``; ``None`` for any weight but an embedding's.
    """

    first: bool = False
    columns: Tensor | None = None
    rows: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Both sums, as far as there are any."""
        return [t for t in (self.columns, self.rows) if t is not None]


def as_matrix(weight: Tensor, first: bool) -> Tensor:
    """A weight with its inputs last: ``[o, d]``, a view where that is possible."""
    return weight.flatten(1).T if first else weight.flatten(1)


@torch.no_grad()
def collect(
    model: nn.Module, batches: Iterable[Batch], objective: Objective, params: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Inputs], set[str]]:
    """The inputs of every layer over some batches, in evaluation mode; the model is left as it was.

    Sums of float64 products: in whatever order batches come, and however samples are put together into them, they are
    the same to 1e-15 or so. Linear and convolution layers, embeddings, the projections of attention, and the ``Conv1D``
    of Transformers' GPT-2 are known; groups of a convolution are taken together.

    Args:
        model: the model.
        batches: data; read once.
        objective: how a batch goes through the model.
        params: canonical name -> the parameters asked for.

    Returns:
        Canonical name -> :class:`Inputs`, of the weights that a known layer has and uses; and the names of all
        parameters whose module took part.

    Raises:
        NumericsError: naming a weight whose input is not finite.
    """
    seen = _Seen(params)
    with contextlib.ExitStack() as stack:
        stack.enter_context(in_step(params))
        stack.enter_context(untouched(model, ()))
        stack.enter_context(torch.no_grad())
        for _, module in canonical_modules(model):
            if any(id(p) in seen.names for p in module._parameters.values() if p is not None):
                handle = module.register_forward_hook(seen.take, with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
        for batch in batches:
            objective.outputs(model, batch)
    _over_all_processes(seen, params)
    for name, found in seen.inputs.items():
        if not all(bool(t.isfinite().all()) for t in found.tensors()):
            raise NumericsError(f"an input of the weight {name!r} is not finite: nothing was remembered of this task")
    return seen.inputs, seen.took_part


def _over_all_processes(seen: _Seen, params: Mapping[str, nn.Parameter]) -> None:
    """Add up, in place, what the processes have summed, each over its own data."""
    if not several() or not params:
        return
    device = next(iter(params.values())).device
    sizes = torch.tensor([seen.sizes(name) for name in params], device=device)
    torch.distributed.all_reduce(sizes, torch.distributed.ReduceOp.MAX)
    for name, (columns, rows, first, part) in zip(params, sizes.tolist(), strict=True):
        if part:
            seen.took_part.add(name)
        if not columns and not rows:
            continue
        found = seen.inputs.setdefault(name, Inputs(bool(first)))
        if columns and found.columns is None:
            found.columns = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        if rows and found.rows is None:
            found.rows = torch.zeros(rows, dtype=torch.float64, device=device)
        for tensor in found.tensors():
            torch.distributed.all_reduce(tensor)


def sizes(model: nn.Module, params: Mapping[str, nn.Parameter]) -> dict[str, tuple[int, int]]:
    """How large the sums of each weight will be, without any data: name -> ``(d, V)``, 0 for one that there is not."""
    names = {id(p): name for name, p in params.items()}
    found: dict[str, tuple[int, int]] = {}

    def note(weight: Tensor | None, first: bool, rows: bool = False) -> None:
        if weight is not None and id(weight) in names:
            d, v = found.get(names[id(weight)], (0, 0))
            width = as_matrix(weight, first).shape[1]
            found[names[id(weight)]] = (d, len(weight)) if rows else (width, v)

    for _, module in canonical_modules(model):
        rule = _rule_of(module)
        if rule is not None:
            note(module._parameters.get("weight"), rule[0], rule[1] is _embedding)
        if isinstance(module, nn.MultiheadAttention):
            for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                note(module._parameters.get(name), False)
    return found


class _Seen:
    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.names = {id(p): name for name, p in params.items()}
        self.inputs: dict[str, Inputs] = {}
        self.took_part: set[str] = set()
        self._within = False

    def sizes(self, name: str) -> tuple[int, int, bool, bool]:
        """How large both sums are, where inputs act, and whether the parameter took part: what processes agree on."""
        found = self.inputs.get(name, Inputs())
        columns, rows = (0 if t is None else len(t) for t in (found.columns, found.rows))
        return columns, rows, found.first, name in self.took_part

    def take(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        """A module ran."""
        if self._within:
            return
        for p in module._parameters.values():
            if p is not None and id(p) in self.names:
                self.took_part.add(self.names[id(p)])
        if isinstance(module, nn.MultiheadAttention):
            self._attention(module, args, named)
            return
        rule = _rule_of(module)
        weight = module._parameters.get("weight")
        if rule is None or weight is None or id(weight) not in self.names or not args:
            return
        first, rows = rule
        for part in rows(module, args[0]):
            self._add(weight, part, first)

    def _add(self, weight: Tensor, rows: Tensor, first: bool = False) -> None:
        """Inputs ``[n, d]``, or numbers of rows ``[n]``."""
        found = self.inputs.setdefault(self.names[id(weight)], Inputs(first))
        if rows.is_floating_point():
            if found.columns is None:
                found.columns = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
            rows = rows.double()
            found.columns.addmm_(rows.T, rows)
            return
        if found.rows is None:
            found.rows = torch.zeros(len(weight), dtype=torch.float64, device=rows.device)
        found.rows.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float64))

    def _attention(self, module: nn.MultiheadAttention, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The weights of attention are used outside of any layer's forward."""
        query, key, value = (named.get(name, args[i] if i < len(args) else None) for i, name in enumerate(_QKV))
        given = {"in_proj_weight": [query], "q_proj_weight": [query], "k_proj_weight": [key], "v_proj_weight": [value]}
        if key is not query or value is not query:
            given["in_proj_weight"] = [query, key, value]  # one matrix of rows for each: together they see all
        for name, inputs in given.items():
            weight = module._parameters.get(name)
            if weight is not None and id(weight) in self.names:
                for tensor in inputs:
                    assert tensor is not None
                    self._add(weight, tensor.reshape(-1, tensor.shape[-1]))
        out = module.out_proj
        wanted = [p for p in (out.weight, out.bias) if p is not None and id(p) in self.names]
        self.took_part |= {self.names[id(p)] for p in wanted}
        if id(out.weight) in self.names:
            # With the identity in its place, attention returns what the output projection would be given.
            plain = {"out_proj.weight": torch.eye(module.embed_dim).to(out.weight)}
            if out.bias is not None:
                plain["out_proj.bias"] = torch.zeros_like(out.bias)
            self._within = True
            try:
                mixed = torch.func.functional_call(module, plain, args, named)[0]
            finally:
                self._within = False
            self._add(out.weight, mixed.reshape(-1, mixed.shape[-1]))


_QKV = ("query", "key", "value")
_Rows: TypeAlias = Callable[[Any, Tensor], Iterator[Tensor]]


def _linear(module: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    yield inputs.reshape(-1, inputs.shape[-1])


def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Iterator[Tensor]:
    if inputs.dim() == 1 + len(module.kernel_size):  # one sample by itself
        inputs = inputs[None]
    entries = inputs[0].numel() * module.weight[0, 0].numel()
    for block in torch.split(inputs, max(1, _BLOCK // max(1, entries))):
        patches = unfolded(module, block)  # [B groups, d, L]
        yield patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _transposed(module: nn.modules.conv._ConvTransposeNd, inputs: Tensor) -> Iterator[Tensor]:
    yield inputs.movedim(-1 - len(module.kernel_size), -1).reshape(-1, module.in_channels)


def _embedding(module: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    yield inputs.reshape(-1).long()


# Exact types only: a subclass may compute anything. Whether inputs act on the first dimension, and what they are.
_RULES: dict[type[nn.Module], tuple[bool, _Rows]] = {
    nn.Linear: (False, _linear),
    nn.modules.linear.NonDynamicallyQuantizableLinear: (False, _linear),
    nn.Conv1d: (False, _convolution),
    nn.Conv2d: (False, _convolution),
    nn.Conv3d: (False, _convolution),
    nn.ConvTranspose1d: (True, _transposed),
    nn.ConvTranspose2d: (True, _transposed),
    nn.ConvTranspose3d: (True, _transposed),
    nn.Embedding: (False, _embedding),
}


def _rule_of(module: nn.Module) -> tuple[bool, _Rows] | None:
    if isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1:
        return None  # each group's inputs would need a matrix of their own
    if type(module) in _RULES:
        return _RULES[type(module)]
    # A layer that others define: if nobody imported them, nobody has such a layer.
    kind = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return (True, _linear) if kind is not None and type(module) is kind else None
