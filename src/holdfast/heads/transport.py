r"""Few samples calibrated by what is known of many: optimal transport from base classes to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["calibrated", "certainties", "cosine_costs", "sinkhorn", "transported_costs"]


@torch.no_grad()
def sinkhorn(
    costs: Tensor,
    source: Tensor,
    target: Tensor,
    *,
    epsilon: float = 0.01,
    tolerance: float = 1e-12,
    iterations: int = 1000,
    floor: float = 0.0,
) -> Tensor:
    r"""The entropic transport plan between two distributions, in the log domain.

    .. math:: \min_{\pi \ge 0} \langle \pi, C \rangle + \varepsilon \langle \pi, \log \pi \rangle, \qquad \pi 1 = \mu,
        \; \pi^\top 1 = \nu

    by :math:`u \leftarrow u + \varepsilon (\log \mu - \mathrm{LSE}_j((u_i + v_j - C_{ij}) / \varepsilon))`, then v
    likewise: columns are exact, rows as far as it converged.

    Source: Cuturi 2013, arXiv:1306.0895, and the release of Guo et al. 2022 (arXiv:2210.04144). Differs: the release
    stops at a tolerance of 0.1, after one to three steps, and adds 1e-8 to both distributions; give these to have its
    numbers.

    Args:
        costs: C, ``[..., n, m]``.
        source: μ, ``[..., n]``.
        target: ν, ``[..., m]``.
        epsilon: ε, > 0, in units of the costs.
        tolerance: it ends where Σ|Δu|, in the mean over a batch of problems, is less.
        iterations: at most.
        floor: what is added to both distributions.

    Returns:
        π, ``[..., n, m]``.
    """
    u, v = torch.zeros_like(costs[..., 0]), torch.zeros_like(costs[..., 0, :])
    log_source, log_target = torch.log(source + floor), torch.log(target + floor)
    for _ in range(iterations):
        before = u
        u = u + epsilon * (log_source - torch.logsumexp((u[..., None] + v[..., None, :] - costs) / epsilon, -1))
        v = v + epsilon * (log_target - torch.logsumexp((u[..., None] + v[..., None, :] - costs) / epsilon, -2))
        if float((u - before).abs().sum(-1).mean()) < tolerance:
            break
    return torch.exp((u[..., None] + v[..., None, :] - costs) / epsilon)


def cosine_costs(left: Tensor, right: Tensor) -> Tensor:
    r""":math:`C_{ij} = 1 - \cos(x_i, y_j)` of rows ``[..., n, D]`` and ``[m, D]``: ``[..., n, m]``."""
    return 1 - F.normalize(left, dim=-1, eps=1e-30) @ F.normalize(right, dim=-1, eps=1e-30).T


def certainties(probabilities: Tensor, temperature: float = 0.3) -> Tensor:
    r"""How much each sample stands for its class: :math:`p_i = \mathrm{softmax}_i(q_i / T)`.

    Args:
        probabilities: q, ``[..., n]``: of its own class, as a classifier of all base classes gives it.
        temperature: T, > 0.
    """
    return torch.softmax(probabilities / temperature, -1)


def transported_costs(base: Sequence[Tensor], weights: Sequence[Tensor], support: Tensor, **settings: float) -> Tensor:
    r"""What it costs to bring each base class's samples to each support sample: the lower level.

    .. math:: C_{bj} = \sum_i \pi^b_{ij} (1 - \cos(x^b_i, \tilde x_j)), \qquad \pi^b \text{ from } \sum_i p^b_i
        \delta_{x^b_i} \text{ to } \tfrac1M \sum_j \delta_{\tilde x_j}

    Source: Guo et al. 2022, arXiv:2210.04144, and its release. Differs: no class is padded to the size of the largest.

    Args:
        base: of each class, its features ``[n_b, D]``.
        weights: of each class, p ``[n_b]``, summing to 1.
        support: x̃, ``[M, D]``.
        **settings: of :func:`sinkhorn`.

    Returns:
        C, ``[B, M]``; a column's part of it still has the mass 1/M, as in the release.
    """
    target = support.new_full((len(support),), 1 / len(support))
    if len({len(rows) for rows in base}) == 1:  # one problem of many, and one end, as in the release
        costs = cosine_costs(torch.stack(list(base)), support)
        plans = sinkhorn(costs, torch.stack(list(weights)), target, **settings)  # type: ignore[arg-type]  # mypy takes every setting for a float
        return (plans * costs).sum(-2)
    found = []
    for rows, share in zip(base, weights, strict=True):
        costs = cosine_costs(rows, support)
        found.append((sinkhorn(costs, share, target, **settings) * costs).sum(-2))  # type: ignore[arg-type]  # mypy takes every setting for a float
    return torch.stack(found)


def calibrated(
    support: Tensor, shares: Tensor, means: Tensor, covariances: Tensor, *, share: float = 0.3, spread: float = 0.21
) -> tuple[Tensor, Tensor]:
    r"""The normal distribution that a support sample is taken to come from.

    .. math:: \mu'_j = (1 - \lambda) \sum_b w_{bj} \mu_b + \lambda \tilde x_j, \qquad \Sigma'_j = \sum_b w_{bj} \Sigma_b
        + \alpha 1 1^\top

    Source: Guo et al. 2022, arXiv:2210.04144, and its release: α is added to every entry, not to the diagonal.
    Differs: no.

    Args:
        support: x̃, ``[M, D]``.
        shares: w, ``[B, M]``, columns summing to 1: M times the transport plan.
        means: μ, ``[B, D]``.
        covariances: Σ, ``[B, D, D]``.
        share: λ, how much of the mean is the sample's own.
        spread: α.

    Returns:
        μ′, ``[M, D]``, and Σ′, ``[M, D, D]``.
    """
    mean = (1 - share) * shares.T @ means + share * support
    return mean, torch.einsum("bj,bkl->jkl", shares, covariances) + spread
