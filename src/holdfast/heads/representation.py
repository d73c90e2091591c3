"""Features from any model: how a batch reaches it, and whether its weights are still the same."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError, ProtectionError
from holdfast.files import bytes_of
from holdfast.importance.untouched import untouched
from holdfast.names import canonical_buffers, canonical_modules, canonical_parameters
from holdfast.objectives import Batch
from holdfast.sharding import is_sharded

__all__ = ["Backbone", "Caller", "digests"]


class Caller(Protocol):
    """What knows how a batch goes through a model: a built-in objective."""

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model returns."""
        ...


class Backbone:
    """A fixed representation: a module, one of its layers, a function, or the inputs themselves.

    Args:
        features: ``x -> [B, D]``: a module or any callable; ``None`` for the inputs, flattened.
        layer: the name of a module within ``features`` whose output is taken instead of the model's.

    Attributes:
        module: the module that is behind ``features``, also where it is a method of one; ``None`` if there is none, and
            then nobody can see whether the features change.
    """

    module: nn.Module | None

    def __init__(self, features: nn.Module | Callable[..., Any] | None, layer: str | None) -> None:
        if features is not None and not callable(features):
            raise ConfigurationError(
                f"features is a {type(features).__name__}; expected a module or a function x -> [B, D], or None"
            )
        owner = features.__self__ if inspect.ismethod(features) else features
        self.call = features
        self.module = owner if isinstance(owner, nn.Module) else None
        self.layer = layer
        if layer is not None:
            if self.module is None:
                raise ConfigurationError(f"layer is {layer!r}, but features is no module that could have such a layer")
            names = [name for name, _ in canonical_modules(self.module)]
            if layer not in names:
                shown = ", ".join(names[1:6]) or "none"
                raise ConfigurationError(f"layer is {layer!r}; the model has no such module, but {shown}")

    @torch.no_grad()
    def __call__(self, caller: Caller, batch: Batch) -> Tensor:
        """The features of a batch, ``[B, D]``, in evaluation mode and without gradients."""
        if self.call is None:
            return _flat(caller.forward(_AS_IT_IS, batch))
        if self.module is None:
            return _flat(caller.forward(cast("nn.Module", self.call), batch))
        with untouched(self.module, ()), torch.no_grad(), self._layer() as seen:
            raw = caller.forward(cast("nn.Module", self.call), batch)
        if self.layer is None:
            return _flat(raw)
        if len(seen) != 1:
            raise DataError(f"layer {self.layer!r} ran {len(seen)} times in one forward pass; expected once")
        return _flat(seen[0])

    def inputs(self, caller: Caller, batch: Batch) -> Tensor:
        """A batch's inputs as they came, ``[B, ...]``, for a feature map that is to see them."""
        raw = caller.forward(_AS_IT_IS, batch)
        if not isinstance(raw, Tensor) or raw.dim() < 2:
            raise DataError("a feature map takes a tensor [B, ...]; expected batches (x, y) of such")
        return raw if raw.is_floating_point() else raw.float()

    @contextlib.contextmanager
    def _layer(self) -> Iterator[list[Any]]:
        seen: list[Any] = []
        if self.layer is None:
            yield seen
            return
        assert self.module is not None
        layer = dict(canonical_modules(self.module))[self.layer]
        handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
        try:
            yield seen
        finally:
            handle.remove()

    def weights(self) -> dict[str, Tensor]:
        """All that decides what the module answers, by canonical name."""
        if self.module is None:
            return {}
        return {**canonical_parameters(self.module), **canonical_buffers(self.module)}

    def check_whole(self, head: str) -> None:
        """Refuse a module of which this process holds a part alone: asking it would wait for the others.

        Raises:
            ConfigurationError: naming the first such weight.
        """
        for name, tensor in self.weights().items():
            if is_sharded(tensor):
                raise ConfigurationError(
                    f"the model that gives {head} its features has the sharded weight {name!r}; expected whole ones: "
                    "DDP, or the model before fully_shard"
                )

    def fingerprint(self) -> dict[str, str]:
        """A hash of each weight and buffer."""
        return {name: _hash(tensor) for name, tensor in self.weights().items()}

    def check(self, known: Mapping[str, str], head: str) -> None:
        """Refuse a module whose weights are others than those whose hashes are known.

        Raises:
            ProtectionError: naming the first such weight.
        """
        now = self.fingerprint()
        for name in [*known, *now]:
            if known.get(name) != now.get(name):
                what = "changed" if name in known and name in now else "came" if name in now else "gone"
                raise ProtectionError(
                    f"the model that gives {head} its features has {name!r} {what} since the first consolidate, so all "
                    "that was learned belongs to other features; expected it as it was then (frozen, and in eval mode)"
                )

    def versions(self) -> tuple[tuple[int, int], ...]:
        """What changes whenever a weight is changed in a way that PyTorch can see; quick to look at."""
        return tuple((id(t), t._version) for t in self.weights().values())


class _Inputs(nn.Module):
    """What stands for a model where the inputs are the features."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if len(inputs) != 1 or named:
            raise DataError("without features= a head takes one tensor per sample; expected batches (x, y)")
        return inputs[0]


_AS_IT_IS = _Inputs()


def _flat(raw: Any) -> Tensor:
    """Features as ``[B, D]``."""
    if isinstance(raw, Mapping):  # a Transformers output: what its own classifier would see, where it says so
        raw = raw.get("pooler_output", raw)
    if not isinstance(raw, Tensor):
        raise DataError(
            f"the features are a {type(raw).__name__}; expected a tensor [B, D]: name a layer=, or give a function as "
            "features="
        )
    if raw.dim() < 2:
        raise DataError(f"the features have shape {tuple(raw.shape)}; expected [B, D]")
    found = raw.flatten(1)
    return found if found.is_floating_point() else found.double()


def _hash(tensor: Tensor) -> str:
    whole = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{whole.dtype}{tuple(whole.shape)}".encode())
    found.update(bytes_of(whole))
    return found.hexdigest()[:32]


def digests(batch: Batch, count: int) -> list[int]:
    """A number for each sample of a batch that depends on its inputs and nothing else.

    Args:
        batch: inputs: a tensor, or tensors in dicts, lists and tuples, each with the samples along its first dimension.
        count: B, the number of samples.
    """
    found = [hashlib.blake2b(digest_size=8) for _ in range(count)]
    for tensor in _tensors(batch):
        if count and tensor.dim() and len(tensor) == count:
            whole = tensor.detach().cpu().contiguous()
            content = bytes_of(whole)
            step = len(content) // count
            for number, digest in enumerate(found):
                digest.update(content[number * step : (number + 1) * step])
    return [int.from_bytes(digest.digest(), "little") for digest in found]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            if name != "labels":
                yield from _tensors(value[name])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)
