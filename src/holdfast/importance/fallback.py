"""Per-sample gradients where no layer rule is exact, from fast to slow.

- ``vectorized``: all samples alone, together under ``vmap``. Fails where the model looks at values (``if x.any()``).
- ``alone``: one sample after the other. Fails where a sample alone gives other outputs than in its batch.
- ``loop``: one backward per sample through the graph of the whole batch. Never fails.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.importance.rule import Target
from holdfast.importance.statistic import Statistic
from holdfast.objectives import Batch
from holdfast.objectives.batches import one as one_of
from holdfast.objectives.batches import per_sample_list

__all__ = ["NotSeparable", "alone", "close", "loop", "vectorized"]


class NotSeparable(Exception):
    """Samples cannot be taken one by one here; the reason is the message."""


class _Outputs(nn.Module):
    """A forward pass as a module, so that ``functional_call`` can replace parameters."""

    def __init__(self, model: nn.Module, root: Callable[[nn.Module, Batch], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._root = root

    def forward(self, batch: Batch) -> Tensor:
        return self._root(self.model, batch)


def _split(batch: Any, size: int, found: list[Tensor], *, top: bool = True) -> Callable[[list[Tensor]], Any]:
    """Collect a batch's tensors with one row per sample; return how to rebuild the batch from rows.

    Raises:
        NotSeparable: for a list with an entry per sample, such as boxes: entries differ in shape.
    """
    if isinstance(batch, Tensor) and batch.dim() > 0 and batch.shape[0] == size:
        position = len(found)
        found.append(batch)
        return lambda rows: rows[position]
    if not top and per_sample_list(batch, size):
        raise NotSeparable(f"a list of {size} entries cannot be vectorized")
    if isinstance(batch, Mapping):
        parts = {key: _split(value, size, found, top=False) for key, value in batch.items()}
        return lambda rows: {key: part(rows) for key, part in parts.items()}
    if type(batch) in (tuple, list):
        items = [_split(value, size, found, top=False) for value in batch]
        kind = type(batch)
        return lambda rows: kind(item(rows) for item in items)
    return lambda rows: batch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No graph of the other parameters (vjp differentiates all the same), no advice on slow batching rules."""
    # The fused attention kernels have no batching rule.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because")
        yield


