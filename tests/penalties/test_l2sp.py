"""L2-SP, anchored at the latest task or at all of them."""

from __future__ import annotations

import pytest
import torch

from holdfast import L2SP, ConfigurationError
from tests.penalties.paths import batches, close, network, sgd, train


@pytest.mark.parametrize("anchors", ["latest", "all"])
def test_value_and_gradient_over_three_tasks(anchors):
    model = network()
    optimizer = sgd(model)
    method = L2SP(model, strength=0.6, anchors=anchors).attach(optimizer)
    points = []
    for seed in range(3):
        train(model, optimizer, batches(seed, 2))
        method.consolidate()
        points.append([p.detach().clone() for p in model.parameters()])
    train(model, optimizer, batches(4, 2))
    params = list(model.parameters())
    counted = points if anchors == "all" else points[-1:]
    expected = sum(0.3 * (p - a).square().sum() for point in counted for p, a in zip(params, point, strict=True))
    close(method.value(), expected)
    for found, slope in zip(
        torch.autograd.grad(method.value(), params), torch.autograd.grad(expected, params), strict=True
    ):
        close(found, slope)


def test_one_step_by_hand():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = L2SP(model, strength=2.0, select="0")
    method.consolidate()
    method.attach(optimizer)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    expected = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    for i, (p, start) in enumerate(zip(model.parameters(), expected, strict=True)):
        pull = 2.0 if i < 2 else 0.0  # strength times the distance 1, on the first layer alone
        torch.testing.assert_close(p.detach(), start - 0.1 * (0.5 + pull), rtol=1e-12, atol=1e-12)


def test_an_unknown_choice_of_anchors_is_named():
    with pytest.raises(ConfigurationError, match="anchors is 'first'"):
        L2SP(network(), strength=1.0, anchors="first")
