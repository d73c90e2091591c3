"""What freezing, PackNet and pruning share: holding weights and running statistics exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.attaching import Attached
from holdfast.errors import ConfigurationError, ProtectionError
from holdfast.method import Method
from holdfast.names import Select, canonical_modules
from holdfast.objectives import Batch, Objective
from holdfast.parts import within
from holdfast.sharding import anywhere, local

__all__ = [
    "HoldsExactly",
    "HoldsStatistics",
    "check_held",
    "check_ready",
    "check_retrained",
    "clear",
    "hold",
    "hold_statistics",
    "is_prunable",
    "kept_bits",
    "normalisations",
    "put_back",
    "smallest",
    "statistics",
    "zero",
]

_STATISTICS = "statistics."
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a floating-point number -> as wide an integer


class HoldsExactly(Method):
    """A method that decides to the last bit where some weights stand: no weight can have two such methods."""

    puts_back: ClassVar[bool] = True
    prunes: ClassVar[bool] = True  # one that does not prune holds what it finds, which several may do

    def _check_companion(self, other: Attached) -> None:
        super()._check_companion(other)
        if isinstance(other, HoldsExactly) and (self.prunes or other.prunes):
            shared = sorted(self.params.keys() & other.params.keys())
            if shared:
                raise ConfigurationError(
                    f"{type(self).__name__} and {type(other).__name__} would both hold parameter {shared[0]!r} "
                    f"({len(shared)} in all) to the last bit, each at its own value; give each its own with select="
                )


class HoldsStatistics(Method):
    """A method that holds the running statistics of normalisations all of whose weights it holds.

    A subclass calls :meth:`_remember_statistics` once it has remembered its weights, and :meth:`_restore_statistics`
    after each step.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self._normalisations: dict[str, nn.Module] = {}

    def _remember_statistics(self) -> None:
        self._find_normalisations()
        for name, buffer in statistics(self._normalisations).items():
            self.buffers.setdefault(_STATISTICS + name, buffer.detach().clone())

    def _restore_statistics(self) -> None:
        hold_statistics(self._normalisations, self.buffers, _STATISTICS)

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        self._find_normalisations()

    def _loaded(self) -> None:
        super()._loaded()
        self._find_normalisations()

    def _stopped(self) -> Collection[str]:
        """Names of the parameters that do not move any more."""
        return self.state.keys()

    def _find_normalisations(self) -> None:
        # Of some rows of a normalisation's weights it does not follow that its statistics may stop.
        self._normalisations = normalisations(self.model, set(self._stopped()) - self._rows.keys())


def is_prunable(parameter: Tensor) -> bool:
    """Whether single entries may be pruned: weights of layers, but no biases and no scales of normalisations."""
    return parameter.dim() >= 2


def smallest(values: Tensor, among: Tensor, share: float) -> Tensor:
    r"""The smallest entries among some: at least a share of them, all ties with the largest of these included.

    .. math:: \{i \in A : v_i \le v_{(k)}\}, \qquad k = \lceil s \, |A| \rceil

    Args:
        values: what is compared, ``[*p]``.
        among: A, bool ``[*p]``.
        share: s, from 0 to 1.

    Returns:
        bool ``[*p]``.
    """
    chosen = values[among]
    k = math.ceil(share * len(chosen) - 1e-9)  # a share such as 0.07 is no exact binary number
    if k <= 0:
        return torch.zeros_like(among)
    return among & (values <= chosen.kthvalue(k).values)


def kept_bits(free: Tensor) -> Tensor:
    """All bits set where an entry is free, none where it is held: int8 ``[*p]``, as :func:`clear` needs it."""
    return -free.to(torch.int8)


