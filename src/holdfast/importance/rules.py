"""Layer rules: the per-sample gradients of one layer from its input and the gradient at its output.

A layer that each sample meets once has the outer product of output gradient and input as its gradient, so that a
multiplicative statistic (a square, an absolute value) is one matrix product: ``(G**2).T @ (A**2)``. A layer that
each sample meets at several positions (a sequence, an image) adds over them first; those gradients are formed,
a chunk of samples at a time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.importance.fallback import close
from holdfast.importance.linear import Conv1DRule, EmbeddingRule, LinearRule, TiedRule
from holdfast.importance.rule import Rule
from holdfast.sharding import kind_of

__all__ = ["rule_of", "unfolded"]


class ConvRule(Rule):
    """A convolution in any number of dimensions: output gradients times unfolded input patches."""

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        return inputs.dim() == 2 + len(module.kernel_size)

    def prepare(self, *modules: nn.Module) -> None:
        module = modules[0]
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        self.module = module
        self.held: list[Tensor] = []
        self.hold: bool | None = None  # whether there is room for the patches: asked once

    def add(self, *grads: Tensor) -> None:
        g = grads[0].flatten(2).to(self.dtype)  # [B, O, L]
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


class NormRule(Rule):
    """A layer that normalises its input, then scales and shifts it: the gradient is a sum over positions."""

    def prepare(self, *modules: nn.Module) -> None:
        module = modules[0]
        a = self.inputs.to(self.dtype)
        self.kept: int = 0  # how many trailing dimensions the parameters have, or 0 for one per channel (dimension 1)
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

    def add(self, *grads: Tensor) -> None:
        g = grads[0].to(self.dtype)
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


class ScaleRule(Rule):
    """A layer with nothing but a weight per channel that multiplies what it makes of its input: ``w * n + c``.

    Such are the RMS normalisations of language models, each of which has its own. They are known by what they do, not
    by their type: n and c are what comes out with the weights 1 (less c) and 0, so n is rounded as the layer rounds,
    and with some other weights ``w * n + c`` must come out.
    """

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        held = module._parameters["weight"]
        if held is None or inputs.dim() < 2 or held.shape != inputs.shape[-1:]:
            return False
        normal, constant = _scaled_by(module, inputs)
        if normal.shape != inputs.shape:
            return False
        some = torch.linspace(0.3, 1.7, inputs.shape[-1], dtype=normal.dtype, device=inputs.device).cos()
        return close(_with(module, inputs, some), some * normal + constant)

    def prepare(self, *modules: nn.Module) -> None:
        self.normal: Tensor = _scaled_by(modules[0], self.inputs)[0].to(self.dtype)

    def add(self, *grads: Tensor) -> None:
        product = grads[0].to(self.dtype) * self.normal
        self.add_each(self.weight, product.sum(tuple(range(1, product.dim() - 1))) if product.dim() > 2 else product)


def _scaled_by(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer's weight is multiplied by, and what it gives without, each ``[B, ...]``."""
    one, none = (torch.full(inputs.shape[-1:], value, device=inputs.device) for value in (1.0, 0.0))
    constant = _with(module, inputs, none)
    return _with(module, inputs, one) - constant, constant


@torch.no_grad()
def _with(module: nn.Module, inputs: Tensor, weight: Tensor) -> Tensor:
    """What a layer gives with another weight; no hook of it runs."""
    twin = object.__new__(kind_of(module))  # no copy of FSDP2's module, which would be made anew
    twin.__dict__.update(vars(module))
    held = module._parameters["weight"]
    assert held is not None
    twin._parameters = {"weight": nn.Parameter(weight.to(held.dtype), requires_grad=False)}
    found: Tensor = twin.forward(inputs)
    return found


def _only_scales(module: nn.Module) -> bool:
    """Whether a layer has nothing but one weight per channel, so that a :class:`ScaleRule` is worth a try."""
    held = {key: p for key, p in module._parameters.items() if p is not None}
    return not module._modules and not module._buffers and held.keys() == {"weight"} and held["weight"].dim() == 1


# Exact types only: a subclass may compute anything.
_RULES: dict[type[nn.Module], type[Rule]] = {
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
# Third parties' layers, by where their type is defined and its name: nobody's library is imported for them.
_FURTHER: dict[tuple[str, str], type[Rule]] = {("transformers.pytorch_utils", "Conv1D"): Conv1DRule}


def rule_of(*modules: nn.Module) -> type[Rule] | None:
    """The rule for a layer, or for a linear layer and the embedding whose matrix it shares, if there is one."""
    kind = kind_of(modules[0])
    if len(modules) > 1:
        tied = kind is nn.Linear and kind_of(modules[1]) is nn.Embedding and modules[0].weight is modules[1].weight
        return TiedRule if tied else None
    known = _RULES.get(kind) or _FURTHER.get((kind.__module__, kind.__qualname__))
    return ScaleRule if known is None and _only_scales(modules[0]) else known
