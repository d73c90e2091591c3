r"""Importances and anchors that belong to another network: the broken EWC baseline of the CLASSP release.

For comparison only. A penalty made of them holds the weights to where they never were.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.errors import ConfigurationError, DataError
from holdfast.importance.statistic import accumulation_dtype
from holdfast.importance.untouched import undisturbed
from holdfast.names import canonical_parameters, unwrap
from holdfast.objectives import Batch, Objective, meaning_of
from holdfast.objectives.batches import leading_size
from holdfast.penalties.quadratic import Options, QuadraticPenalty
from holdfast.processes import several
from holdfast.state import anchor_of
from holdfast.strength import Strength

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ForeignEWC", "foreign", "initialised_anew", "learning_rates"]


def learning_rates(model: nn.Module, names: Iterable[str], optimizers: Sequence[Optimizer]) -> dict[str, float]:
    """The learning rate of every trainable parameter that some optimizers train.

    Args:
        model: any module, wrapped or not.
        names: canonical names of the parameters that must have one.
        optimizers: those that train it.

    Returns:
        canonical name -> learning rate of its group.

    Raises:
        ConfigurationError: if one of the names has none.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups if "lr" in group]
    rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
    found = {n: rates[id(p)] for n, p in canonical_parameters(model).items() if p.requires_grad and id(p) in rates}
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigurationError(
            "ForeignEWC trains another network at the learning rate of the attached optimizer, and there is "
            f"none for the parameter {missing[0]!r}: call attach(optimizer) before consolidate"
        )
    return found


def initialised_anew(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Another network of the same shape: a copy in which every module with a ``reset_parameters`` has called it.

    Frozen parameters, and those that no such module owns, are as they are in the model.

    Args:
        model: any module, wrapped or not; it is left as it is.
        names: canonical names of the parameters that must be initialised anew.

    Returns:
        The copy, without the model's wrappers.

    Raises:
        ConfigurationError: if the model cannot be copied, or one of the names is not initialised anew.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> bool((initialised_anew(model, ["weight"]).weight == model.weight).any())
        False
    """
    try:
        other = copy.deepcopy(unwrap(model))
    except Exception as error:  # whatever refuses, the sentence is the same
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(f"ForeignEWC needs a copy of the model, which refuses: {reason}") from error
    mine, theirs = canonical_parameters(model), canonical_parameters(other)
    with torch.no_grad():
        for p in theirs.values():
            if p.requires_grad:
                p.fill_(torch.nan)  # which stays wherever nobody draws anew
        for module in other.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        left = [name for name, p in theirs.items() if not p.requires_grad or bool(p.isnan().any())]
        for name in left:
            theirs[name].copy_(mine[name])
    missing = [name for name in names if name in left]
    if missing:
        raise ConfigurationError(
            f"ForeignEWC needs another network, initialised anew, but no module's reset_parameters draws the "
            f"parameter {missing[0]!r} ({len(missing)} in all): leave it out with select="
        )
    return other


def foreign(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: Objective,
    names: Sequence[str],
    rates: Mapping[str, float],
    generator: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""Importances and anchors of another network, from its own training by plain SGD.

    .. math::
        F = \frac1N \sum_b g_b^2, \qquad \phi_{b+1} = \phi_b - \eta g_b, \qquad
        g_b = \partial_\phi \frac1{|b|} \sum_{n \in b} \ell_n(\phi_b), \qquad \theta^* = \phi_\text{end}

    N is the number of samples, though there is one term per batch of them.

    Source: Ludwig 2024, CLASSP, the released script experiment_EWC.py. Differs: no.

    Args:
        model: the model whose copy is initialised anew; it is left as it is, its buffers included.
        batches: the data, each batch once.
        objective: what a batch means.
        names: canonical names of the parameters wanted.
        rates: canonical name -> learning rate η, of all parameters to train, those wanted among them.
        generator: for the initialisation, and for whatever is random in the model; the caller's random state stays.

    Returns:
        canonical name -> importance ``[*p]``, >= 0, in loss^2 / parameter^2; and canonical name -> anchor ``[*p]``.

    Raises:
        ConfigurationError: as for :func:`initialised_anew`, or in a distributed run.
        DataError: if the batches hold no sample.
    """
    if several():
        raise ConfigurationError(
            "ForeignEWC is the training of one network, which several processes do not share: use one process"
        )
    with undisturbed(model) as devices:
        _seed(devices, generator)
        other = initialised_anew(model, names).train()
        everything = canonical_parameters(other)
        trained = {name: everything[name] for name in rates}
        sums = {n: torch.zeros_like(trained[n], dtype=accumulation_dtype(trained[n])).detach() for n in names}
        samples, meaning = 0, meaning_of(objective)
        for batch in batches:
            if not leading_size(batch):
                continue
            root = meaning.root(other, batch)
            size = meaning.count(batch, root)
            samples += size
            if not size or not root.requires_grad:
                continue
            loss = meaning.losses_from(root, batch).sum() / size
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            with torch.no_grad():
                for (name, p), g in zip(trained.items(), gradients, strict=True):
                    if g is None:
                        continue
                    if name in sums:
                        sums[name].add_(g.to(sums[name].dtype).square())
                    p.sub_(g, alpha=rates[name])
    if not samples:
        raise DataError("the batches hold no sample; expected at least one")
    importances = {name: total.div_(samples) for name, total in sums.items()}
    return importances, {name: anchor_of(trained[name]) for name in names}


def _seed(devices: Iterable[torch.device], generator: torch.Generator | None) -> None:
    """One draw from the generator (from the caller's own random state without one) seeds the CPU and the devices."""
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    for each in devices:
        torch.get_device_module(each).set_rng_state(torch.Generator(each).manual_seed(seed).get_state(), each)


class ForeignEWC(QuadraticPenalty):
    r"""The EWC baseline of the CLASSP release: it holds the weights to those of another network.

    .. math:: \tfrac{\lambda}{2} \sum_i F_i (\theta_i - \phi_i)^2

    with F and φ from :func:`foreign`: a network initialised anew, trained by plain SGD for one pass over the first
    task's batches at the learning rate of the attached optimizer. Every later ``consolidate`` leaves it as it is.

    Source: Ludwig 2024, CLASSP, the released script experiment_EWC.py. Differs: no.

    Args:
        model: the model to protect.
        strength: λ, >= 0.
        coupling: ``"gradient"``, ``"loss"`` or ``"proximal"``.
        select: which trainable parameters to protect.
        objective: what a batch means.

    Raises:
        ConfigurationError: for a wrong argument, if a protected parameter belongs to no module with
            ``reset_parameters``, and in ``consolidate`` if no optimizer is attached.
    """

    grounded = False  # the release trains on, whatever becomes of the weights

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: Strength,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, strength=strength, **options)
        with undisturbed(model):  # better refused now than after the first task
            initialised_anew(model, self.params)

    def _remember(self, batches: Iterable[Batch], objective: Objective, generator: torch.Generator | None) -> None:
        if self.num_tasks > 0:
            return
        names = list(self.params)
        rates = learning_rates(self.model, names, self._optimizers)
        importances, anchors = foreign(
            self.model, batches, objective=objective, names=names, rates=rates, generator=generator
        )
        anchors, importances = self._scoped(anchors), self._scoped(importances)
        self.state: dict[str, dict[str, Tensor]] = {
            name: {"anchor": anchors[name], "importance": importances[name]} for name in names
        }
