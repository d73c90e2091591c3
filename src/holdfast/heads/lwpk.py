r"""LwPK: a network prepared with unlabelled samples of classes to come, then nearest class means by cosine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.checks import check_not_negative, check_positive
from holdfast.errors import ConfigurationError
from holdfast.heads import clustering
from holdfast.heads.clustering import Augment, Clusterer
from holdfast.heads.maps import FeatureMap
from holdfast.heads.ncm import NCM
from holdfast.objectives import Classification

__all__ = ["CosineClassifier", "LwPK", "cosine_scores", "joint_loss", "joint_weights"]


def cosine_scores(features: Tensor, prototypes: Tensor, scale: float = 16.0) -> Tensor:
    r"""Scaled cosines.

    .. math:: s_c(z) = \kappa \cos(z, w_c)

    Source: Ge et al. 2024 (LwPK), arXiv:2402.01201, by its release. Differs: no.

    Args:
        features: z, ``[B, D]``.
        prototypes: w, ``[C, D]``.
        scale: κ.

    Returns:
        s, ``[B, C]``.
    """
    return scale * F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T


def joint_weights(base: int, pseudo: int, omega: float | None = None) -> tuple[float, float]:
    r"""What a base sample and a pseudo-labelled one count, so that a plain mean over both is :func:`joint_loss`.

    .. math:: a_{\mathrm{base}} = N / n_{\mathrm{base}}, \qquad a_{\mathrm{pseudo}} = \omega N / n_{\mathrm{pseudo}}

    Args:
        base: samples of base classes.
        pseudo: samples with a pseudo-label.
        omega: ω; ``None``: 1 each.

    Example:
        >>> joint_weights(30, 10, 0.5)
        (1.3333333333333333, 2.0)
    """
    if omega is None:
        return 1.0, 1.0
    number = base + pseudo
    return number / max(1, base), omega * number / max(1, pseudo)


def joint_loss(scores: Tensor, targets: Tensor, is_pseudo: Tensor, omega: float | None = None) -> Tensor:
    r"""Cross-entropy on base samples and pseudo-labelled ones.

    .. math:: \overline{\mathrm{CE}}_{\mathrm{base}} + \omega\, \overline{\mathrm{CE}}_{\mathrm{pseudo}}

    Source: Ge et al. 2024 (LwPK), arXiv:2402.01201; without ω, the plain mean over all, its release. Differs: how the
    paper's ω enters is ours, for its body could not be read.

    Args:
        scores: ``[B, C]``.
        targets: columns, int64 ``[B]``.
        is_pseudo: which targets are pseudo-labels, bool ``[B]``.
        omega: ω; ``None``: the plain mean.

    Returns:
        Scalar ``[]``.
    """
    each = F.cross_entropy(scores, targets, reduction="none")
    a_base, a_pseudo = joint_weights(int((~is_pseudo).sum()), int(is_pseudo.sum()), omega)
    return (each * torch.where(is_pseudo, each.new_tensor(a_pseudo), each.new_tensor(a_base))).mean()


class CosineClassifier(nn.Module):
    """A last layer whose outputs are :func:`cosine_scores` of its rows.

    Args:
        weight: where its rows start, ``[C, D]``.
        scale: κ.
    """

    weight: nn.Parameter
    scale: float

    def __init__(self, weight: Tensor, scale: float = 16.0) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(weight.detach().clone()), scale

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``[B, C]`` of features ``[B, D]``."""
        return cosine_scores(features, self.weight, self.scale)


class LwPK(NCM):
    r"""Nearest class mean by cosine, over a network that was prepared for the classes to come.

    Before the first task, unlabelled samples of *future* tasks are clustered (:meth:`pseudo_labels`), and the network
    is trained on the base classes and the clusters together, by a :class:`CosineClassifier` and :func:`joint_loss`.
    It leaves room for what will come there. Then it is fixed; from there on this is a head like any other: the row of
    a class is the mean of its features, its scores :func:`cosine_scores`.

    It needs what continual learning usually does not have: samples of tasks to come.

    Source: Ge et al. 2024 (LwPK), arXiv:2402.01201, and its release. Differs: see :func:`joint_loss` and
    :func:`holdfast.heads.clustering.pseudo_labels`.

    Args:
        features: as for :class:`Head`.
        scale: κ, > 0.
        omega: ω, >= 0, of :func:`joint_loss`; 0: the same without unlabelled samples.
        cluster_epochs: passes over the unlabelled samples while they are clustered.
        layer: as for :class:`Head`.
        expand: as for :class:`Head`.
        objective: as for :class:`Head`.
        dtype: as for :class:`Head`.

    Example:
        >>> head = LwPK()
        >>> head.consolidate([(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]))])
        >>> head(torch.tensor([[0.5, 0.0]])).tolist()
        [[16.0, 0.0]]
    """

    omega: float | None

    def __init__(
        self,
        features: nn.Module | Callable[..., Any] | None = None,
        *,
        scale: float = 16.0,
        omega: float | None = None,
        cluster_epochs: int = 200,
        layer: str | None = None,
        expand: FeatureMap | None = None,
        objective: Classification | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.scale: float = check_positive("scale", scale)
        self.omega = None if omega is None else check_not_negative("omega", omega)
        if isinstance(cluster_epochs, bool) or not isinstance(cluster_epochs, int) or cluster_epochs < 0:
            raise ConfigurationError(f"cluster_epochs is {cluster_epochs!r}; expected a whole number, at least 0")
        self.cluster_epochs = cluster_epochs
        super().__init__(features, layer=layer, expand=expand, objective=objective, dtype=dtype)

    def pseudo_labels(
        self,
        encoder: nn.Module,
        samples: Tensor,
        clusters: int,
        *,
        generator: torch.Generator,
        augment: Augment | None = None,
        clusterer: Clusterer | None = None,
    ) -> Tensor:
        """A cluster for each unlabelled sample, int64 ``[n]``: :func:`holdfast.heads.clustering.pseudo_labels`.

        Args:
            encoder: ``[B, ...] -> [B, F]``; a copy of it is trained.
            samples: of tasks to come, ``[n, ...]``.
            clusters: how many classes are to come.
            generator: of all that is drawn.
            augment: as there.
            clusterer: as there.
        """
        return clustering.pseudo_labels(
            copy.deepcopy(encoder), samples, clusters, generator=generator, epochs=self.cluster_epochs,
            augment=augment, clusterer=clusterer,
        )  # fmt: skip

    def weights(self, base: int, pseudo: int) -> tuple[float, float]:
        """What a base sample and a pseudo-labelled one count in the mean loss: :func:`joint_weights`."""
        return joint_weights(base, pseudo, self.omega)

    def classifier(self, linear: nn.Linear) -> CosineClassifier:
        """The last layer that the network is prepared with, in the place of a linear one."""
        return CosineClassifier(linear.weight, self.scale)

    def _score(self, features: Tensor, solved: Mapping[str, Tensor]) -> Tensor:
        return cosine_scores(features, solved["means"], self.scale)
