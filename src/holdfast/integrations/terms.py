"""A term in a loss that the model computes itself: as Transformers' models do, and whatever a ``Trainer`` trains."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.method import Method
from holdfast.names import unwrap
from holdfast.objectives import Batch

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Terms", "add_terms"]


class Terms:
    """Terms that a model adds to its own loss in training, until they are removed.

    A forward hook: with gradients on and in training mode the loss that the model returns (``outputs.loss``,
    ``outputs["loss"]``, the first of a tuple, or a scalar) grows by ``share`` times the ``penalty`` of each method that
    acts through the loss. In evaluation, under ``no_grad``, and for a teacher that is a copy of the model, nothing is
    added. A context manager: leaving it removes the hook.

    Args:
        methods: those whose terms are added.
        model: the module that is called; by default the model that the methods protect, without its wrappers.

    Attributes:
        share: this micro-batch's share of its step, to be set before each forward pass: the shares of a step sum to 1
            where its losses are summed (then that of its tokens, or samples), and each is 1 where the loop itself
            divides by the number of micro-batches.
        latest: the sum of the terms in the latest forward pass before ``share``, ``[]``, detached; ``None`` before one.

    Raises:
        ConfigurationError: without a method, or if they protect different models and none is named.
    """

    def __init__(self, *methods: Method, model: nn.Module | None = None) -> None:
        if not methods:
            raise ConfigurationError("add_terms got no method; expected at least one")
        models = {id(found): found for found in (unwrap(m.model) for m in methods)}
        if model is None and len(models) > 1:
            raise ConfigurationError(
                f"add_terms got methods of {len(models)} models; expected one model, or model=… that is called"
            )
        self.share: float | Tensor = 1.0
        self.latest: Tensor | None = None
        self.methods = methods
        self._model = next(iter(models.values())) if model is None else model
        self._busy = False

        # A function, for a copy of the model (a teacher) copies its hooks, and with a bound method all that it holds.
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
            return self._added(module, args, kwargs, outputs)

        self._handle = self._model.register_forward_hook(hook, with_kwargs=True)

    def remove(self) -> None:
        """Leave the model as it was."""
        self._handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _added(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
        # A method may call the model itself, within its penalty.
        if self._busy or module is not self._model or not (module.training and torch.is_grad_enabled()):
            return None
        acting = [method for method in self.methods if method.needs_penalty]
        if not acting:
            return None
        self._busy = True
        try:
            batch = _batch_of(module, args, kwargs)
            found = [method.penalty(batch, outputs, scale=1.0) for method in acting]
        finally:
            self._busy = False
        term = torch.stack(found).sum() if len(found) > 1 else found[0]
        self.latest = term.detach()
        if not term.requires_grad:
            return None
        names = ", ".join(type(method).__name__ for method in acting)
        return _with_term(outputs, term * self.share, names)


def add_terms(*methods: Method, model: nn.Module | None = None) -> Terms:
    """Have a model add the terms of some methods to the loss that it returns in training: see :class:`Terms`.

    Example:
        >>> import torch, holdfast
        >>> class Net(torch.nn.Linear):
        ...     def forward(self, x, labels):
        ...         logits = super().forward(x)
        ...         return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}
        >>> model = Net(4, 2)
        >>> keep = holdfast.LwF(model, strength=1.0)
        >>> with add_terms(keep) as terms:
        ...     terms.share = 0.5
        ...     loss = model(torch.ones(3, 4), labels=torch.zeros(3, dtype=torch.long))["loss"]
    """
    return Terms(*methods, model=model)


def _batch_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
    """What a model was called with, as a dict batch."""
    if not args:
        return dict(kwargs)
    signature = inspect.signature(module.forward)
    bound = signature.bind_partial(*args, **kwargs).arguments
    batch: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise ConfigurationError(
                f"{type(module).__name__} takes its inputs by position and without names; expected them as keywords"
            )
        batch |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return batch


def _with_term(outputs: Any, term: Tensor, names: str) -> Any:
    if isinstance(outputs, Tensor) and outputs.dim() == 0:
        return outputs + term
    if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
        kind: Any = type(outputs)
        return kind({**outputs, "loss": outputs["loss"] + term})
    if isinstance(outputs, tuple) and outputs and isinstance(outputs[0], Tensor) and outputs[0].dim() == 0:
        first = outputs[0] + term
        fields = getattr(outputs, "_fields", None)
        return (first, *outputs[1:]) if fields is None else type(outputs)(first, *outputs[1:])
    raise ConfigurationError(
        f"the term of {names} has no place, because the model returned no loss: call it with labels, or add "
        "keep.penalty(batch, outputs) where the loss is computed"
    )
