r"""Pseudo-labels for samples without any: instance discrimination, decorrelated features, k-means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.checks import check_count, check_positive
from holdfast.errors import ConfigurationError, DataError, DependencyError, NumericsError

__all__ = [
    "Augment",
    "Clusterer",
    "decorrelation_loss",
    "instance_loss",
    "k_means",
    "pseudo_labels",
    "updated_memory",
]

Augment: TypeAlias = "Callable[[Tensor, torch.Generator], Tensor]"
"""``(inputs [B, ...], generator) -> inputs`` of the same shape, of the same class as before."""

Clusterer: TypeAlias = "Callable[[Tensor, int, torch.Generator], Tensor]"
"""``(points [n, E], clusters, generator) -> int64 [n]``, a cluster for each point."""

_STARTS = 20  # of k-means, as released


def instance_loss(embeddings: Tensor, index: Tensor, memory: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Cross-entropy of telling each sample from every other.

    .. math:: -\tfrac1B \sum_i \log \frac{\exp(v_i^\top m_i / \tau)}{\sum_k \exp(v_i^\top m_k / \tau)}

    Source: Tao et al. 2021 (IDFD), arXiv:2106.00131, as used in the release of LwPK, arXiv:2402.01201. Differs: no.

    Args:
        embeddings: v, rows of norm 1, ``[B, E]``.
        index: which samples these are, int64 ``[B]``.
        memory: m, ``[n, E]``: what each sample's embedding was.
        temperature: τ, > 0.

    Returns:
        Scalar ``[]``.
    """
    return F.cross_entropy(embeddings @ memory.T / temperature, index)


def decorrelation_loss(embeddings: Tensor, *, temperature: float = 2.0) -> Tensor:
    r"""Cross-entropy of telling each feature from every other: features that say the same are pushed apart.

    .. math:: -\tfrac1E \sum_k \log \frac{\exp(f_k^\top f_k / \tau_2)}{\sum_l \exp(f_l^\top f_k / \tau_2)}

    with f the columns of v, scaled to norm 1.

    Source: as of :func:`instance_loss`. Differs: no.

    Args:
        embeddings: v, ``[B, E]``.
        temperature: τ₂, > 0.

    Returns:
        Scalar ``[]``.
    """
    columns = F.normalize(embeddings, dim=0)
    alike = columns.T @ columns / temperature
    return F.cross_entropy(alike, torch.arange(len(alike), device=alike.device))


@torch.no_grad()
def updated_memory(memory: Tensor, index: Tensor, embeddings: Tensor, *, momentum: float = 0.5) -> Tensor:
    r"""The memory after a batch: :math:`m_i \leftarrow \mathrm{normalise}(\mu m_i + (1 - \mu) v_i)`, ``[n, E]``."""
    found = memory.clone()
    found[index] = F.normalize(momentum * memory[index] + (1 - momentum) * embeddings, dim=1)
    return found


def k_means(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means by scikit-learn, from 20 starts.

    Raises:
        DependencyError: if scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise DependencyError(
            "k-means needs scikit-learn: pip install 'holdfast[bench]', or give a clusterer= of your own"
        ) from error
    start = int(torch.randint(2**31 - 1, (), generator=generator))
    found = KMeans(clusters, n_init=_STARTS, random_state=start).fit_predict(points.double().cpu().numpy())
    return torch.as_tensor(found).long()


def pseudo_labels(
    encoder: nn.Module,
    samples: Tensor,
    clusters: int,
    *,
    generator: torch.Generator,
    epochs: int = 200,
    batch_size: int = 128,
    lr: float = 0.01,
    embedding: int = 128,
    augment: Augment | None = None,
    clusterer: Clusterer | None = None,
) -> Tensor:
    r"""A cluster for each sample: an encoder learns to tell samples apart (IDFD), then k-means sees what it gives.

    Training minimises :func:`instance_loss` + :func:`decorrelation_loss` by SGD, momentum 0.9, weight decay 5e-4; its
    rate is quartered after each quarter of the epochs, as the release's is at 50, 100 and 150 of 200. Clusters have
    no relation to the labels that the samples will have.

    Source: the release of LwPK, arXiv:2402.01201. Differs: k-means sees samples as they are, where the release's sees
    them once more changed by chance.

    Args:
        encoder: ``[B, ...] -> [B, F]``; trained, so give a copy of one that is needed elsewhere.
        samples: ``[n, ...]``, at least as many as clusters, as the encoder takes them.
        clusters: how many classes there are among them; in the release that is known.
        generator: of all that is drawn.
        epochs: passes over the samples; 0 leaves the encoder as it is.
        batch_size: samples per step.
        lr: of SGD, > 0.
        embedding: E, of a linear layer over the encoder's features.
        augment: how samples are changed by chance in training.
        clusterer: what stands for k-means.

    Returns:
        int64 ``[n]``, from 0.

    Raises:
        ConfigurationError: for a wrong argument.
        DependencyError: without scikit-learn where no clusterer is given.
        DataError: for fewer samples than clusters, or clusters of another form than asked for.
        NumericsError: if an embedding is not finite.
    """
    for name, value in (("clusters", clusters), ("batch_size", batch_size), ("embedding", embedding)):
        check_count(name, value)
    check_positive("lr", lr)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ConfigurationError(f"epochs is {epochs!r}; expected a whole number, at least 0")
    if len(samples) < clusters:
        raise DataError(
            f"there are {len(samples)} unlabelled samples for {clusters} clusters; expected one each or more"
        )
    devices = [samples.device] if samples.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))
        with torch.no_grad():
            width = encoder.eval()(samples[:2]).flatten(1).shape[1]
        whole = nn.Sequential(encoder, nn.Flatten(), nn.Linear(width, embedding).to(samples.device))
        _discriminate(whole, samples, epochs, batch_size, lr, augment, generator)
        with torch.no_grad():
            points = torch.cat([F.normalize(whole.eval()(part), dim=1) for part in torch.split(samples, 1000)])
    if not bool(points.isfinite().all()):
        raise NumericsError(f"an embedding is not finite after {epochs} epochs; lower the rate ({lr:g})")
    found = (k_means if clusterer is None else clusterer)(points, clusters, generator).to(samples.device)
    if found.shape != (len(samples),) or not bool(((found >= 0) & (found < clusters)).all()):
        raise DataError(
            f"the clusterer gave {tuple(found.shape)} from {int(found.min())} to {int(found.max())}; expected "
            f"({len(samples)},) from 0 to {clusters - 1}"
        )
    return found.long()


def _discriminate(
    whole: nn.Module,
    samples: Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    augment: Augment | None,
    generator: torch.Generator,
) -> None:
    whole.train()
    optimizer = torch.optim.SGD(whole.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    embedding = [parameter for parameter in whole.parameters()][-1].numel()
    noise = torch.randn(len(samples), embedding, generator=generator)
    memory = F.normalize(noise, dim=1).to(samples.device, samples.dtype if samples.is_floating_point() else None)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.25 ** (4 * epoch // max(1, epochs))
        for index in _batches(len(samples), batch_size, generator):
            index = index.to(samples.device)
            inputs = samples[index] if augment is None else augment(samples[index], generator)
            found = F.normalize(whole(inputs), dim=1)
            loss = instance_loss(found, index, memory.to(found.dtype)) + decorrelation_loss(found)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own gap
            optimizer.step()
            memory = updated_memory(memory, index, found.detach().to(memory.dtype))


def _batches(number: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    for index in torch.split(torch.randperm(number, generator=generator), size):
        if len(index) > 1:  # one sample alone has no batch statistics
            yield index
