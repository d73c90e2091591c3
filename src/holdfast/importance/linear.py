"""Rules of layers that multiply by a matrix, or look up its rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.importance.rule import Rule

__all__ = ["Conv1DRule", "EmbeddingRule", "LinearRule", "TiedRule"]

# On a CPU a sample's gradient of this many bytes is worth two operations of its own: one that forms it in a buffer
# which stays in the cache, one that adds its statistic from there. Smaller ones are formed several at a time.
_ALONE = 64 * 2**10
# Larger ones than this (a vocabulary's) are formed in pieces, which do stay in the cache.
WHOLE = 16 * 2**20
_PIECE = 2**20


class LinearRule(Rule):
    """``y = x W.T + b``, with one position per sample or several."""

    def prepare(self, *modules: nn.Module) -> None:
        a = self.inputs
        self.a: Tensor = a.reshape(a.shape[0], -1, a.shape[-1]).to(self.dtype)
        self.once: bool = self.a.shape[1] == 1  # a sample's gradient is then an outer product
        self.held: Tensor | None = None

    @property
    def held_back(self) -> bool:
        """The input is the same for all terms: the factors are added first, and multiplied once."""
        return self.once and self.statistic.multiplicative

    def sides(self, g: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient at the output and the input, in the order in which they make a gradient: ``left.T @ right``."""
        return g, a

    def join(self, gradient: Tensor, part: slice, start: int) -> None:
        """Add what else the weight does to some samples' gradients: ``[n, rows from start on, ...]``."""

    def add(self, *grads: Tensor) -> None:
        grad = grads[0]
        g = grad.reshape(grad.shape[0], -1, grad.shape[-1]).to(self.dtype)
        if self.held_back:
            factor = self.statistic.of(g[:, 0])
            self.held = factor if self.held is None else self.held.add_(factor)
            return
        if self.bias is not None:
            self.add_each(self.bias, g.sum(1))
        if self.weight is None:
            return
        left, right = self.sides(g, self.a)
        found = self.statistic.outer(left[:, 0], right[:, 0], self.weight.weight) if self.once else None
        if found is not None:
            self.weight.total.add_(found)
        elif self.statistic.linear:
            self.weight.total.addmm_(left.flatten(0, 1).T, right.flatten(0, 1))
        elif self.inputs.device.type == "cpu" and self.weight.total.nbytes >= _ALONE:
            self._one_by_one(left, right)
        else:
            # The gradient and one temporary of the statistic.
            for part in self.chunks(g.shape[0], 2 * self.weight.total.numel()):
                gradient = torch.bmm(left[part].transpose(1, 2), right[part])
                self.join(gradient, part, 0)
                self.statistic.add(self.weight.total, gradient, self.weight.weight)

    def _one_by_one(self, left: Tensor, right: Tensor) -> None:
        """Add the statistic of each sample's gradient, which one buffer holds in turn."""
        assert self.weight is not None
        total, weight = self.weight.total, self.weight.weight
        height = total.shape[0] if total.nbytes <= WHOLE else max(1, _PIECE * total.shape[0] // total.nbytes)
        buffer = torch.empty_like(total[:height])
        for start in range(0, total.shape[0], height):
            rows = slice(start, start + height)
            gradient = buffer[: total[rows].shape[0]]
            for n, (mine, other) in enumerate(zip(left[..., rows].transpose(1, 2), right, strict=True)):
                torch.mm(mine, other, out=gradient)
                self.join(gradient.unsqueeze(0), slice(n, n + 1), start)
                self.statistic.absorb(total[rows], gradient, weight[rows])

    def finish(self) -> None:
        if self.held is None:
            return
        if self.weight is not None:
            left, right = self.sides(self.held, self.statistic.of(self.a[:, 0]))
            self.weight.total.addmm_(left.T, right)
        if self.bias is not None:
            self.bias.total.add_(self.held.sum(0))


class Conv1DRule(LinearRule):
    """``y = x W + b``: the linear layer of GPT-2 in Transformers."""

    def sides(self, g: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        return a, g


class Lookups:
    """Which rows of a matrix each sample looked up.

    Args:
        index: the row at each position, ``[B, ...]``.
        module: the layer that looked them up.
    """

    pairs: Tensor
    rows: Tensor
    slot: Tensor
    padding: Tensor | None

    def __init__(self, index: Tensor, module: nn.Embedding) -> None:
        index = index.reshape(index.shape[0], -1).long()
        sample = torch.arange(index.shape[0], device=index.device)[:, None]
        # One slot for each different pair of sample and row: a row used twice by a sample adds up first.
        self.pairs, slot = torch.unique(sample * module.num_embeddings + index, return_inverse=True)
        self.rows = self.pairs % module.num_embeddings
        self.slot = slot.reshape(-1)
        self.padding = None if module.padding_idx is None else self.rows == module.padding_idx

    def gradients(self, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """The gradients of the rows, one for each slot, from the gradient at the output ``[B, ..., width]``."""
        width = grad.shape[-1]
        gradient = grad.new_zeros((self.rows.shape[0], width), dtype=dtype)
        gradient.index_add_(0, self.slot, grad.reshape(-1, width).to(dtype))
        if self.padding is not None:
            gradient[self.padding] = 0
        return gradient


class EmbeddingRule(Rule):
    """Rows looked up by index: a sample's gradient lives in the rows that it used."""

    lookups: Lookups

    @staticmethod
    def accepts(module: nn.Module, inputs: Tensor) -> bool:
        assert isinstance(module, nn.Embedding)
        return inputs.dim() >= 1 and module.max_norm is None and not module.scale_grad_by_freq and not module.sparse

    def prepare(self, *modules: nn.Module) -> None:
        assert isinstance(modules[0], nn.Embedding)
        self.lookups = Lookups(self.inputs, modules[0])

    def add(self, *grads: Tensor) -> None:
        assert self.weight is not None
        rows, gradient = self.lookups.rows, self.lookups.gradients(grads[0], self.dtype)
        self.weight.total.index_add_(0, rows, self.statistic.apply(gradient, self.weight.weight[rows]))


class TiedRule(LinearRule):
    """A linear layer, the matrix of which an embedding looks its rows up in, as language models have it."""

    lookups: Lookups

    def prepare(self, *modules: nn.Module) -> None:
        super().prepare(*modules)
        assert isinstance(modules[1], nn.Embedding)
        self.once = False
        self.height: int = modules[1].num_embeddings
        self.lookups = Lookups(self.further[0], modules[1])

    def add(self, *grads: Tensor) -> None:
        self.looked_up: Tensor = self.lookups.gradients(grads[1], self.dtype)
        if self.statistic.linear and self.weight is not None:
            self.weight.total.index_add_(0, self.lookups.rows, self.looked_up)
        super().add(grads[0])
        del self.looked_up

    def join(self, gradient: Tensor, part: slice, start: int) -> None:
        # Pairs are in order. One chunk holds several samples or some of the rows, never both.
        number, rows = gradient.shape[:2]
        first = part.start * self.height + start
        ends = torch.tensor([first, first + (number - 1) * self.height + rows], device=self.lookups.pairs.device)
        found = slice(*torch.searchsorted(self.lookups.pairs, ends).tolist())
        gradient.view(-1, gradient.shape[-1]).index_add_(0, self.lookups.pairs[found] - first, self.looked_up[found])
