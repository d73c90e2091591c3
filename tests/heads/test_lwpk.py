"""LwPK: its equations against numbers computed elsewhere, the clustering, and what the bench makes of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import ConfigurationError, DataError
from holdfast.heads import LwPK
from holdfast.heads.clustering import decorrelation_loss, instance_loss, k_means, pseudo_labels, updated_memory
from holdfast.heads.lwpk import CosineClassifier, cosine_scores, joint_loss, joint_weights
from tests.heads.cases import close


@pytest.fixture(scope="module")
def known() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "data" / "lwpk.npz") as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


def test_the_losses_of_clustering_are_the_references(known):
    raw = known["raw"].clone().requires_grad_()
    found = F.normalize(raw, dim=1)
    apart = instance_loss(found, known["idx"], known["memory"], temperature=float(known["tau"]))
    features = decorrelation_loss(found, temperature=float(known["tau2"]))
    close(apart, known["loss_id"])
    close(features, known["loss_fd"])
    (apart + features).backward()
    close(raw.grad, known["grad_raw"])
    before = known["memory"].clone()
    close(updated_memory(known["memory"], known["idx"], found.detach()), known["memory_next"])
    assert torch.equal(before, known["memory"])


def test_scores_and_the_joint_loss_are_the_references(known):
    close(cosine_scores(known["queries"], known["W_prototypes"][:5]), known["scores_seen"])
    scores = CosineClassifier(known["W"])(known["z"])
    close(F.cross_entropy(scores, known["labels"], reduction="none"), known["ce"])
    is_pseudo = known["labels"] >= known["base"]
    close(joint_loss(scores, known["labels"], is_pseudo), known["joint_loss"])
    omega = float(known["omega"])
    close(joint_loss(scores, known["labels"], is_pseudo, omega), known["joint_loss_omega"])
    close(joint_loss(scores, known["labels"], is_pseudo, 0.0), known["ce"][~is_pseudo].mean())
    assert joint_weights(30, 10) == (1.0, 1.0) and joint_weights(30, 10, 0.0) == (40 / 30, 0.0)


def test_the_head_is_the_mean_of_each_class_by_cosine(known):
    head = LwPK()
    base = known["labels"] < 4
    head.consolidate([(known["z"][base], known["labels"][base])])
    head.consolidate([(known["support"], torch.full((5,), 4))])
    close(head(known["queries"]), cosine_scores(known["queries"], known["W_prototypes"][:5]))
    assert torch.equal(head.predict(known["queries"]), known["predict"])


def same_partition(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left[:, None] == left, right[:, None] == right)


def test_k_means_finds_the_references_clusters(known):
    pytest.importorskip("sklearn", reason="the bench's packages are not installed")
    found = k_means(known["points"], 3, torch.Generator().manual_seed(0))
    assert same_partition(found, known["assign"].long())


def balls() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    return 4 * torch.eye(3, 6)[labels] + 0.3 * torch.randn(60, 6, generator=draw), labels


def test_unlabelled_samples_are_clustered_and_nothing_else_is_touched():
    pytest.importorskip("sklearn", reason="the bench's packages are not installed")
    x, labels = balls()
    torch.manual_seed(5)
    encoder = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
    before, state = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    head = LwPK(cluster_epochs=4)
    found = [head.pseudo_labels(encoder, x, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert same_partition(found[0], labels) and torch.equal(found[0], found[1])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], now) for name, now in encoder.state_dict().items())


def test_training_lowers_the_loss_and_uses_what_is_given():
    x, _ = balls()
    seen: dict[str, list[Tensor]] = {"points": [], "inputs": []}

    def clusterer(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
        seen["points"].append(points)
        return torch.zeros(len(points), dtype=torch.int64)

    def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
        seen["inputs"].append(inputs)
        return inputs

    for epochs in (0, 30):
        torch.manual_seed(0)
        encoder = nn.Linear(6, 8)
        draw = torch.Generator().manual_seed(3)
        more = {"epochs": epochs, "lr": 0.1, "batch_size": 20, "embedding": 8}
        pseudo_labels(encoder, x, 3, generator=draw, augment=augment, clusterer=clusterer, **more)
    assert len(seen["inputs"]) == 90 and seen["points"][0].shape == (60, 8)
    plain, trained = (decorrelation_loss(points) for points in seen["points"])
    assert trained < plain - 0.02


def test_what_is_wrong_is_named():
    x, _ = balls()
    draw = torch.Generator()
    for settings, text in (
        ({"scale": 0}, "scale is 0"),
        ({"omega": -1}, "omega is -1"),
        ({"cluster_epochs": -1}, "-1"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            LwPK(**settings)
    with pytest.raises(DataError, match="2 unlabelled samples for 3 clusters"):
        pseudo_labels(nn.Identity(), x[:2], 3, generator=draw)
    with pytest.raises(DataError, match=r"the clusterer gave \(60,\) from 7 to 7; expected \(60,\) from 0 to 2"):
        pseudo_labels(nn.Identity(), x, 3, generator=draw, epochs=0, clusterer=lambda p, k, g: torch.full((60,), 7))
    with pytest.raises(ConfigurationError, match="epochs is -1"):
        pseudo_labels(nn.Identity(), x, 3, generator=draw, epochs=-1)
