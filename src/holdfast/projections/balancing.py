r"""Weight balancing: after each task, the last layer's rows of the classes seen are made alike in length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError, DataError, NumericsError, StateError
from holdfast.method import Method
from holdfast.names import Select, canonical_modules, owners, selected, unwrap
from holdfast.objectives import Batch, Classification, Objective
from holdfast.objectives.batches import targets_of
from holdfast.objectives.distributions import IGNORED
from holdfast.processes import in_step, several
from holdfast.projections.following import final_weights, traced
from holdfast.projections.norms import bounded_radius, max_norm, row_norms, tau_normalised
from holdfast.sharding import is_flat, local, place_like, whole

__all__ = ["Balance", "WeightBalancing", "balanced_rows"]

Balance: TypeAlias = Literal["l2", "tau", "max"]


@torch.no_grad()
def balanced_rows(
    weight: Tensor, classes: Sequence[int], *, norm: Balance, tau: float = 0.7, threshold: float = 0.1
) -> Tensor:
    r"""A classifier's weight, some of its rows made alike in length.

    .. math:: \theta_k \leftarrow s \, \frac{\theta_k}{\lVert \theta_k \rVert^{\tau}}
        \quad\text{(L2: } \tau = 1 \text{)}, \qquad
        \theta_k \leftarrow \min\left(1, \frac{\delta}{\lVert \theta_k \rVert}\right) \theta_k \quad\text{(max)}

    with s such that these rows keep their mean length, and δ as in
    :func:`~holdfast.projections.norms.bounded_radius`.

    Source: Alshammari et al. 2022, arXiv:2203.14197, sec. 4.2. Differs: s, without which a classifier that trains on
    would begin at another scale of its outputs; there s = 1, which changes no answer of a classifier without a bias.

    Args:
        weight: ``[K, D]``.
        classes: the rows; the others stay as they are.
        norm: ``"l2"``, ``"tau"`` or ``"max"``.
        tau: τ, >= 0.
        threshold: t, from 0 to 1.

    Returns:
        ``[K, D]``, a new tensor.
    """
    rows = weight[list(classes)]
    if norm == "max":
        max_norm(rows, bounded_radius(rows, threshold))
    else:
        before = row_norms([rows])[0].mean()
        rows = tau_normalised(rows, 1.0 if norm == "l2" else tau)
        after = row_norms([rows])[0].mean()
        rows = rows * torch.where(after > 0, before / after, 1.0)
    found = weight.clone()
    found[list(classes)] = rows.to(found.dtype)
    return found


class WeightBalancing(Method):
    r"""After each task, the rows of all classes seen so far are made alike in length, without any old data.

    .. math:: \theta_k \leftarrow s \, \frac{\theta_k}{\lVert \theta_k \rVert^{\tau}}, \qquad k \text{ seen}

    Training itself is left as it is; ``consolidate`` reads the labels of the task's data and changes the last layer's
    weight. Its bias stays. It is for classes that compete in one last layer: tasks with a head each are refused.

    Source: Alshammari et al. 2022, arXiv:2203.14197, sec. 4.2, for long-tailed data. Differs: after each task, among
    the classes seen, is ours; so is that these rows keep their mean length.

    Args:
        model: the model.
        norm: ``"l2"``: all alike; ``"tau"``: by a power of their length; ``"max"``: the long ones are cut.
        tau: τ, >= 0: 0 changes nothing, 1 is ``"l2"``, beyond it short rows end longer; for ``norm="tau"``.
        threshold: t, from 0 to 1, as for :class:`holdfast.MaxNorm`; for ``norm="max"``.
        head: the last layer, where it is to be named; ``None``: the one that is found.
        objective: what a batch means: a :class:`Classification`.

    Raises:
        ConfigurationError: for a wrong argument, or a model without exactly one last linear layer.
    """

    params: dict[str, nn.Parameter]
    on_shards: ClassVar[bool] = True
    acts_on_gradients: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        norm: Balance = "l2",
        tau: float = 0.7,
        threshold: float = 0.1,
        head: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, objective=objective)
        if norm not in ("l2", "tau", "max"):
            raise ConfigurationError(f"norm is {norm!r}; expected 'l2', 'tau' or 'max'")
        self.norm: Balance = norm
        self.tau: float = check_not_negative("tau", tau)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ConfigurationError(f"threshold is {threshold!r}; expected a share, from 0 to 1")
        self.threshold: float = float(threshold)
        self._name = _last_layer(model, head)
        self._select = [self._name]
        self.params = selected(model, self._select)
        self.meta.update(seen=[], head=None)  # the classes, and which head's they are
        self._next: Tensor | None = None  # what the last layer is about to become

    @property
    def seen(self) -> tuple[int, ...]:
        """The classes that were learned, as rows of the last layer."""
        return tuple(self.meta["seen"])

    def _resolve(self, optimizers: Sequence[Optimizer]) -> None:
        super()._resolve(optimizers)
        rows = len(self.params[self._name])
        if self.seen and max(self.seen) >= rows and not is_flat(self.model.modules()):
            raise StateError(
                f"class {max(self.seen)} was seen, but parameter {self._name!r} has {rows} rows; expected one for each"
            )

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        if not isinstance(objective, Classification):
            raise ConfigurationError(
                f"WeightBalancing balances the classes of a Classification, and the objective is "
                f"{type(objective).__name__}"
            )
        if self.num_tasks and objective.head != self.meta["head"]:
            raise ConfigurationError(
                f"the objective is about head {objective.head!r}, and those before were about {self.meta['head']!r}; "
                "WeightBalancing balances classes that compete in one last layer: heads of different tasks never do, "
                "so there is nothing between them to balance"
            )
        weight = whole(self.params[self._name].detach())
        if not bool(weight.isfinite().all()):
            raise NumericsError(f"WeightBalancing: parameter {self._name!r} is not finite, so nothing was balanced")
        seen = sorted({*self.seen, *self._classes(batches, len(weight))})
        self._next = balanced_rows(weight, seen, norm=self.norm, tau=self.tau, threshold=self.threshold)
        self.meta.update(seen=seen, head=objective.head)

    def _classes(self, batches: Iterable[Batch], number: int) -> list[int]:
        """Those that the labels name, in any process."""
        mask = torch.zeros(number, dtype=torch.int32)
        with in_step(self.params):
            for batch in batches:
                targets = targets_of(batch).flatten().cpu()
                labels = torch.unique(targets[targets != IGNORED])
                if len(labels) and (labels.is_floating_point() or int(labels[0]) < 0 or int(labels[-1]) >= number):
                    raise DataError(
                        f"the labels are {labels.tolist()}; expected rows of {self._name!r}, 0 to {number - 1}"
                    )
                mask[labels.long()] = 1
        if several():
            mask = mask.to(self.params[self._name].device)
            torch.distributed.all_reduce(mask, torch.distributed.ReduceOp.MAX)
        if not bool(mask.any()):
            raise DataError("no batch has a label, so WeightBalancing knows of no class to balance")
        return [int(k) for k in mask.nonzero().flatten()]

    @torch.no_grad()
    def _begin_anew(self) -> None:
        super()._begin_anew()
        assert self._next is not None
        weight = self.params[self._name].detach()
        local(weight).copy_(local(place_like(weight, self._next)))
        self._next = None


def _last_layer(model: nn.Module, head: Select) -> str:
    """The weight of the one last layer.

    Raises:
        ConfigurationError: if there is none, or there are several.
    """
    if is_flat(model.modules()):  # pieces without shapes, which attach refuses in a sentence of its own
        return next(iter(selected(model, head)))
    if head is None:
        found = final_weights(model, traced(model, "head", "the last layer is not known"))
    else:
        found = [name for name, p in selected(model, head).items() if p.dim() == 2]
    kind = type(unwrap(model)).__name__
    if len(found) != 1:
        names = f" ({', '.join(found)})" if found else ""
        raise ConfigurationError(
            f"WeightBalancing balances the rows of one last layer, and {kind} has {len(found)}{names}: name it with "
            "head, such as head='classifier' (heads of different tasks never compete, so there is nothing between them "
            "to balance)"
        )
    owner = dict(canonical_modules(model))[owners(model)[found[0]]]
    if not isinstance(owner, nn.Linear):
        raise ConfigurationError(
            f"parameter {found[0]!r} belongs to a {type(owner).__name__}; WeightBalancing expects the weight of a "
            "linear layer that is no other layer's"
        )
    return found[0]
