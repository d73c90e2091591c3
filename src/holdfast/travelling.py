"""The memory travels with the optimizer: its ``state_dict()`` carries what the methods attached to it remember.

Whatever saves an optimizer saves them, and whatever loads it gives them back: Transformers, Lightning, Accelerate and
loops by hand resume without a line of their own. It lies under one key beside PyTorch's two, as plain values and
tensors, so ``torch.load(weights_only=True)`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch.optim import Optimizer

from holdfast.errors import StateError
from holdfast.guards import warn

__all__ = ["MEMORY", "Traveller", "give_back", "left_behind", "pack_up", "without_memory"]

MEMORY = "holdfast"  # the key in an optimizer's state


class Traveller(Protocol):
    """What is to be known of a method that travels."""

    @property
    def travel_key(self) -> tuple[Any, ...]:
        """Where it stands among others of its class, whatever the order of attaching; its class's name comes first."""
        ...

    @property
    def is_blank(self) -> bool:
        """Whether it has neither learned nor loaded anything."""
        ...

    def travels_with(self, optimizer: Optimizer) -> bool:
        """Whether its memory is part of this optimizer's state: of several, the first carries it."""
        ...

    def carried(self) -> dict[str, Any] | None:
        """What it remembers, each tensor held as it is; ``None`` where that cannot be carried."""
        ...

    def recall(self, saved: Mapping[str, Any]) -> None:
        """Take over what :meth:`carried` returned."""
        ...


def pack_up(state_dict: dict[str, Any], travellers: Sequence[Traveller]) -> None:
    """Add what methods remember to an optimizer's state, by reference as everything else in it.

    Args:
        state_dict: the optimizer's; changed.
        travellers: the methods that travel with this optimizer.
    """
    found = [t.carried() for t in sorted(travellers, key=lambda t: t.travel_key)]
    if any(held is not None for held in found):
        state_dict[MEMORY] = [held for held in found if held is not None]


def without_memory(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state as it would be without any method, for who saves the method elsewhere.

    Args:
        state_dict: what ``optimizer.state_dict()`` returned.
    """
    return {key: value for key, value in state_dict.items() if key != MEMORY}


def give_back(state_dict: dict[str, Any], attached: Sequence[Traveller]) -> list[Traveller]:
    """Have attached methods take over what an optimizer's state carries.

    Args:
        state_dict: the optimizer's, about to be loaded; what it carries is taken out of it.
        attached: all methods attached to that optimizer.

    Returns:
        Those for which it carried nothing.

    Raises:
        StateError: if it carries something else than an optimizer's state does, other numbers of methods of a class
            than are attached, or what a method refuses.
    """
    saved = state_dict.pop(MEMORY, [])
    if not isinstance(saved, list) or not all(isinstance(held, Mapping) and "method" in held for held in saved):
        raise StateError(f"the optimizer's state holds {saved!r} under {MEMORY!r}; expected what methods remember")
    waiting: dict[str, list[Mapping[str, Any]]] = {}
    for held in saved:
        waiting.setdefault(str(held["method"]), []).append(held)
    present: dict[str, list[Traveller]] = {}
    for traveller in sorted(attached, key=lambda t: t.travel_key):
        present.setdefault(str(traveller.travel_key[0]), []).append(traveller)
    for name, several in waiting.items():
        if name in present and len(several) != len(present[name]):
            raise StateError(
                f"the optimizer's state carries the memory of {len(several)} {name}, but {len(present[name])} are "
                "attached to it: attach the same methods before it is loaded"
            )
    for name, several in waiting.items():
        if name not in present:
            warn(
                f"the optimizer's state carries the memory of {name}, which is not attached to it, so nobody took it "
                f"over and what it protected is free: attach {name} before the optimizer's state is loaded"
            )
        for traveller, held in zip(present.get(name, ()), several, strict=False):
            try:
                traveller.recall(held)
            except StateError as error:
                raise StateError(f"{name} refuses the memory that the optimizer's state carries: {error}") from error
    return [traveller for name, several in present.items() if name not in waiting for traveller in several]


def left_behind(travellers: Sequence[Traveller]) -> None:
    """Warn of methods that were attached to an optimizer whose state was loaded, and still know nothing.

    Args:
        travellers: those for which that state carried nothing.
    """
    blank = sorted({str(t.travel_key[0]) for t in travellers if t.is_blank})
    if blank:
        names = " and ".join(blank)
        warn(
            f"the optimizer's state was loaded without a memory of {names} (it was saved without {names}, or loaded in "
            "a way of the optimizer's own), so nothing is protected: give the method its state with "
            "keep.load_state_dict, or consolidate what is to be protected"
        )
