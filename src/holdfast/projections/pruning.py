r"""ANPyC's adversarial pruning: consolidate what matters, and set free what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.objectives import Batch, Objective, as_objective
from holdfast.penalties.anpyc import Output, Reduction, Sign, TaylorPenalty
from holdfast.penalties.quadratic import Options
from holdfast.projections.masks import (
    HoldsExactly,
    check_held,
    check_ready,
    check_retrained,
    clear,
    is_prunable,
    kept_bits,
    smallest,
)
from holdfast.sharding import anywhere, local, made_of, place_like, whole
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AnpycPruning", "Variant", "percentage", "rounds", "to_prune"]

Variant: TypeAlias = Literal["paper", "released"]

# What is remembered of each entry: it was not set free by its latest pruning, it was, or it is pruned right now.
_KEPT, _ELIGIBLE, _PRUNED = 0, 1, 2

_IN_RANGE: dict[str, Callable[[float], bool]] = {
    "start": lambda value: 0 < value < 100,
    "decay": lambda value: 0 <= value <= 1,
    "step": lambda value: 0 < value <= 100,
}


def percentage(task: int, start: float = 50.0, decay: float = 0.8) -> float:
    r"""How much is pruned after a task, in percent of what is eligible.

    .. math:: P_0 = \text{start}, \qquad P_{t+1} = \lfloor \text{decay} \cdot P_t \rfloor

    Source: Peng et al. 2021, arXiv:1912.09091, and its release. Differs: no.

    Args:
        task: t, from 0.
        start: P after the first task, from 0 to 100.
        decay: from 0 to 1.

    Returns:
        P, in percent.

    Example:
        >>> [int(percentage(t)) for t in range(9)]
        [50, 40, 32, 25, 20, 16, 12, 9, 7]
    """
    found = float(start)
    for _ in range(task):
        found = float(int(found * decay + 1e-9))
    return found


def rounds(percent: float, step: float = 10.0, variant: Variant = "paper") -> list[float]:
    """The percentages of the rounds of one task; each round ends with a retraining.

    Args:
        percent: what is to be pruned in the end.
        step: how much more from round to round, in percent.
        variant: ``"paper"`` ends at the percentage itself, ``"released"`` at the first multiple of ``step`` that
            reaches it.

    Returns:
        Percentages, ascending; none for 0.

    Example:
        >>> rounds(32), rounds(32, variant="released")
        ([10.0, 20.0, 30.0, 32.0], [10.0, 20.0, 30.0, 40.0])
    """
    found: list[float] = []
    while percent > 0 and (not found or found[-1] < percent):
        found.append(float(step) * (len(found) + 1))
    if found and variant == "paper":
        found[-1] = float(percent)
    return found


def to_prune(importance: Tensor, eligible: Tensor, percent: float, *, first: bool, variant: Variant) -> Tensor:
    r"""Which entries of one tensor to prune.

    .. math:: \{i \in E : \Omega_i \le q(\Omega_E)\}

    Source: Peng et al. 2021, arXiv:1912.09091, and its release. Differs: ``"paper"`` takes for q the smallest
    importance that reaches the percentage; ``"released"`` takes the interpolated percentile, and after the first task
    prunes what is strictly below it or exactly 0, which may be less.

    Args:
        importance: Ω, ``[*p]``, >= 0.
        eligible: E, bool ``[*p]``.
        percent: of the eligible entries, from 0 to 100.
        first: whether this is the first task that prunes the tensor.
        variant: ``"paper"`` or ``"released"``.

    Returns:
        bool ``[*p]``.
    """
    if variant == "paper" or not bool(eligible.any()):
        return smallest(importance, eligible, percent / 100)
    ordered = importance[eligible].sort().values
    position = percent / 100 * (len(ordered) - 1)
    low = int(position)
    threshold = torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], position - low)
    if first:
        return eligible & ((importance < threshold) | (importance == 0))
    return eligible & (importance <= threshold)


class AnpycPruning(HoldsExactly, TaylorPenalty):
    r"""Adversarial neural pruning and consolidation: :class:`ANPyC`'s penalty, its Ω summed over tasks, and pruning.

    .. math:: \lambda \sum_i \Omega_i (\theta_i - \theta_i^*)^2, \qquad \theta_i \leftarrow 0 \text{ where }
        \Omega_i \le q(\Omega_E)

    After each task but the last, rounds of pruning and retraining: ``while keep.next_round(task): train(…)``, then
    ``consolidate``. In a round Ω is computed anew, the least important eligible weights of each tensor are set to 0
    and held there, to the last bit, while the rest is retrained under the penalties of the tasks before. All weights
    of a tensor are eligible when it is pruned for the first time, later those that its latest pruning left at 0.
    ``consolidate`` sets all weights free again; a pruned one has no importance for the task: the next may use it.

    Source: Peng et al. 2021, arXiv:1912.09091. Differs: Ω is per sample by default; the last round ends at the stated
    percentage, where the release overshoots (``variant="released"``); tensors of fewer than two dimensions, and those
    that the task at hand does not reach at all (another task's head), are not pruned.

    Args:
        model: the model to protect.
        strength: λ, >= 0, or how to find it while training.
        output: ``"entropy"`` of the softmax, or ``"l2"``: its sum of squares.
        reduction: ``"sample"`` or ``"batch"``; a strength does not carry over from one to the other.
        sign: ``"released"`` or ``"removal"``.
        variant: ``"paper"`` or ``"released"``.
        start: percentage after the first task, in (0, 100).
        decay: what it is multiplied by (and truncated) from task to task, in [0, 1].
        step: by how much it grows from round to round, > 0.
        sharpening: β: every Ω becomes exp(βΩ); 0 is off. Pruning looks at Ω itself.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect and prune; the paper takes the hidden layers only.
        objective: which outputs a batch has; all of them by default.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Attributes:
        meta: ``meta["pruned"]`` holds for each task its percentage and, in all and by parameter, how many weights
            were eligible and how many of them are pruned.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    start: float
    decay: float
    step: float

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        output: Output = "entropy",
        reduction: Reduction = "sample",
        sign: Sign = "released",
        variant: Variant = "paper",
        start: float = 50.0,
        decay: float = 0.8,
        step: float = 10.0,
        sharpening: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            model,
            strength=strength,
            output=output,
            reduction=reduction,
            sign=sign,
            sharpening=sharpening,
            **options,
        )
        if variant not in ("paper", "released"):
            raise ConfigurationError(f"variant is {variant!r}; expected 'paper' or 'released'")
        for name, value, wanted in (
            ("start", start, "a percentage between 0 and 100"),
            ("decay", decay, "a number from 0 to 1"),
            ("step", step, "a percentage above 0, up to 100"),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not _IN_RANGE[name](value):
                raise ConfigurationError(f"{name} is {value!r}; expected {wanted}")
        self.variant: Variant = variant
        self.start, self.decay, self.step = float(start), float(decay), float(step)
        self.meta.update(round=0, ready=False, pruned_at=0, pruned=[])
        self._kept: dict[str, Tensor] = {}

    def _neutral(self, kind: str) -> float | None:
        return float(_ELIGIBLE) if kind == "pruned" else super()._neutral(kind)

    def project_gradient(self, step: Step) -> None:
        """No gradient for what is pruned."""
        names = [name for name in self.live(step) if name in self._kept]
        grads = [self.part(name, grad, "pruned") for name in names if (grad := self.params[name].grad) is not None]
        clear(grads, [self._kept[name] for name in names])

    def restore_weights(self, step: Step) -> None:
        """What is pruned stays 0, whatever momentum and weight decay do."""
        names = [name for name in self._owned.get(id(step.optimizer), ()) if name in self._kept]
        clear([self.part(name, kind="pruned") for name in names], [self._kept[name] for name in names])

    def next_round(
        self, batches: Iterable[Batch] = (), *, objective: Objective | None = None, last: bool = False
    ) -> bool:
        """Prune a little more; ``True`` means retrain, then ask again.

        Args:
            batches: data of the task just learned; read once.
            objective: which outputs a batch has.
            last: whether this was the last task, after which nothing needs to be made free.

        Raises:
            DataError: if there is something to prune and there are no batches. Nothing has changed then.
            ProtectionError: if nothing was trained since the last round.
        """
        if self.meta["ready"]:
            return False
        done = self.meta["round"]
        if done > 0:
            check_retrained(self)
        plan = rounds(percentage(self.num_tasks, self.start, self.decay), self.step, self.variant)
        if last or done == len(plan):
            self.meta["ready"] = True
            return False
        self._resolve(self._optimizers)
        self._fill_up(self.state)
        known = self.objective if objective is None else as_objective(objective, self.model)
        names = [name for name, p in self.params.items() if is_prunable(p)]
        omega = self._estimate(self._at_least_one(batches), known, names)
        counts = {}
        for name, importance in omega.items():
            importance = whole(importance)  # what matters least is a question to a whole layer
            if not bool(importance.any()):  # the task does not reach it: it is none of this task's
                continue
            p = self.scope(name)
            codes = whole(self._codes(name))
            eligible = codes != _KEPT
            first = bool(eligible.all())
            mask = to_prune(importance, eligible, plan[done], first=first, variant=self.variant) | (codes == _PRUNED)
            self.state.setdefault(name, {})["pruned"] = place_like(p, codes.masked_fill(mask, _PRUNED))
            local(p).masked_fill_(local(place_like(p, mask)), 0.0)
            counts[name] = [int(eligible.sum()), int(mask.sum())]
        report = {
            "task": self.num_tasks,
            "percentage": plan[done],
            "eligible": sum(eligible for eligible, _ in counts.values()),
            "pruned": sum(pruned for _, pruned in counts.values()),
            "parameters": counts,
        }
        earlier = [entry for entry in self.meta["pruned"] if entry["task"] != self.num_tasks]
        self.meta.update(round=done + 1, pruned_at=self.meta["steps"], pruned=[*earlier, report])
        self._loaded()
        return True

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        check_ready(self)
        for name, kept in self._kept.items():
            if name in self.params:
                weights = self.block(name, kind="pruned")
                check_held(name, weights, torch.zeros_like(weights), made_of(weights, kept == 0))
        omega = self._summed(self._sharpened(self._estimate(batches, objective, self.params)))
        codes = {name: self._codes(name) for name, held in self.state.items() if "pruned" in held}
        self._anchor_here(omega)
        for name, code in codes.items():
            # What another task's pruning set free stays eligible where this one did not come by.
            pruned = local(code) == _PRUNED
            came_by = anywhere([pruned.any()], [code])[0]
            self.state[name]["pruned"] = made_of(code, pruned.to(torch.uint8) * _ELIGIBLE) if came_by else code
        self.meta.update(round=0, ready=False, pruned_at=0)
        self._loaded()

    def _codes(self, name: str) -> Tensor:
        """What is remembered of each entry; of a new parameter, that all are eligible."""
        held = self.state.get(name, {}).get("pruned")
        if held is not None:
            return held
        return torch.full_like(self.scope(name), _ELIGIBLE, dtype=torch.uint8)

    def _loaded(self) -> None:
        kept = {
            name: kept_bits(local(held["pruned"]) != _PRUNED) for name, held in self.state.items() if "pruned" in held
        }
        self._kept = kept if self.meta["round"] > 0 else {}
