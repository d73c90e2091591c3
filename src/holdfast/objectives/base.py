"""The protocol of an objective, and what the built-in ones share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError

__all__ = ["Batch", "Forward", "Objective", "Plain", "SharedForward", "count", "draw"]

Batch: TypeAlias = Any
Forward: TypeAlias = Callable[[nn.Module, Batch], Any]


@runtime_checkable
class Objective(Protocol):
    """What a batch means. ``B`` samples, ``K`` outputs."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass: the outputs that this task uses, ``[B, K]``."""
        ...

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One loss per sample, ``[B]`` (``[B, T]`` where each token counts for itself; padding exactly 0)."""
        ...

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Batch:
        """A batch for :meth:`losses` whose targets are drawn from the model's own distribution."""
        ...

    def factors(self, outputs: Tensor) -> Iterator[Tensor]:
        """Terms ``[B]`` whose squared per-sample gradients add up to the exact Fisher information."""
        ...


@runtime_checkable
class SharedForward(Protocol):
    """An objective whose forward pass other objectives may share: ``outputs = select(forward(...))``."""

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model returns."""
        ...

    def select(self, raw: Any) -> Tensor:
        """This task's outputs, out of what the model returned."""
        ...


def targets_of(batch: Batch) -> Tensor:
    """The targets of a batch."""
    found = None
    if isinstance(batch, Mapping):
        found = batch.get("labels")
    elif isinstance(batch, Sequence) and len(batch) == 2:
        found = batch[1]
    if not isinstance(found, Tensor):
        raise DataError(
            f"a batch of type {type(batch).__name__} has no targets; expected a pair (inputs, targets) "
            "or a dict with a tensor under 'labels'"
        )
    return found


def _call(model: nn.Module, batch: Batch) -> Any:
    """What the model returns for a batch: ``model(inputs)``, or ``model(**inputs)`` for a dict."""
    if isinstance(batch, Mapping):
        return model(**{k: v for k, v in batch.items() if k != "labels"})
    if isinstance(batch, Sequence) and len(batch) == 2:
        inputs = batch[0]
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    raise DataError(f"a batch of type {type(batch).__name__} cannot be given to the model; expected a pair or a dict")


def logits_of(raw: Any) -> Tensor:
    """A tensor, or the ``logits`` of a Transformers output."""
    found = raw if isinstance(raw, Tensor) else raw.get("logits") if isinstance(raw, Mapping) else None
    found = getattr(raw, "logits", None) if found is None else found
    if not isinstance(found, Tensor):
        raise DataError(
            f"the model returned {type(raw).__name__}; expected a tensor or an output with 'logits' "
            "(for several heads use Classification(head=…))"
        )
    return found


class Plain:
    """The shared half of the built-in objectives: how a batch goes through the model.

    Args:
        forward: ``(model, batch) -> whatever the model returns``, when ``model(inputs)`` is not the call.
    """

    def __init__(self, forward: Forward | None = None) -> None:
        if forward is not None and not callable(forward):
            raise ConfigurationError(f"forward is {forward!r}; expected a function (model, batch) -> outputs")
        self._forward = forward

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model returns for this batch."""
        return _call(model, batch) if self._forward is None else self._forward(model, batch)

    def select(self, raw: Any) -> Tensor:
        """This task's outputs, out of what the model returned."""
        return logits_of(raw)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass: the outputs that this task uses, ``[B, K]``."""
        return self.select(self.forward(model, batch))

    @property
    def shared_key(self) -> Any:
        """Objectives with equal keys may share one forward pass."""
        return self._forward


def multinomial(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One draw per row; the draw is made on the generator's device, so one seed means one draw anywhere."""
    if generator is not None and generator.device != probabilities.device:
        return torch.multinomial(probabilities.to(generator.device), 1, generator=generator)[:, 0].to(
            probabilities.device
        )
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def normal_like(outputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers, drawn on the generator's device."""
    device = outputs.device if generator is None else generator.device
    return torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device=device).to(outputs.device)


def uniform_like(outputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers between 0 and 1, drawn on the generator's device."""
    device = outputs.device if generator is None else generator.device
    return torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype, device=device).to(outputs.device)


@runtime_checkable
class Padded(Protocol):
    """An objective some of whose positions carry no sample."""

    def count(self, batch: Batch) -> int:
        """How many samples a batch holds."""
        ...

    def mask(self, sampled: Batch, batch: Batch) -> Batch:
        """The sampled targets, without those at positions that carry no sample in ``batch``."""
        ...


def count(objective: Objective, batch: Batch) -> int:
    """How many samples a batch holds: what an importance is the mean over."""
    return objective.count(batch) if isinstance(objective, Padded) else leading_size(batch)


def leading_size(batch: Batch) -> int:
    """The length of the leading dimension of a batch."""
    values = list(batch.values()) if isinstance(batch, Mapping) else list(batch)
    while values:
        value = values.pop()
        if isinstance(value, Tensor) and value.dim() > 0:
            return value.shape[0]
        if isinstance(value, Mapping):
            values.extend(value.values())
        elif isinstance(value, tuple | list):
            values.extend(value)
    raise DataError(f"a batch of type {type(batch).__name__} holds no tensor to count samples by")


def draw(objective: Objective, outputs: Tensor, batch: Batch, generator: torch.Generator | None) -> Batch:
    """A batch for ``objective.losses`` whose targets are drawn from the model, padding left out."""
    sampled = objective.sample(outputs, generator)
    return objective.mask(sampled, batch) if isinstance(objective, Padded) else sampled
