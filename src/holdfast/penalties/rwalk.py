r"""Riemannian walk: the Fisher information of the way, and how much each stretch of it lowered the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.checks import check_interval, check_positive
from holdfast.dispatch import Step
from holdfast.errors import ConfigurationError
from holdfast.objectives import Objective
from holdfast.penalties.path import PathPenalty
from holdfast.penalties.quadratic import Options
from holdfast.penalties.tensors import side_by_side
from holdfast.sharding import largest, local
from holdfast.state import anchor_of
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RWalk", "interval_score", "normalised"]


def interval_score(path: Tensor, fisher: Tensor, displacement: Tensor, damping: float) -> Tensor:
    r"""The loss's decrease over an interval, per unit of Riemannian distance.

    .. math:: \max\left(0, \frac{-\sum_k g_k \Delta\theta_k}{\tfrac12 F (\Delta\theta)^2 + \epsilon}\right)

    Source: Chaudhry et al. 2018, arXiv:1801.10112, sec. 4. Differs: no.

    Args:
        path: :math:`-\sum_k g_k \Delta\theta_k` over the steps of the interval, ``[*p]``, in loss units.
        fisher: F, the running Fisher at the interval's end, ``[*p]``, >= 0.
        displacement: Δθ, how far the interval moved each weight in all, ``[*p]``.
        damping: ε, > 0.

    Returns:
        Score ``[*p]``, >= 0.
    """
    return path.clamp_min(0).div_(displacement.square().mul_(0.5 * fisher).add_(damping))


def normalised(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """All divided by the one largest entry among them, so that they lie between 0 and 1; zeros stay zeros.

    Args:
        tensors: each ``[*p]``, >= 0.

    Yields:
        One after the other, made when it is asked for.
    """
    most = largest([local(t) for t in tensors], tensors)
    for t in tensors:
        yield t / most if most > 0 else torch.zeros_like(t)


class RWalk(PathPenalty):
    r"""Riemannian walk.

    .. math::
        \lambda \sum_i \left(\frac{F_i}{\max F} + \frac{s_i}{\max s}\right) (\theta_i - \theta_i^*)^2, \qquad
        F \leftarrow \alpha g^2 + (1 - \alpha) F, \qquad
        s \leftarrow s + \max\left(0, \frac{-\sum_k g_k \Delta\theta_k}{\tfrac12 F (\Delta\theta)^2 + \epsilon}\right)

    with s scored once an interval, and s ← ½(s_old + s_new) at the end of each task but the first. g is the batch's
    mean gradient of the task's loss, as the user's clipping leaves it, so F is the *batched* kind: not a Fisher
    information in earnest, but only its proportions count here. The model is never run, so its mode stays as it is.

    Source: Chaudhry et al. 2018, arXiv:1801.10112. Differs: the last, shorter interval of a task counts, too; the
    maxima are over all protected parameters; ε is not tiny, or the smallest F would decide the largest s.

    State per parameter: ``importance``, ``anchor``, ``fisher``, ``score``, ``path`` and ``mark``; two more tensors of
    its size while training.

    Args:
        model: the model to protect; attach before the first task, which has to be watched too.
        strength: λ, in loss / parameter², >= 0; ``"auto"`` (or an :class:`~holdfast.AutoStrength`) finds it on the
            first steps of each new task.
        fisher_decay: α, in (0, 1], the weight of the new term.
        interval: steps between two scores, >= 1.
        damping: ε, > 0.
        coupling: ``"gradient"`` or ``"proximal"``; ``"loss"`` is refused as for :class:`~holdfast.SI`.
        select: which trainable parameters to protect.
        objective: not used; here so that methods can be exchanged.
        **options: also ``importance_dtype``, ``state_device`` and ``fused``: see ``holdfast.penalties.resources``.

    Raises:
        ConfigurationError: for a wrong argument.
    """

    begin_at_zero: ClassVar[tuple[str, ...]] = ("path", "mark")
    renewed: ClassVar[int] = 3  # the score, too
    auto_fraction: ClassVar[float] = 1.0  # measured: see docs/tuning.md

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength = "auto",
        fisher_decay: float = 0.9,
        interval: int = 10,
        damping: float = 0.1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, strength=strength, **options)
        self.fisher_decay: float = check_positive("fisher_decay", fisher_decay)
        if self.fisher_decay > 1:
            raise ConfigurationError(f"fisher_decay is {fisher_decay!r}; expected a number > 0, up to 1")
        self.interval: int = check_interval("interval", interval)
        self.damping: float = check_positive("damping", damping)

    def _begin(self, name: str) -> None:
        super()._begin(name)
        held = self.state[name]
        for kind in ("fisher", "score", "mark"):
            if kind not in held:
                held[kind] = torch.zeros_like(held["path"])

    def _integrate(self, names: list[str], before: list[Tensor], gradients: list[Tensor], step: Step) -> None:
        since: dict[str, int] = self.meta.get("since", {})
        for name, weights in zip(names, before, strict=True):
            if since.get(name, 0) == 0:
                local(self.state[name]["mark"]).copy_(weights)
        self._average([local(self.state[name]["fisher"]) for name in names], gradients, step)
        super()._integrate(names, before, gradients, step)
        # Replaced, not changed: a state_dict taken earlier shares it.
        self.meta["since"] = since | {name: (since.get(name, 0) + 1) % self.interval for name in names}
        for name in names:
            if self.meta["since"][name] == 0:
                held = self.state[name]
                self._add_score(name, held["score"])
                local(held["path"]).zero_()

    def _average(self, fishers: list[Tensor], gradients: list[Tensor], step: Step) -> None:
        if step.found_inf is None:
            torch._foreach_mul_(fishers, 1 - self.fisher_decay)
            torch._foreach_addcmul_(fishers, gradients, gradients, value=self.fisher_decay)
        else:
            for F, g in zip(fishers, gradients, strict=True):
                F.copy_(step.unless_skipped(F.lerp(g.square(), self.fisher_decay), F))

    def _add_score(self, name: str, score: Tensor) -> None:
        """Add the score of the interval that ends here."""
        held = self.state[name]
        followed = (held[kind] for kind in ("path", "fisher", "mark"))
        for total, here, path, fisher, mark in side_by_side(score, self.scope(name), *followed):
            total.add_(interval_score(path, fisher, here.to(mark.dtype) - mark, self.damping))

    def _summarise(self) -> dict[str, dict[str, Tensor]]:
        since: dict[str, int] = self.meta.get("since", {})
        fresh: dict[str, dict[str, Tensor]] = {}
        for name in self.params:
            held, here = self.state.get(name, {}), anchor_of(self.scope(name))
            score = held["score"].clone() if "score" in held else torch.zeros_like(here)
            if since.get(name, 0) > 0:
                self._add_score(name, score)
            if "importance" in held:  # the old score was the sum's first term
                score.div_(2)
            fisher = held["fisher"] if "fisher" in held else torch.zeros_like(here)
            fresh[name] = {"anchor": here, "fisher": fisher, "score": score}
        fishers = normalised([held["fisher"] for held in fresh.values()])
        scores = normalised([held["score"] for held in fresh.values()])
        for held, F, s in zip(fresh.values(), fishers, scores, strict=True):
            held["importance"] = F.add_(s)
        return fresh

    def _remember(self, batches: Any, objective: Objective, generator: torch.Generator | None) -> None:
        super()._remember(batches, objective, generator)
        self.meta["since"] = {}