@torch.no_grad()
def clear(tensors: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Set entries to 0, in place (also where they are not finite); the others keep all their bits.

    By their bits, because filling by a boolean mask takes some 25 times as long on a CPU, and a product with 0 would
    leave NaN.

    Args:
        tensors: of any floating-point type, each ``[*p]``; changed.
        kept: what :func:`kept_bits` gave, each ``[*p]``.
    """
    for tensor, bits in zip(tensors, kept, strict=True):
        tensor.view(_INTEGER[tensor.itemsize]).bitwise_and_(bits)


@torch.no_grad()
def put_back(tensors: Sequence[Tensor], kept: Sequence[Tensor], anchors: Sequence[Tensor]) -> None:
    """Set entries to what they were, in place, to the last bit.

    Args:
        tensors: each ``[*p]``; changed.
        kept: what :func:`kept_bits` gave, each ``[*p]``.
        anchors: what they were, 0 in the free entries, each ``[*p]`` of its tensor's type.
    """
    for tensor, bits, anchor in zip(tensors, kept, anchors, strict=True):
        integer = _INTEGER[tensor.itemsize]
        tensor.view(integer).bitwise_and_(bits).bitwise_or_(anchor.view(integer))


def check_retrained(method: Method) -> None:
    """Refuse to go on to another round if nothing was trained since the last pruning.

    Raises:
        ProtectionError: saying what to do.
    """
    if method.meta["steps"] == method.meta["pruned_at"]:
        raise ProtectionError(
            f"{type(method).__name__} saw no optimizer step since it pruned: retrain after each next_round(…) that "
            "returns True, with the optimizer given to attach"
        )


def check_ready(method: Method) -> None:
    """Refuse to consolidate before the rounds are over.

    Raises:
        ProtectionError: saying what to do.
    """
    if not method.meta["ready"]:
        raise ProtectionError(
            f"{type(method).__name__} needs its rounds before consolidate: while keep.next_round(task): train(…) "
            "(with last=True nothing is pruned)"
        )


def check_held(name: str, weights: Tensor, expected: Tensor, mask: Tensor) -> None:
    """Refuse weights that moved although they are held.

    Args:
        name: the parameter's name.
        weights: as they are, ``[*p]``.
        expected: as they should be, ``[*p]``.
        mask: where, bool ``[*p]``.

    Raises:
        ProtectionError: naming the parameter.
    """
    here = local(mask)
    if anywhere([(local(weights)[here] != local(expected)[here]).any()], [weights])[0]:
        raise ProtectionError(
            f"weights of parameter {name!r} that are held have moved: something other than the attached optimizer "
            "changed them"
        )


@torch.no_grad()
def zero(grads: Sequence[Tensor]) -> None:
    """Set whole gradients to 0, in place (also where they are not finite)."""
    if grads:
        torch._foreach_zero_(list(grads))


@torch.no_grad()
def hold(params: Sequence[Tensor], anchors: Sequence[Tensor]) -> None:
    """Put whole tensors back, exactly: momentum and weight decay move weights even where their gradient is 0."""
    if params:
        torch._foreach_copy_(list(params), list(anchors))


def normalisations(model: nn.Module, frozen: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """The normalisations with running statistics.

    Args:
        model: any module, wrapped or not.
        frozen: canonical names of parameters that no longer move: then only normalisations with weights that are
            all among them.

    Returns:
        canonical name -> module.
    """
    names = None if frozen is None else set(frozen)
    found: dict[str, nn.Module] = {}
    for prefix, module in canonical_modules(model):
        own = {_join(prefix, name) for name, p in module._parameters.items() if p is not None}
        if isinstance(module, nn.modules.batchnorm._NormBase) and (names is None or (own and own <= names)):
            found[prefix] = module
    return found


def statistics(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The live running statistics of normalisations, by canonical name."""
    return {
        _join(prefix, name): buffer
        for prefix, module in modules.items()
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


def hold_statistics(modules: Mapping[str, nn.Module], held: Mapping[str, Tensor], prefix: str) -> None:
    """Put running statistics back: a frozen normalisation must answer in eval mode as it did.

    Args:
        modules: what :func:`normalisations` found.
        held: prefix + canonical name -> statistics.
        prefix: what the names in ``held`` begin with.
    """
    live = {name: buffer for name, buffer in statistics(modules).items() if prefix + name in held}
    anchors = [held[prefix + name] for name in live]
    hold([within(buffer, anchor) for buffer, anchor in zip(live.values(), anchors, strict=True)], anchors)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
