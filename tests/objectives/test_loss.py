"""Callables and models' own losses, against one backward per sample."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import holdfast
from holdfast import EWC, MAS, SI, ConfigurationError, DataError, Loss, LwF, ModelLoss
from holdfast.importance import fisher, mas
from holdfast.objectives.batches import leading_size, one
from tests.objectives.plain import equal, mean_of


class Boxes(nn.Module):
    """Detection: as many boxes per image as there are, the loss normalised by how many the batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        found = torch.tanh(self.body(images))
        if targets is None:
            return {"boxes": found}
        losses = [(found[i, :4] - box).abs().sum() for i, t in enumerate(targets) for box in t["boxes"]]
        return {"boxes": found, "loss": torch.stack(losses).sum() / len(losses)}


class Speech(nn.Module):
    """CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)

    def forward(self, sound: Tensor, labels: Tensor, lengths: Tensor) -> Any:
        log_p = self.body(sound).log_softmax(-1).transpose(0, 1)
        steps = torch.full((sound.shape[0],), sound.shape[1])
        return type("Output", (), {"loss": F.ctc_loss(log_p, labels, steps, lengths, reduction="mean")})()


class Forecast(nn.Module):
    """Forecasting: the loss comes first in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 2)

    def forward(self, past: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        found = self.body(past)
        return F.mse_loss(found, future), found


class Denoiser(nn.Module):
    """Diffusion: noise and time are drawn in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        noise, time = torch.randn_like(x), torch.rand(len(x), 1, dtype=x.dtype)
        found = self.body(torch.cat([(1 - time) * x + time * noise, time], 1))
        return {"loss": (found - noise).square().mean()}


class Autoencoder(nn.Module):
    """A variational one, which tells its samples' losses apart itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encode(x).chunk(2, 1)
        hidden = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return (self.decode(hidden) - x).square().sum(1) + divergence


def real(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


MODELS: dict[str, tuple[type[nn.Module], Any]] = {
    "detection": (Boxes, {"images": real(3, 4), "targets": [{"boxes": real(n, 4)} for n in (2, 1, 3)]}),
    "ctc": (
        Speech,
        {"sound": real(2, 7, 3), "labels": torch.tensor([[1, 2, 3], [4, 1, 0]]), "lengths": torch.tensor([3, 2])},
    ),
    "forecasting": (Forecast, {"past": real(4, 6), "future": real(4, 2)}),
    "diffusion": (Denoiser, {"x": real(3, 4)}),
    "autoencoder": (Autoencoder, {"x": real(4, 4)}),
    "pair": (Autoencoder, (real(4, 4), None)),
}


def built(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    kind, batch = MODELS[name]
    return kind().double(), batch


def alone(model: nn.Module, batch: Any, size: int) -> list[Tensor]:
    """The loss of each sample as the model gives it to that sample, from the random numbers of a whole pass."""
    objective = ModelLoss()
    with torch.random.fork_rng():
        return list(objective.outputs(model, batch)) if size else []


@pytest.mark.parametrize("name", MODELS)
def test_the_fisher_of_a_models_own_loss(name: str) -> None:
    model, batch = built(name)
    size = leading_size(batch)
    random = torch.get_rng_state()
    found = fisher(model, [batch], objective=ModelLoss())
    assert torch.equal(torch.get_rng_state(), random)
    if name in ("diffusion", "autoencoder", "pair"):  # what is drawn differs from pass to pass: the same draws again
        losses = alone(model, batch, size)
    elif name == "detection":
        images, targets = batch["images"], batch["targets"]
        losses = [model(images[i : i + 1], targets[i : i + 1])["loss"] for i in range(size)]
    else:
        raw = [model(**{key: value[i : i + 1] for key, value in batch.items()}) for i in range(size)]
        losses = [r[0] if isinstance(r, tuple) else r.loss for r in raw]
    equal(found, mean_of(model, losses))
    keep = EWC(model, strength=1.0, objective=ModelLoss())
    keep.consolidate([batch])
    equal({key: value["importance"] for key, value in keep.state.items()}, found)


@pytest.mark.parametrize("name", ["forecasting", "ctc"])
def test_batches_of_any_size_give_one_number(name: str) -> None:
    model, batch = built(name)
    size = leading_size(batch)
    each = [one(batch, i, size) for i in range(size)]
    equal(fisher(model, each, objective=ModelLoss()), fisher(model, [batch], objective=ModelLoss()))


class Contrast(nn.Module):
    """Each image is to be most like its own text: a loss of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, images: Tensor, texts: Tensor, return_loss: bool = False) -> dict[str, Tensor]:
        alike = self.image(images) @ self.text(texts).T
        target = torch.arange(len(images))
        loss = (F.cross_entropy(alike, target) + F.cross_entropy(alike.T, target)) / 2
        return {"alike": alike, **({"loss": loss} if return_loss else {})}


def test_a_contrastive_loss_is_a_batchs_own() -> None:
    torch.manual_seed(0)
    model = Contrast().double()
    batches = [{"images": real(3, 4), "texts": real(3, 2) + i, "return_loss": True} for i in range(2)]
    with pytest.raises(DataError, match=r"compares the samples of a batch.*ModelLoss\(per='batch'\)"):
        fisher(model, batches, objective=ModelLoss())
    found = fisher(model, batches, objective=ModelLoss(per="batch"))
    equal(found, mean_of(model, [model(**batch)["loss"] for batch in batches]))
    with pytest.raises(DataError, match=r"with 'alike'; ModelLoss expects a 'loss'.*return_loss=True"):
        fisher(model, [{**batches[0], "return_loss": False}], objective=ModelLoss(per="batch"))


def test_what_a_loss_alone_cannot_tell_is_said() -> None:
    model, batch = built("forecasting")
    for kind in ("exact", "sampled"):
        with pytest.raises(ConfigurationError, match="ModelLoss, which gives losses only; expected 'empirical'"):
            fisher(model, [batch], objective=ModelLoss(), kind=kind)
    with pytest.raises(ConfigurationError, match="MAS and ANPyC have nothing to measure"):
        MAS(model, strength=1.0, objective=ModelLoss()).consolidate([batch])
    with pytest.raises(ConfigurationError, match="cannot compare the outputs of ModelLoss"):
        LwF(model, strength=1.0, objective=ModelLoss()).consolidate()
    with pytest.raises(ConfigurationError, match="per is 'token'"):
        ModelLoss(per="token")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(DataError, match=r"the model's loss has shape \(3,\); expected \(4,\)"):
        three = ModelLoss(forward=lambda model, batch: model(*batch)[:3])
        three.outputs(built("pair")[0], (real(4, 4),))


def test_training_goes_on_protected_by_a_models_own_loss() -> None:
    for name in MODELS:
        model, batch = built(name)
        keep, path = EWC(model, strength=1.0, objective=ModelLoss()), SI(copy.deepcopy(model), strength=1.0)
        assert path.num_tasks == 0
        keep.consolidate([batch])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        keep.attach(optimizer)
        before = [p.detach().clone() for p in model.parameters()]
        loss = ModelLoss().outputs(model, batch).mean()
        loss.backward()
        optimizer.step()
        assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_callable_is_given_what_the_model_returned() -> None:
    model, batch = built("detection")
    seen = []

    def each(raw: Any, data: Any) -> Tensor:
        seen.append(raw)
        return torch.stack([(raw["boxes"][i, :4] - t["boxes"]).abs().sum() for i, t in enumerate(data["targets"])])

    images = (batch["images"], batch["targets"])
    losses = list(each(model(batch["images"]), batch))
    objective = Loss(each, forward=lambda model, data: model(data["images"]))
    equal(fisher(model, [batch], objective=objective), mean_of(model, losses))
    assert all(isinstance(raw, dict) and set(raw) == {"boxes"} for raw in seen)
    assert leading_size(images) == 3
    assert holdfast.Loss is Loss


def test_a_callables_losses_may_be_fewer_than_rows() -> None:
    """Nodes of graphs: two losses for five rows. One backward per loss, and the mean is over losses."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    nodes, graph = real(5, 3), torch.tensor([0, 0, 1, 1, 1])

    def each(raw: Tensor, batch: Any) -> Tensor:
        return torch.zeros(2, dtype=raw.dtype).index_add(0, batch[1], raw.square().sum(1))

    losses = list(each(model(nodes), (nodes, graph)))
    equal(fisher(model, [(nodes, graph)], objective=each), mean_of(model, losses))


def test_mas_of_a_callable_reads_the_logits() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2).double(), real(4, 3)
    found = mas(model, [(x, None)], objective=lambda raw, batch: raw.sum(1))
    equal(found, mean_of(model, list((model(x) ** 2).sum(1)), lambda g, w: g.abs()))
    boxes, batch = built("detection")
    with pytest.raises(DataError, match=r"returned dict with 'boxes'.*ModelLoss\(\)"):
        mas(boxes, [{"images": batch["images"]}], objective=lambda raw, data: raw["boxes"].sum(1))


def test_samples_of_a_batch() -> None:
    x, y, boxes = real(3, 2), torch.arange(3), [{"b": real(n, 3)} for n in (3, 1, 2)]
    batch = {"x": x, "y": y, "boxes": boxes, "scale": 2.0, "shared": real(7), "parts": (x, [1, 2, 3])}
    found = one(batch, 1, 3)
    assert torch.equal(found["x"], x[1:2]) and torch.equal(found["y"], y[1:2])
    assert found["boxes"] == boxes[1:2] and found["scale"] == 2.0 and found["shared"] is batch["shared"]
    assert torch.equal(found["parts"][0], x[1:2]) and found["parts"][1] == [2]
    pair = one([x, y], 0, 2)  # two entries and, by chance, two samples: a list at the top is the pair itself
    assert pair[0] is x and pair[1] is y
    assert leading_size({"boxes": boxes, "x": x}) == 3
    assert leading_size({"boxes": boxes}) == 3
    assert leading_size(((x, x), y)) == 3
    with pytest.raises(DataError, match="no tensor to count samples by"):
        leading_size({"scale": 2.0})
