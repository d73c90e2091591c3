"""A last layer whose rows are made alike: the references, what is seen, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import (
    ClassBalanced,
    Classification,
    ConfigurationError,
    DataError,
    NumericsError,
    Regression,
    StateError,
    WeightBalancing,
    registry,
)
from holdfast.bench.comparing.plan import refusal
from holdfast.bench.data import streams
from holdfast.projections.balancing import balanced_rows
from holdfast.projections.norms import row_norms, tau_normalised

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "weight_balancing.npz")


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name].copy())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-12)


def test_powers_of_lengths_are_the_references() -> None:
    weight = reference("W")
    for tau, key in ((1.0, "l2norm"), (0.7, "tau07"), (1.9, "tau19")):
        close(tau_normalised(weight, tau), reference(key))
    assert torch.equal(tau_normalised(weight, 0.0), weight)
    assert not tau_normalised(torch.zeros(2, 3), 1.0).any()


@pytest.mark.parametrize(("norm", "tau", "key"), [("l2", 0.7, "l2norm"), ("tau", 0.7, "tau07"), ("tau", 1.9, "tau19")])
def test_some_rows_are_made_alike_and_keep_their_mean_length(norm, tau, key) -> None:
    weight, rows = reference("W"), [0, 2, 5]
    found = balanced_rows(weight, rows, norm=norm, tau=tau)
    others = [1, 3, 4]
    assert torch.equal(found[others], weight[others])
    expected = reference(key)[rows]
    scale = reference("norms")[rows].mean() / expected.norm(dim=1).mean()
    close(found[rows], scale * expected)
    close(row_norms([found[rows]])[0].mean(), reference("norms")[rows].mean())


def test_long_rows_are_cut_to_the_relative_radius() -> None:
    close(balanced_rows(reference("W"), range(6), norm="max", threshold=0.1), reference("maxnorm_released"))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6)).double()


def labelled(*labels: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(len(labels), 3).double(), torch.tensor(labels))]


def lengths(model: nn.Sequential) -> Tensor:
    return row_norms([model[2].weight.detach()])[0]


def test_after_each_task_the_classes_seen_are_alike_and_the_rest_is_as_it_was() -> None:
    model = network()
    keep = WeightBalancing(model)
    bias, before = model[2].bias.detach().clone(), model[2].weight.detach().clone()
    keep.consolidate(labelled(1, 3, -100, 1))
    assert keep.seen == (1, 3)
    close(lengths(model)[[1, 3]], before[[1, 3]].norm(dim=1).mean().expand(2))
    assert torch.equal(model[2].weight[[0, 2, 4, 5]], before[[0, 2, 4, 5]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep.attach(optimizer)
    plain = network()
    plain.load_state_dict(model.state_dict())
    for each, by in ((model, optimizer), (plain, torch.optim.SGD(plain.parameters(), lr=0.1))):
        torch.manual_seed(1)
        each(torch.randn(4, 3).double()).square().sum().backward()
        by.step()
    assert torch.equal(model[2].weight, plain[2].weight)  # steps are left as they are
    keep.consolidate(labelled(5, 0))
    assert keep.seen == (0, 1, 3, 5)
    close(lengths(model)[[0, 1, 3, 5]], lengths(model)[0].expand(4))
    assert torch.equal(model[0].weight, plain[0].weight) and torch.equal(model[2].bias, plain[2].bias)
    assert not torch.equal(model[2].bias, bias)

    again = network()
    other = WeightBalancing(again)
    other.load_state_dict(keep.state_dict())
    assert other.seen == keep.seen


def test_classes_of_a_balanced_objective_and_a_growing_head() -> None:
    model = network()
    keep = WeightBalancing(model, norm="tau", tau=0.5)
    keep.consolidate(labelled(4, 5), objective=ClassBalanced([3, 2], classes=(4, 5)))
    old, model[2] = model[2], nn.Linear(5, 8).double()
    model[2].weight.data[:6] = old.weight.data
    keep.meta["steps"] = 1  # as if it had been trained
    keep.consolidate(labelled(7), objective=Classification())
    assert keep.seen == (4, 5, 7)
    model[2] = nn.Linear(5, 6).double()
    keep.meta["steps"] = 1
    with pytest.raises(StateError, match=r"class 7 was seen, but parameter '2\.weight' has 6 rows"):
        keep.consolidate(labelled(1))


def test_what_cannot_be_balanced_is_refused_and_nothing_changes() -> None:
    model = network()
    keep = WeightBalancing(model)
    before = model[2].weight.detach().clone()
    for batches, objective, error, message in (
        (labelled(1, 2), Regression(), ConfigurationError, "the objective is Regression"),
        (labelled(1, 6), None, DataError, r"the labels are \[1, 6\]; expected rows of '2\.weight', 0 to 5"),
        (labelled(-100), None, DataError, "no batch has a label"),
    ):
        with pytest.raises(error, match=message):
            keep.consolidate(batches, objective=objective)
    assert torch.equal(model[2].weight, before) and keep.seen == ()
    keep.consolidate(labelled(1, 2), objective=Classification(head=0))  # a task whose head is the only one
    keep.meta["steps"] = 1
    with pytest.raises(
        ConfigurationError, match=r"about head 1, and those before were about 0; .* nothing between them"
    ):
        keep.consolidate(labelled(1, 2), objective=Classification(head=1))
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"'2\.weight' is not finite"):
        keep.consolidate(labelled(1), objective=Classification(head=0))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
        self.words = nn.Embedding(4, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [head(x) for head in self.heads]


def test_a_model_without_one_last_layer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Two has 2 \(heads\.0\.weight, heads\.1\.weight\): name it"):
        WeightBalancing(Two())
    assert list(WeightBalancing(Two(), head="heads.1").params) == ["heads.1.weight"]
    with pytest.raises(ConfigurationError, match=r"'words\.weight' belongs to a Embedding"):
        WeightBalancing(Two(), head="words")
    with pytest.raises(ConfigurationError, match="norm is 'l1'"):
        WeightBalancing(network(), norm="l1")
    with pytest.raises(ConfigurationError, match="tau is -1"):
        WeightBalancing(network(), tau=-1)
    with pytest.raises(ConfigurationError, match="threshold is 2"):
        WeightBalancing(network(), threshold=2)


def test_a_head_per_task_is_refused_before_anything_is_trained() -> None:
    entry = registry.lookup("weight-balancing")
    for scenario, tasks, refused in (("task", 2, True), ("task", 1, False), ("class", 2, False), ("domain", 2, False)):
        stream = streams.build("split-digits", seed=0, scenario=scenario, tasks=tasks, limit_per_class=4)
        assert ("compete in one head" in str(refusal(entry, stream))) == refused