@dataclass(frozen=True)
class Work:
    """What is to be added for one batch.

    Attributes:
        model: the model.
        root: the forward pass, which runs again for samples alone.
        batch: the batch.
        outputs: the forward pass of the whole batch, ``[B, ...]``, with its graph.
        leaf: the same values, cut off, from which the terms were computed.
        terms: terms ``[B]``, with their graph down to ``leaf``.
        cotangents: for each term its gradient at the outputs, ``[B, ...]``.
        parameters: canonical name -> parameter.
        targets: canonical name -> where its sum goes.
        statistic: what is summed.
        max_bytes: how much memory per-sample gradients may take at once.
    """

    model: nn.Module
    root: Callable[[nn.Module, Batch], Tensor]
    batch: Batch
    outputs: Tensor
    leaf: Tensor
    terms: list[Tensor]
    cotangents: list[Tensor]
    parameters: Mapping[str, nn.Parameter]
    targets: Mapping[str, Target]
    statistic: Statistic
    max_bytes: int

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add sums ``[*p]`` to the targets."""
        for name, value in sums.items():
            self.targets[name].total.add_(value)

    def check(self, alone: Tensor, part: slice) -> None:
        """Refuse samples that give other outputs alone than in their batch."""
        if not close(alone, self.outputs.detach()[part]):
            raise NotSeparable("a sample alone does not give the outputs that it gave in its batch")


def _add_gradients(sums: Mapping[str, Tensor], work: Work, outputs: Tensor, cotangent: Tensor) -> None:
    """Add the statistic of one gradient."""
    gradients = torch.autograd.grad(
        outputs, list(work.parameters.values()), cotangent, retain_graph=True, allow_unused=True
    )
    for name, gradient in zip(work.parameters, gradients, strict=True):
        if gradient is not None:
            work.statistic.add(sums[name], gradient.to(sums[name].dtype).unsqueeze(0), work.targets[name].weight)


def vectorized(work: Work) -> None:
    """Add the work's terms, each sample run alone, all together under ``vmap``.

    Raises:
        NotSeparable: if ``vmap`` fails, or a sample alone does not give what it gave in the batch; nothing was added.
    """
    parameters, targets = work.parameters, work.targets
    wrapper = _Outputs(work.model, work.root)
    canonical = {id(p): name for name, p in parameters.items()}
    # Where a parameter stands, each place once: of a module that two names lead to, and whose weight is tied to another
    # one's, functional_call would put back what it had put there itself.
    places = {
        f"{path}.{key}": canonical[id(p)]
        for path, module in wrapper.named_modules()
        for key, p in module._parameters.items()
        if id(p) in canonical
    }
    size = work.outputs.shape[0]
    rows: list[Tensor] = []
    rebuild = _split(work.batch, size, rows)

    def one(cots: list[Tensor], sample: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        single = rebuild([row.unsqueeze(0) for row in sample])

        def forward(values: dict[str, Tensor]) -> Tensor:
            given = {place: values[name] for place, name in places.items()}
            found: Tensor = functional_call(wrapper, given, (single,), tie_weights=False)
            return found.squeeze(0)

        pulled = vjp(forward, {name: p.detach() for name, p in parameters.items()})
        outputs, pull = pulled[0], pulled[1]
        found: dict[str, Tensor] = {}
        for cot in cots:
            for name, gradient in pull(cot)[0].items():
                value = work.statistic.apply(gradient.to(targets[name].total.dtype), targets[name].weight)
                found[name] = value if name not in found else found[name] + value
        return outputs.detach(), found

    # The gradient, the statistic, and the sum over terms.
    entries = 3 * sum(target.total.nbytes for target in targets.values())
    chunk = max(1, min(size, work.max_bytes // max(1, entries)))
    sums = {name: torch.zeros_like(target.total) for name, target in targets.items()}
    for start in range(0, size, chunk):
        part = slice(start, start + chunk)
        try:
            with _quiet():
                outputs, found = vmap(one)([c[part] for c in work.cotangents], [row[part] for row in rows])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise NotSeparable(f"{type(error).__name__}: {error}") from error
        work.check(outputs, part)
        for name, value in found.items():
            sums[name].add_(value.sum(0))
    work.add(sums)


def alone(work: Work) -> None:
    """Add the work's terms, one sample after the other.

    Raises:
        NotSeparable: if a sample alone fails, or does not give what it gave in the batch; nothing was added.
    """
    size = work.outputs.shape[0]
    sums = {name: torch.zeros_like(target.total) for name, target in work.targets.items()}
    for n in range(size):
        part = slice(n, n + 1)
        try:
            outputs = work.root(work.model, one_of(work.batch, n, size))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise NotSeparable(f"{type(error).__name__}: {error}") from error
        work.check(outputs.detach(), part)
        if outputs.requires_grad:
            for cotangent in work.cotangents:
                _add_gradients(sums, work, outputs, cotangent[part])
    work.add(sums)


def loop(work: Work) -> None:
    """Add the work's terms by one backward per sample through the graph of the whole batch."""
    sums = {name: target.total for name, target in work.targets.items()}
    for term in work.terms:
        for value in term.unbind():
            (cotangent,) = torch.autograd.grad(value, work.leaf, retain_graph=True)
            _add_gradients(sums, work, work.outputs, cotangent)


_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}


def close(a: Tensor, b: Tensor, noise: Tensor | None = None) -> bool:
    """Whether two results of one computation agree up to rounding, of which TF32 and 16-bit weights bring much.

    Args:
        a: one result.
        b: the other; its dtype says how exact both are.
        noise: a distance that is rounding in any case.
    """
    if a.shape != b.shape:
        return False
    if not a.numel():
        return True
    wide = torch.promote_types(b.dtype, torch.float32)
    distance, scale = (torch.linalg.vector_norm(x, dtype=wide) for x in (a - b, b))
    if not bool((distance + scale).isfinite()):
        same = (a == b) | (a.isnan() & b.isnan())  # the difference of two infinities is nan
        distance = torch.linalg.vector_norm((a - b).masked_fill(same, 0), dtype=torch.float64)
        scale = torch.linalg.vector_norm(b.nan_to_num(0, 0, 0), dtype=torch.float64)
    allowed = _TOLERANCE.get(b.dtype, 0.1) * scale
    return bool(distance <= (allowed if noise is None else torch.maximum(allowed, noise.to(allowed.dtype))))
