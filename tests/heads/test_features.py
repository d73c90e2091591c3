"""What a head stands on: a model, one of its layers or a function, left as it is and refused once it has changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from holdfast import ProtectionError
from holdfast.heads import NCM, SLDA
from tests.contract.cases import same_state
from tests.heads.cases import close, samples, tell


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.5))
        self.fc = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def test_features_of_a_layer_in_eval_mode_and_the_model_untouched():
    x, y = samples()
    model = Net().double()
    model(x)  # statistics of its own
    model.train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    head = tell(SLDA(model, layer="body", shrinkage=0.1), x, y)
    scores = head(x)
    assert same_state(dict(before), dict(model.state_dict()))
    assert model.training and model.body[3].training and all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    model.eval()
    with torch.no_grad():
        features = model.body(x)
    close(scores, tell(SLDA(shrinkage=0.1), features, y)(features))
    close(scores, tell(SLDA(model.body, shrinkage=0.1), x, y)(x))
    assert not scores.requires_grad and not list(head.parameters())


@pytest.mark.parametrize("change", ["weight", "statistics", "shape"])
def test_a_changed_model_is_refused_by_name(change):
    x, y = samples()
    model = Net().double()
    head = tell(SLDA(model, layer="body", shrinkage=0.1), x, y)
    head(x)
    saved = copy.deepcopy(head.state_dict())
    if change == "weight":
        with torch.no_grad():
            model.body[0].weight[0, 0] += 1e-9
    elif change == "statistics":
        model.train()
        model(x)
    else:
        model.body[0] = nn.Linear(6, 7, bias=False).double()
    name = {"weight": r"body\.0\.weight", "statistics": r"body\.1\.running_mean", "shape": r"body\.0\."}[change]
    with pytest.raises(ProtectionError, match=name):
        head.consolidate([(x, y)])
    with pytest.raises(ProtectionError, match=name):
        head(x)
    with pytest.raises(ProtectionError, match=name):
        SLDA(model, layer="body", shrinkage=0.1).load_state_dict(saved)


def test_a_method_of_a_model_a_function_and_dicts():
    x, y = samples()
    model = Net().double().eval()
    wanted = tell(NCM(model.body), x, y)(x)
    function = lambda x: model.body(x).detach()  # noqa: E731  # the case of the test
    close(tell(NCM(function), x, y)(x), wanted)
    head = NCM(model.body.forward)
    head.consolidate({"input": a, "labels": b} for a, b in zip(x.split(8), y.split(8), strict=True))
    close(head({"input": x}), wanted)
    with torch.no_grad():
        model.body[0].bias += 1
    with pytest.raises(ProtectionError, match=r"bias"):
        head({"input": x})
