r"""PackNet: each task owns some weights, and the next ones learn with what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import ConfigurationError
from holdfast.names import Select
from holdfast.objectives import Batch, Objective
from holdfast.projections.masks import check_ready, check_retrained, is_prunable, smallest
from holdfast.projections.owning import FREE, Owning
from holdfast.sharding import local, made_of, place_like, whole
from holdfast.state import anchor_of

__all__ = ["PackNet"]

_PRUNED = -1  # in the task at hand: nobody owns it, and it stays 0 until the task ends


class PackNet(Owning):
    r"""After a task its smallest free weights are pruned, the rest is retrained, then owned by the task and frozen.

    .. math:: o_i = \begin{cases} t & |\theta_i| > q_s(|\theta_j| : o_j = 0) \\ 0 & \text{else: free, and 0}
        \end{cases}

    Source: Mallya and Lazebnik 2018, arXiv:1711.05769, sec. 3. Differs: running statistics of normalisations are kept
    per task and put in place by :meth:`task`, where the paper stops updating them after the first task.

    Biases and scales (tensors of fewer than two dimensions) are never pruned; the first task that trains one owns it.
    A parameter that got no gradient during a task, such as another task's head, is neither pruned nor owned by it.

    Args:
        model: the model to protect.
        prune: share of each layer's free weights to set free after a task; several for the first, second, …
            task, the last of which is repeated.
        select: which trainable parameters to protect.
        objective: not used; here so that methods can be exchanged.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    on_shards: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        prune: float | Sequence[float] = 0.5,
        select: Select = None,
        objective: Objective | Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(model, select=select, objective=objective)
        self.prune: tuple[float, ...] = tuple(prune) if isinstance(prune, Sequence) else (prune,)
        if not self.prune or not all(isinstance(s, int | float) and 0 <= s < 1 for s in self.prune):
            raise ConfigurationError(f"prune is {prune!r}; expected a share from 0 up to, but not including, 1")
        self.meta.update(round=0, ready=False, pruned_at=0)

    def next_round(
        self, batches: Iterable[Batch] = (), *, objective: Objective | None = None, last: bool = False
    ) -> bool:
        """Prune once per task; ``True`` means retrain, then ask again.

        Args:
            batches: not used.
            objective: not used.
            last: whether this was the last task, which keeps all that is free.

        Raises:
            ProtectionError: if nothing was trained since the pruning.
        """
        if self.meta["ready"]:
            return False
        share = self.prune[min(self.num_tasks, len(self.prune) - 1)]
        if self.meta["round"] > 0:
            check_retrained(self)
        if last or share == 0 or self.meta["round"] > 0:
            self.meta["ready"] = True
            return False
        self._resolve(self._optimizers)
        self._fill_up(self.state)
        for name in self._trained():
            p = self.scope(name)
            if not is_prunable(p):
                continue
            held, anchor = self._held(name)
            owner = whole(held)  # what is smallest is a question to a whole layer
            pruned = smallest(whole(p).abs(), owner == FREE, share)
            self.state[name] = {"owner": place_like(p, owner.masked_fill(pruned, _PRUNED)), "anchor": anchor}
            local(p).masked_fill_(local(place_like(p, pruned)), 0.0)
        self._loaded()
        self.meta.update(round=1, pruned_at=self.meta["steps"])
        return True

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        check_ready(self)
        self._check_held()
        task = self.num_tasks + 1
        for name in self._trained():
            p = anchor_of(self.scope(name))
            owner, anchor = map(local, self._held(name))
            mine = owner == FREE
            self.state[name] = {
                "owner": made_of(p, owner.masked_fill(mine, task).masked_fill(owner == _PRUNED, FREE)),
                "anchor": made_of(p, torch.where(mine, local(p), anchor)),
            }
        self._remember_statistics(task - 1)
        self.meta.update(round=0, ready=False, pruned_at=0, touched=[])
        self._loaded()

    def _absent(self, index: int, name: str) -> Tensor:
        owner = local(self.state[name]["owner"])
        return (owner > index + 1) | (owner <= FREE)
