"""FixNorm on networks of Transformers, whose forwards cannot be traced: refused in a sentence, or named."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast import ConfigurationError, FixNorm

transformers = pytest.importorskip("transformers")


def residual() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def sentences() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("make", [residual, sentences])
def test_what_cannot_be_traced_is_refused_and_says_what_to_do(make) -> None:
    with pytest.raises(ConfigurationError, match=r"the forward of \w+ cannot be traced, .*: name them with select$"):
        FixNorm(make())


def test_named_weights_keep_their_norms_and_are_such_that_only_their_direction_counts() -> None:
    model = residual()
    keep = FixNorm(model, select="*.convolution.weight", head="classifier")
    assert len(keep.fixed) == 6 and keep.clipped == ("classifier.1.weight",)
    params = dict(model.named_parameters())
    before = {name: float(params[name].detach().norm()) for name in (*keep.fixed, *keep.clipped)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    keep.attach(optimizer)
    start = params[keep.fixed[0]].detach().clone()
    inputs = {"pixel_values": torch.randn(6, 3, 32, 32), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    for _ in range(4):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    assert not torch.equal(params[keep.fixed[0]], start)
    for name in keep.fixed:
        assert float(params[name].detach().norm()) == pytest.approx(before[name], rel=1e-5)
    assert float(params["classifier.1.weight"].detach().norm()) <= before["classifier.1.weight"] * (1 + 1e-5)
    other = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.mul_(3.0 if name in keep.fixed else 1.0)
    pixels = inputs["pixel_values"].double()
    model = copy.deepcopy(model).double()
    torch.testing.assert_close(other(pixels).logits, model(pixels).logits, rtol=1e-4, atol=1e-4)
