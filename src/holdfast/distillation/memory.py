"""Texts, or other batches, on which a teacher is asked again and again: one batch a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError, DataError
from holdfast.objectives import Batch
from holdfast.objectives.batches import is_pair, to_device

__all__ = ["PREFIX", "Memory", "Source"]

Source: TypeAlias = "Iterable[Batch] | Callable[[nn.Module], Iterable[Batch]]"

PREFIX = "memory."


class Memory:
    """Goes round and round through batches.

    Every process of a distributed run takes what it was given, in step: given the same, they learn what one would.

    Args:
        source: batches that can be gone through again, or a function of the model that makes them at each
            ``consolidate``.

    Attributes:
        taken: how many batches were taken since the memory was filled.

    Raises:
        ConfigurationError: for what can be gone through once.
    """

    taken: int

    def __init__(self, source: Source) -> None:
        if not callable(source) and (isinstance(source, Iterator) or not isinstance(source, Iterable)):
            raise ConfigurationError(
                f"memory is a {type(source).__name__}; expected batches that can be gone through again, such as a list "
                "or holdfast.generations(…), or a function of the model that makes them"
            )
        self.source = source
        self.taken = 0
        self._batches: Iterable[Batch] = ()
        self._number = 0
        self._round: Iterator[Batch] = iter(())
        self._at = 0

    def fill(self, model: nn.Module) -> None:
        """Begin anew, with what the source makes of the model as it is now.

        Raises:
            ConfigurationError: if the source makes what can be gone through once.
            DataError: if there is no batch.
        """
        if callable(self.source):
            made = self.source(model)
            if not isinstance(made, Iterable):
                raise ConfigurationError(f"memory makes a {type(made).__name__} of the model; expected batches")
            self._begin(list(made), 0)
        else:
            self._begin(self.source, 0)

    def on(self, device: torch.device) -> Iterator[Batch]:
        """All batches, once, in their order."""
        return (to_device(batch, device) for batch in self._batches)

    def _begin(self, batches: Iterable[Batch], taken: int) -> None:
        number = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
        if number == 0:
            raise DataError("memory has no batch; expected at least one")
        self._batches, self._number, self.taken = batches, number, taken
        self._round, self._at = iter(()), number

    def take(self, device: torch.device, *, peek: bool = False) -> tuple[int, Batch]:
        """The next batch, and its place among all.

        Args:
            device: where it is wanted.
            peek: take the same one next time.
        """
        place = self.taken % self._number
        if place < self._at:
            self._round, self._at = iter(self._batches), 0
        for batch in self._round:
            self._at += 1
            if self._at > place:
                self.taken += not peek
                return place, to_device(batch, device)
        raise DataError(f"memory said it had {self._number} batches, and has {self._at}")

    def held(self) -> dict[str, Tensor]:
        """What a state has of batches that cannot be given again, for they were made of a model that has changed since.

        Raises:
            ConfigurationError: for a batch that is not made of tensors.
        """
        found: dict[str, Tensor] = {}
        if callable(self.source):
            for number, batch in enumerate(self._batches):
                parts: Mapping[Any, Any] = (
                    batch if isinstance(batch, Mapping) else dict(enumerate(batch)) if is_pair(batch) else {}
                )
                if not parts or not all(isinstance(part, Tensor) for part in parts.values()):
                    raise ConfigurationError(
                        f"memory made a batch of type {type(batch).__name__}; expected a pair or a dict of tensors"
                    )
                found |= {f"{PREFIX}{number}.{name}": part for name, part in parts.items()}
        return found

    def restore(self, buffers: Mapping[str, Tensor], taken: int) -> None:
        """Go on where a state was: after so many batches.

        Args:
            buffers: what :meth:`held` returned, among others.
            taken: how many were taken.
        """
        batches: dict[str, dict[str, Tensor]] = {}
        for key, tensor in buffers.items():
            if key.startswith(PREFIX):
                number, _, name = key.removeprefix(PREFIX).partition(".")
                batches.setdefault(number, {})[name] = tensor
        made = [tuple(found.values()) if set(found) == {"0", "1"} else found for found in batches.values()]
        self._begin(self.source if not callable(self.source) else made, taken)
