"""A class for every pixel, against one backward per image."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import ConfigurationError, DataError, LwF, Segmentation
from holdfast.importance import fisher, mas, taylor
from holdfast.objectives import count
from tests.objectives.plain import Pixels, change, equal, kl, mean_of, move, nll, size


def batch(side: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (2, 4, 4), generator=generator)
    labels[0, :2] = 255
    labels[1, 3, 1:] = -100
    return {"x": torch.randn(2, 2, side, side, generator=generator, dtype=torch.float64), "labels": labels}


def places(labels: Tensor, i: int) -> list[tuple[int, int]]:
    return [(h, w) for h in range(4) for w in range(4) if int(labels[i, h, w]) not in (255, -100)]


def images(values: Any, labels: Tensor) -> list[Tensor]:
    """The mean over the labelled pixels of each image."""
    return [torch.stack([values(i, h, w) for h, w in places(labels, i)]).mean() for i in range(2)]


@pytest.mark.parametrize("stride", [1, 2])
def test_empirical_fisher_is_of_an_images_mean(stride: int) -> None:
    model, data = Pixels(stride=stride), batch()
    logits = F.interpolate(model(data["x"]), size=(4, 4), mode="bilinear", align_corners=False)
    losses = images(lambda i, h, w: nll(logits[i, :, h, w], int(data["labels"][i, h, w])), data["labels"])
    equal(fisher(model, [data], objective=Segmentation(), kind="empirical"), mean_of(model, losses))


def test_exact_fisher_is_the_expectation_pixel_by_pixel() -> None:
    model, data = Pixels(outputs=2), batch()
    data["labels"] = data["labels"].where((data["labels"] < 0) | (data["labels"] > 2), 0)
    logits = model(data["x"])
    total: Any = None
    for i in range(2):
        seen = places(data["labels"], i)
        for h, w in seen:
            for y in range(2):
                weight = logits[i, :, h, w].softmax(0)[y].detach() / len(seen) ** 2
                part = mean_of(model, [nll(logits[i, :, h, w], y)], lambda g, p, weight=weight: weight * g**2)
                total = part if total is None else {name: total[name] + part[name] for name in total}
    exact = fisher(model, [data], objective=Segmentation(), kind="exact")
    equal(exact, {name: value / 2 for name, value in total.items()})
    many = {name: value.repeat(1500, *[1] * (value.dim() - 1)) for name, value in data.items()}
    sampled = fisher(model, [many], objective=Segmentation(), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled["head.weight"], exact["head.weight"], rtol=0.2, atol=1e-4)


def test_mas_and_taylor_are_of_labelled_pixels() -> None:
    model, data = Pixels(), batch()
    logits = model(data["x"])
    norms = images(lambda i, h, w: (logits[i, :, h, w] ** 2).sum(), data["labels"])
    equal(mas(model, [data], objective=Segmentation()), mean_of(model, norms, size))
    p = logits.softmax(1)
    entropies = images(lambda i, h, w: -(p[i, :, h, w] * p[i, :, h, w].log()).sum(), data["labels"])
    equal(taylor(model, [data], objective=Segmentation()), mean_of(model, entropies, change))


def test_a_teacher_is_compared_at_labelled_pixels() -> None:
    model, data = Pixels(), batch()
    old = copy.deepcopy(model)
    keep = LwF(model, strength=1.0, temperature=1.0, objective=Segmentation())
    keep.consolidate()
    assert keep.penalty(data, model(data["x"])).item() == 0.0
    move(model)
    f, g = model(data["x"]), old(data["x"])
    each = [kl(f[i, :, h, w], g[i, :, h, w]) for i in range(2) for h, w in places(data["labels"], i)]
    torch.testing.assert_close(keep.penalty(data, f), torch.stack(each).mean(), rtol=1e-12, atol=0)


def test_a_teacher_of_coarser_outputs_counts_a_place_by_how_much_of_it_is_labelled() -> None:
    model, data = Pixels(stride=2), batch()
    old = copy.deepcopy(model)
    keep = LwF(model, strength=1.0, temperature=1.0, objective=Segmentation())
    keep.consolidate()
    move(model)
    f, g = model(data["x"]), old(data["x"])
    total, weight = 0.0, 0.0
    for i in range(2):
        for h in range(2):
            for w in range(2):
                share = sum((a // 2, b // 2) == (h, w) for a, b in places(data["labels"], i)) / 4
                total, weight = total + share * kl(f[i, :, h, w], g[i, :, h, w]).item(), weight + share
    assert keep.penalty(data, f).item() == pytest.approx(total / weight, rel=1e-12)


def test_an_image_without_labels_is_no_sample() -> None:
    data = batch()
    data["labels"][1] = 255
    assert count(Segmentation(), data) == 1
    alone = {name: value[:1] for name, value in data.items()}
    for kind in ("empirical", "exact"):
        options: Any = {"objective": Segmentation(), "kind": kind}
        equal(fisher(Pixels(), [data], **options), fisher(Pixels(), [alone], **options))


def test_lines_and_volumes() -> None:
    torch.manual_seed(0)
    for conv, shape in ((nn.Conv1d, (6,)), (nn.Conv3d, (2, 3, 2))):
        model = conv(2, 3, 1).double()
        x, y = torch.randn(2, 2, *shape, dtype=torch.float64), torch.randint(3, (2, *shape))
        losses = list(F.cross_entropy(model(x), y, reduction="none").flatten(1).mean(1))
        equal(fisher(model, [(x, y)], objective=Segmentation(), kind="empirical"), mean_of(model, losses))


def test_labels_that_are_none_can_be_said() -> None:
    logits, labels = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 0]]])
    found = Segmentation(ignored=(0,)).losses(logits, {"labels": labels})
    expected = (nll(logits[0, :, 0, 1], 1) + nll(logits[0, :, 1, 0], 2)) / 2
    torch.testing.assert_close(found[0], expected)
    with pytest.raises(ConfigurationError, match="ignored is 'none'"):
        Segmentation(ignored="none")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("outputs", "labels", "named"),
    [
        ((2, 3, 4, 4), torch.zeros(2, dtype=torch.long), "Segmentation expects integers"),
        ((2, 3, 4, 4), torch.zeros(2, 3, 4, 4), "Regression"),
        ((2, 4, 3), torch.zeros(2, 4, dtype=torch.long), "TokenClassification"),
        ((2, 3), torch.zeros(2, dtype=torch.long), "Classification"),
        ((2, 3, 4, 4), torch.full((2, 4, 4), 7), "target 7"),
    ],
)
def test_what_does_not_fit_is_refused(outputs: tuple[int, ...], labels: Tensor, named: str) -> None:
    with pytest.raises(DataError, match=named):
        Segmentation().losses(torch.randn(outputs), {"labels": labels})
