"""Layer rules: the per-sample gradients of one layer from its input and the gradient at its output.

A layer that each sample meets once has the outer product of output gradient and input as its gradient, so that a
multiplicative statistic (a square, an absolute value) is one matrix product: ``(G**2).T @ (A**2)``. A layer that
each sample meets at several positions (a sequence, an image) adds over them first; those gradients are formed,
a chunk of samples at a time.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.importance.statistic import Statistic

__all__ = ["RULES", "Room", "Rule", "Target", "unfolded"]

# On a CPU, chunks that stay in its cache are up to four times as fast as large ones.
_CACHED = 4 * 2**20


@dataclass(frozen=True)
class Target:
    """Where the statistic of one parameter is added up.

    Attributes:
        total: the running sum ``[*p]``, in the precision of accumulation.
        parameter: the parameter's values ``[*p]``.
    """

    total: Tensor
    parameter: Tensor

    @property
    def weight(self) -> Tensor:
        """The parameter's values ``[*p]``, in the precision of accumulation."""
        return self.parameter.detach().to(self.total.dtype)


class Room:
    """Memory that the rules of one batch share for what they keep from one term to the next.

    Args:
        left: how many bytes may be kept in all; 0 where there is one term only, and keeping gains nothing.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes more may be kept; if so they are taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Rule(abc.ABC):
    """The statistic of one layer over one batch: ``add`` for each term, then ``finish``.

    Args:
        module: the layer.
        inputs: what it was given in the one call of this batch, ``[B, ...]``.
        targets: local parameter name -> where its sum goes; parameters that are not wanted are absent.
        statistic: what is summed.
        max_bytes: how much memory per-sample gradients may take at once.
        room: how much more memory what is kept between terms may take, of all rules together.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        targets: Mapping[str, Target],
        statistic: Statistic,
        max_bytes: int,
        room: Room,
    ) -> None:
        self.inputs = inputs
        self.weight = targets.get("weight")
        self.bias = targets.get("bias")
        self.statistic = statistic
        self.max_bytes = max_bytes
        self.room = room
        self.dtype = next(iter(targets.values())).total.dtype
        self.prepare(module)

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        """Whether the rule is exact for this layer and this input."""
        return inputs.dim() >= 2

    @property
    def held_back(self) -> bool:
        """Whether what :meth:`add` is given is added by :meth:`finish` only."""
        return False

    @abc.abstractmethod
    def prepare(self, module: nn.Module) -> None:
        """Compute once what all terms share."""

    @abc.abstractmethod
    def add(self, grad: Tensor) -> None:
        """Add one term, given its gradient at the layer's output, ``[B, ...]``."""

    def finish(self) -> None:
        """Add what was held back until all terms were seen; the rule is of no further use."""
        del self.inputs

    def chunks(self, samples: int, entries: int) -> Iterator[slice]:
        """Slices of samples, each of which needs ``entries`` numbers, that fit into the memory allowed."""
        room = min(self.max_bytes, _CACHED) if self.inputs.device.type == "cpu" else self.max_bytes
        size = max(1, room // max(1, entries * self.dtype.itemsize))
        for start in range(0, samples, size):
            yield slice(start, start + size)

    def add_each(self, target: Target | None, gradient: Tensor) -> None:
        """Add a small parameter's per-sample gradients ``[B, *p]``."""
        if target is not None:
            self.statistic.add(target.total, gradient, target.weight)


class LinearRule(Rule):
    """``y = x W.T + b``, with one position per sample or several."""

    def prepare(self, module: nn.Module) -> None:
        a = self.inputs
        self.a = a.reshape(a.shape[0], -1, a.shape[-1]).to(self.dtype)
        self.once = self.a.shape[1] == 1
        self.held: Tensor | None = None

    @property
    def held_back(self) -> bool:
        """The input is the same for all terms: the factors are added first, and multiplied once."""
        return self.once and self.statistic.multiplicative

    def add(self, grad: Tensor) -> None:
        g = grad.reshape(grad.shape[0], -1, grad.shape[-1]).to(self.dtype)
        if self.held_back:
            factor = self.statistic.of(g[:, 0])
            self.held = factor if self.held is None else self.held.add_(factor)
            return
        if self.bias is not None:
            self.add_each(self.bias, g.sum(1))
        if self.weight is None:
            return
        found = self.statistic.outer(g[:, 0], self.a[:, 0], self.weight.weight) if self.once else None
        if found is not None:
            self.weight.total.add_(found)
        else:
            # The gradient and one temporary of the statistic.
            for part in self.chunks(g.shape[0], 2 * self.weight.total.numel()):
                gradient = torch.bmm(g[part].transpose(1, 2), self.a[part])
                self.statistic.add(self.weight.total, gradient, self.weight.weight)

    def finish(self) -> None:
        if self.held is None:
            return
        if self.weight is not None:
            self.weight.total.addmm_(self.held.T, self.statistic.of(self.a[:, 0]))
        if self.bias is not None:
            self.bias.total.add_(self.held.sum(0))


class ConvRule(Rule):
    """A convolution in any number of dimensions: output gradients times unfolded input patches."""

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        return inputs.dim() == 2 + len(module.kernel_size)

    def prepare(self, module: nn.Module) -> None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        self.module = module
        self.held: list[Tensor] = []
        self.hold: bool | None = None  # whether there is room for the patches: asked once

    def add(self, grad: Tensor) -> None:
        g = grad.flatten(2).to(self.dtype)  # [B, O, L]
        if self.bias is not None:
            self.add_each(self.bias, g.sum(2))
        if self.weight is None:
            return
        weight, groups = self.weight.weight, self.module.groups
        # [O, C / groups, *kernel] -> [groups, entries of one filter, O / groups], as the products come out
        values = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
        seen = groups * values.shape[1] * g.shape[2]  # patches: numbers per sample
        if self.hold is None:
            self.hold = self.room.take(seen * g.shape[0] * self.dtype.itemsize)
        for i, part in enumerate(self.chunks(g.shape[0], 2 * weight.numel() + seen)):
            patches = self.held[i] if i < len(self.held) else unfolded(self.module, self.inputs[part].to(self.dtype))
            if self.hold and i == len(self.held):
                self.held.append(patches)
            rows = g[part].reshape(patches.shape[0], -1, g.shape[2])
            # [patches times gradients] is faster on a CPU than the other way round.
            gradient = torch.bmm(patches, rows.transpose(1, 2)).view(-1, *values.shape)
            found = self.statistic.apply(gradient, values).sum(0)
            self.weight.total.add_(found.transpose(1, 2).reshape(weight.shape))


def unfolded(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    """What each output position sees, ``[B * groups, C / groups * kernel, L]``."""
    if module.padding_mode != "zeros":
        padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    elif isinstance(module.padding, str):
        padded = F.pad(inputs, module._reversed_padding_repeated_twice)  # "same", "valid"
    else:
        padded = F.pad(inputs, [side for size in reversed(module.padding) for side in (size, size)])
    windows = padded
    dims = len(module.kernel_size)
    for i, (kernel, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        windows = windows.unfold(2 + i, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    # [B, C, *positions, *kernel] -> [B, C, *kernel, *positions]: copying along rows of pixels is the fast way
    windows = windows.permute(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    return windows.reshape(inputs.shape[0] * module.groups, -1, windows.shape[2 + dims :].numel())


class EmbeddingRule(Rule):
    """Rows looked up by index: a sample's gradient lives in the rows that it used."""

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        assert isinstance(module, nn.Embedding)
        return inputs.dim() >= 1 and module.max_norm is None and not module.scale_grad_by_freq and not module.sparse

    def prepare(self, module: nn.Module) -> None:
        assert isinstance(module, nn.Embedding) and self.weight is not None
        index = self.inputs.reshape(self.inputs.shape[0], -1).long()
        sample = torch.arange(index.shape[0], device=index.device)[:, None]
        # One slot for each different pair of sample and row: a row used twice by a sample adds up first.
        pairs, slot = torch.unique(sample * module.num_embeddings + index, return_inverse=True)
        self.rows = pairs % module.num_embeddings
        self.slot = slot.reshape(-1)
        self.padding = None if module.padding_idx is None else self.rows == module.padding_idx

    def add(self, grad: Tensor) -> None:
        assert self.weight is not None
        width = grad.shape[-1]
        gradient = grad.new_zeros((self.rows.shape[0], width), dtype=self.dtype)
        gradient.index_add_(0, self.slot, grad.reshape(-1, width).to(self.dtype))
        if self.padding is not None:
            gradient[self.padding] = 0
        weight = self.weight.weight[self.rows]
        self.weight.total.index_add_(0, self.rows, self.statistic.apply(gradient, weight))


class NormRule(Rule):
    """A layer that normalises its input, then scales and shifts it: the gradient is a sum over positions."""

    def prepare(self, module: nn.Module) -> None:
        a = self.inputs.to(self.dtype)
        self.kept = 0  # how many trailing dimensions the parameters have, or 0 for one per channel (dimension 1)
        if isinstance(module, nn.LayerNorm):
            self.kept = len(module.normalized_shape)
            normal = F.layer_norm(a, module.normalized_shape, None, None, module.eps)
        elif isinstance(module, nn.RMSNorm):
            self.kept = len(module.normalized_shape)
            normal = F.rms_norm(a, list(module.normalized_shape), None, module.eps)
        elif isinstance(module, nn.GroupNorm):
            normal = F.group_norm(a, module.num_groups, None, None, module.eps)
        else:
            assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
            assert module.running_mean is not None and module.running_var is not None
            mean, variance = module.running_mean.to(a.dtype), module.running_var.to(a.dtype)
            normal = F.batch_norm(a, mean, variance, None, None, False, 0.0, module.eps)
        self.normal = normal

    def _per_sample(self, product: Tensor) -> Tensor:
        positions = range(2, product.dim()) if self.kept == 0 else range(1, product.dim() - self.kept)
        return product.sum(tuple(positions)) if len(positions) else product

    def add(self, grad: Tensor) -> None:
        g = grad.to(self.dtype)
        if self.weight is not None:
            self.add_each(self.weight, self._per_sample(g * self.normal))
        if self.bias is not None:
            self.add_each(self.bias, self._per_sample(g))


class BatchNormRule(NormRule):
    """BatchNorm in evaluation mode, with running statistics: an affine map per channel."""

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        return inputs.dim() >= 2 and module.running_mean is not None and module.running_var is not None


# Exact types only: a subclass may compute anything.
RULES: dict[type[nn.Module], type[Rule]] = {
    nn.Linear: LinearRule,
    nn.Conv1d: ConvRule,
    nn.Conv2d: ConvRule,
    nn.Conv3d: ConvRule,
    nn.Embedding: EmbeddingRule,
    nn.LayerNorm: NormRule,
    nn.RMSNorm: NormRule,
    nn.GroupNorm: NormRule,
    nn.BatchNorm1d: BatchNormRule,
    nn.BatchNorm2d: BatchNormRule,
    nn.BatchNorm3d: BatchNormRule,
}
