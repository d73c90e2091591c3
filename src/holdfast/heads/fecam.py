r"""FeCAM: a covariance for each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.checks import check_not_negative
from holdfast.errors import ConfigurationError
from holdfast.heads.head import Head
from holdfast.heads.maps import FeatureMap
from holdfast.heads.moments import Moments, scatter, summary
from holdfast.heads.powers import tukey_power
from holdfast.objectives import Classification

__all__ = ["FeCAM", "fecam_distance", "normalised_correlation"]

_CERTAIN = 1e9  # a condition number at which a pseudo-inverse drops no direction


def normalised_correlation(covariance: Tensor, shrinkage: float = 1.0, *, times: int = 2) -> Tensor:
    r"""A covariance shrunk, twice as in the release, and scaled to a correlation.

    .. math:: \Sigma \leftarrow \Sigma + \alpha\, \overline{\Sigma_{ii}}\, I
        + \alpha\, \overline{\Sigma_{i \ne j}}\, (1 1^\top - I), \qquad R_{ij} = \Sigma_{ij} / \sqrt{\Sigma_{ii}
        \Sigma_{jj}}

    Source: Goswami et al. 2023 (FeCAM), arXiv:2309.14062, and its release. Differs: the mean off the diagonal counts
        all
    entries; the release leaves out those that are 0.

    Args:
        covariance: Σ, ``[D, D]``.
        shrinkage: α, >= 0, of both.
        times: how often it is shrunk.

    Returns:
        R, ``[D, D]``; the identity where Σ is 0.
    """
    size = len(covariance)
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    for _ in range(times):
        mean = covariance.diagonal().mean()
        off = (covariance.sum() - covariance.diagonal().sum()) / max(1, size * size - size)
        covariance = covariance + shrinkage * (mean * eye + off * (1 - eye))
    scale = covariance.diagonal().clamp_min(0).sqrt()
    varies = scale > 0
    scale = torch.where(varies, scale, 1.0)
    return torch.where(varies[:, None] & varies, covariance / torch.outer(scale, scale), eye)


def fecam_distance(features: Tensor, prototypes: Tensor, inverses: Tensor) -> Tensor:
    r"""Mahalanobis distance of directions, with a matrix for each class.

    .. math:: d_c(z) = u^\top R_c^+ u, \qquad u = \frac{z}{\lVert z \rVert} - \frac{\mu_c}{\lVert \mu_c \rVert}

    Source: Goswami et al. 2023 (FeCAM), arXiv:2309.14062, eq. 4, and its release. Differs: no.

    Args:
        features: z after Tukey's power, ``[B, D]``.
        prototypes: μ after Tukey's power, ``[C, D]``.
        inverses: R⁺, ``[C, D, D]``.

    Returns:
        d, ``[B, C]``.
    """
    found = []
    for prototype, inverse in zip(F.normalize(prototypes, dim=1, eps=1e-30), inverses, strict=True):
        u = F.normalize(features, dim=1, eps=1e-30) - prototype
        found.append(((u @ inverse) * u).sum(1))
    return torch.stack(found, 1)


class FeCAM(Head):
    r"""Nearest class mean with a covariance of each class's own: :math:`s_c(z) = -u^\top R_c^+ u`.

    Source: Goswami et al. 2023 (FeCAM), arXiv:2309.14062, and its release: Tukey's power, covariance shrunk twice and
        scaled
    to a correlation, directions. Differs: Tukey's power is taken from the first task on. As in the release, a prototype
    is the power of the mean, not the mean of powers. A class with one sample takes the covariance that all classes
    share.

    Its memory is D² for each class. It wants features after a ReLU of a network that knows many classes; where the
    features are few or narrow, :class:`SLDA` does better.

    Args:
        features: as for :class:`Head`.
        shrinkage: α, >= 0: how much of the mean variance and of the mean covariance is added, twice.
        tukey: the power that features are taken to, > 0; 1 leaves them as they are.
        layer: as for :class:`Head`.
        expand: as for :class:`Head`.
        objective: as for :class:`Head`.
        dtype: as for :class:`Head`.

    Raises:
        ConfigurationError: for a wrong argument.
        DataError: in ``consolidate`` and ``forward``, for a negative feature while ``tukey`` is not 1.
    """

    shrinkage: float
    tukey: float

    def __init__(
        self,
        features: nn.Module | Callable[..., Any] | None = None,
        shrinkage: float = 1.0,
        *,
        tukey: float = 0.5,
        layer: str | None = None,
        expand: FeatureMap | None = None,
        objective: Classification | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.shrinkage, self.tukey = check_not_negative("shrinkage", shrinkage), check_not_negative("tukey", tukey)
        if not self.tukey:
            raise ConfigurationError("tukey is 0, which would make all features 1; expected a number > 0")
        super().__init__(features, layer=layer, expand=expand, objective=objective, dtype=dtype)

    def _parts(self) -> dict[str, Moments]:
        return {"plain": Moments("none", dtype=self.dtype), "powers": Moments("per class", dtype=self.dtype)}

    def _counted(self) -> Iterable[Moments]:
        return (self._moments["plain"],)

    def _work_bytes(self, size: int, classes: int) -> int:
        # An inverse for each class, and one covariance and what its inverse is made of.
        return 8 * size * size * (classes + 8)

    def _shares(self, inputs: Any, features: Tensor) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        features = features.double()
        yield "plain", features, None
        yield "powers", tukey_power(features, self.tukey, "FeCAM"), None

    def _solve(self) -> dict[str, Tensor]:
        plain, powers = summary(self._moments["plain"]), self._moments["powers"]
        powers.settle()
        assert powers.gram is not None and powers.sums is not None
        shared: Tensor | None = None
        inverses = torch.zeros(powers.gram.shape, dtype=torch.float64, device=powers.gram.device)
        for row, number in enumerate(powers.counts.tolist()):
            if number > 1:
                covariance = scatter(powers, row) / (number - 1)
            else:
                shared = _shared_covariance(powers) if shared is None else shared
                covariance = shared
            inverses[row] = _inverse(normalised_correlation(covariance, self.shrinkage))
        return {"prototypes": plain.means**self.tukey, "inverses": inverses}

    def _score(self, features: Tensor, solved: Mapping[str, Tensor]) -> Tensor:
        return -fecam_distance(tukey_power(features, self.tukey, "FeCAM"), solved["prototypes"], solved["inverses"])


def _inverse(correlation: Tensor) -> Tensor:
    """The pseudo-inverse; by Cholesky's factorisation, much faster, where it is the inverse beyond any doubt."""
    factor, info = torch.linalg.cholesky_ex(correlation)
    found: Tensor
    if int(info) == 0:
        found = torch.cholesky_inverse(factor)
        if float(torch.linalg.matrix_norm(correlation, 1) * torch.linalg.matrix_norm(found, 1)) < _CERTAIN:
            return found
    found = torch.linalg.pinv(correlation, hermitian=True)
    return found


def _shared_covariance(moments: Moments) -> Tensor:
    """The covariance of all classes together, each around its own mean; 0 where none has two samples."""
    degrees = int(moments.counts.sum()) - len(moments.labels)
    assert moments.sums is not None
    found = moments.sums.new_zeros(moments.sums.shape[1], moments.sums.shape[1])
    for row in range(len(moments.labels)):
        found += scatter(moments, row)
    return found / max(1, degrees)
