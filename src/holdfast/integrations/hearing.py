"""What a model answered to a batch in somebody else's code, so that it need not be asked again."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from holdfast.method import Method
from holdfast.names import unwrap
from holdfast.objectives import Batch
from holdfast.objectives.plain import Plain
from holdfast.wrappers import is_compiled

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Hearing"]

# What trainers give Transformers' models beside their inputs; not TRL's fused_lm_head, with which there are no logits.
_NO_INPUTS = {"num_items_in_batch", "use_cache", "output_router_logits", "output_hidden_states", "output_attentions"}


class Hearing:
    """Listens, within its context, to the calls of the model that a method protects.

    Args:
        keep: the method.
        around: the module in which it is called; where that is compiled, nothing is heard.
    """

    def __init__(self, keep: Method, around: nn.Module) -> None:
        self._objective = keep.objective
        self._model = unwrap(keep.model)
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
        # A compiled graph would keep the hook.
        self._deaf = any(map(is_compiled, around.modules()))
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def __enter__(self) -> Self:
        if not self._deaf:
            self._handle = self._model.register_forward_hook(self._heard, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _heard(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if torch.is_grad_enabled():
            self._calls.append((args, kwargs, outputs))

    def answer(self, batch: Batch) -> Any:
        """What the model answered to exactly this batch, as the objective would ask; ``None`` for never.

        What else the model was given is what its loss is made from (the keys that the objective withholds), or changes
        no answer.
        """
        objective = self._objective
        if not self._calls or not isinstance(objective, Plain) or objective.own_forward is not None:
            return None
        args, kwargs = objective.forward(_asked, batch)  # type: ignore[arg-type]  # only called
        more = objective.withheld | _NO_INPUTS
        for heard, named, outputs in reversed(self._calls):
            same = len(heard) == len(args) and all(a is b for a, b in zip(heard, args, strict=True))
            if same and named.keys() - more == kwargs.keys() - more and all(named.get(k) is kwargs[k] for k in kwargs):
                return outputs
        return None


def _asked(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs
