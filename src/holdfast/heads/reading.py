"""What a head is told, batch by batch: features, their labels, and the first ones, to which a feature map is fitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from holdfast.errors import ConfigurationError, DataError
from holdfast.heads.maps import FeatureMap
from holdfast.heads.representation import Backbone
from holdfast.heads.together import gathered
from holdfast.objectives import Batch, Classification
from holdfast.objectives.batches import targets_of

__all__ = ["Labelled", "ahead", "checked", "features_of", "fit", "labelled"]

Labelled: TypeAlias = tuple[Any, Tensor, Tensor]
"""A batch's inputs, its features ``[B, ...]`` as a feature map is to see them, and its labels, int64 ``[B]``."""


def features_of(batch: Batch, objective: Classification, backbone: Backbone, expand: FeatureMap | None) -> Tensor:
    """What the model makes of a batch: ``[B, D]``, or as it came where a feature map is to see it."""
    if backbone.call is None and expand is not None:
        return backbone.inputs(objective, batch)
    return backbone(objective, batch)


def labelled(
    batches: Iterable[Batch], objective: Classification, backbone: Backbone, expand: FeatureMap | None
) -> Iterator[Labelled]:
    """Each batch with its features and labels.

    Raises:
        DataError: for labels that are no integers, or not as many as samples.
    """
    for batch in batches:
        labels = targets_of(batch)
        if labels.is_floating_point() or labels.is_complex() or labels.dim() != 1:
            raise DataError(
                f"targets have shape {tuple(labels.shape)} and dtype {labels.dtype}; a head expects integers [B]"
            )
        features = features_of(batch, objective, backbone, expand)
        if len(features) != len(labels):
            raise DataError(f"a batch has {len(features)} samples and {len(labels)} labels; expected as many")
        inputs = batch if isinstance(batch, Mapping) else batch[0]
        yield inputs, features, labels.to(features.device, torch.int64)


def ahead(stream: Iterator[Labelled], expand: FeatureMap | None) -> list[Labelled]:
    """As much of a stream as a feature map that is not fitted yet wants to see; nothing where there is no such map.

    Raises:
        DataError: if it wants to see some and there is none.
    """
    first: list[Labelled] = []
    if expand is None or expand.fitted:
        return first
    for part in stream:
        first.append(part)
        if sum(len(features) for _, features, _ in first) >= expand.fit_samples:
            break
    if not first:
        raise DataError("a head learns from samples; consolidate got none")
    return first


def fit(expand: FeatureMap | None, first: list[Labelled]) -> None:
    """Fit a feature map to the first samples: those of all processes of a distributed run, for it is one map."""
    if first and expand is not None:
        wanted = max(1, expand.fit_samples)
        expand.fit(gathered(torch.cat([features for _, features, _ in first])[:wanted])[:wanted])


def checked(objective: Any, head: str) -> Classification:
    """The objective of a head, or the usual one.

    Raises:
        ConfigurationError: for one that does not mean one class.
    """
    if objective is None:
        return Classification()
    if not isinstance(objective, Classification):
        raise ConfigurationError(
            f"objective is {objective!r}; {head} answers with one class: expected Classification()"
        )
    return objective
