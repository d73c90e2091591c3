"""What a method makes of unlabelled samples of tasks to come, before the first task is learned."""

from __future__ import annotations

import copy
import dataclasses
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.bench.data.tasks import Split, Stream
from holdfast.bench.models.heads import Heads
from holdfast.bench.training.session import Session
from holdfast.heads.clustering import Augment
from holdfast.objectives import Classification

__all__ = ["Preparing", "fit", "prepared"]


@runtime_checkable
class Preparing(Protocol):
    """A head of which the registry says ``needs_unlabelled``."""

    def pseudo_labels(
        self, encoder: nn.Module, samples: Tensor, clusters: int, *, generator: torch.Generator, augment: Augment | None
    ) -> Tensor:
        """A cluster for each sample."""
        ...

    def weights(self, base: int, pseudo: int) -> tuple[float, float]:
        """What a base sample and a pseudo-labelled one count in the mean loss."""
        ...

    def classifier(self, linear: nn.Linear) -> nn.Module:
        """The last layer that the network is prepared with."""
        ...


def fit(head: Preparing, model: nn.Module) -> nn.Module:
    """Give a model of the bench's own the last layer that it is prepared with; one of the user's keeps its own.

    Returns:
        A copy of what comes before that layer, as it was initialised: a run that goes on later has a trained one.
    """
    if not isinstance(model, Heads):
        return copy.deepcopy(model)
    if model.single:
        (linear,) = model.heads
        assert isinstance(linear, nn.Linear)
        model.heads[0] = head.classifier(linear)
    return copy.deepcopy(model.trunk)


def prepared(
    head: Preparing, session: Session, encoder: nn.Module, stream: Stream, generator: torch.Generator
) -> Session:
    """The first session, with the unlabelled samples beside its own, each labelled by its cluster.

    Clusters take the outputs of the classes to come, which nothing else uses until these do.

    Args:
        head: who says how.
        session: the first task's.
        encoder: what samples are clustered by, as :func:`fit` returned it.
        stream: whose unlabelled samples these are.
        generator: of all that is drawn.
    """
    task, pool = session.last, stream.unlabelled
    assert pool is not None
    samples, _ = task.batch(pool, torch.arange(len(pool), device=pool.rows.device))
    base = len(task.classes)
    augment = _shifted if samples.dim() == 4 else None
    clusters = head.pseudo_labels(encoder, samples, stream.num_outputs - base, generator=generator, augment=augment)
    everything = Classification()
    pseudo = dataclasses.replace(
        task, name="unlabelled", train=Split(pool.storage, pool.rows, clusters.to(pool.rows.device) + base),
        training_objective=everything,
    )  # fmt: skip
    a_base, a_pseudo = head.weights(len(task.train), len(pool))
    own = dataclasses.replace(task, training_objective=everything)
    return Session(session.index, (pseudo, own), (a_pseudo, a_base))


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """A batch of images moved together by up to an eighth of a side: what fits digits as well as photographs."""
    most = max(1, min(images.shape[2:]) // 8)
    down, right = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    height, width = images.shape[2:]
    return F.pad(images, (most,) * 4, mode="replicate")[:, :, down : down + height, right : right + width]
