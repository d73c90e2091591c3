"""Merges agree with numbers that were computed independently of this project, and refuse what cannot be merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast import ConfigurationError, NumericsError, StateError, merging

DATA = Path(__file__).parents[1] / "data" / "merging.npz"


@pytest.fixture(scope="module")
def known() -> dict[str, Tensor]:
    with np.load(DATA) as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


def state(tensor: Tensor) -> dict[str, Tensor]:
    """Two tensors, one of them a matrix: what counts over all weights must count over both."""
    return {"matrix": tensor[:8].view(2, 4), "vector": tensor[8:]}


def close(found: dict[str, Tensor], wanted: Tensor) -> None:
    assert found["matrix"].shape == (2, 4)
    torch.testing.assert_close(torch.cat([found["matrix"].flatten(), found["vector"]]), wanted, rtol=1e-9, atol=1e-9)


def test_the_first_file(known):
    base = known["merge/base"]
    tuned = [state(base + known[f"merge/delta/{k}"]) for k in range(3)]
    close(merging.wise_ft(state(base), tuned[0], 0.3), known["merge/wise_0.3"])
    close(merging.ties(state(base), tuned), known["merge/ties_0.2"])
    close(merging.magmax(state(base), tuned), known["merge/magmax"])
    fishers = [state(known[f"merge/fisher/{k}"]) for k in range(2)]
    close(merging.fisher_average(state(base), tuned[0], *fishers, weight=0.4), known["merge/cofima_0.4"])


def test_the_second_file(known):
    base, tuned = state(known["merges/base"]), [state(known[f"merges/t{k}"]) for k in (1, 2, 3)]
    close(merging.wise_ft(base, tuned[0], float(known["merges/wise_ft_alpha"])), known["merges/wise_ft"])
    close(merging.average(tuned), known["merges/average"])
    weight = float(known["merges/task_arithmetic_lambda"])
    close(merging.task_arithmetic(base, tuned, weight), known["merges/task_arithmetic"])
    density = float(known["merges/ties_density"])
    close(merging.ties(base, tuned, density, float(known["merges/ties_lambda"])), known["merges/ties"])
    close(merging.magmax(base, tuned, float(known["merges/magmax_lambda"])), known["merges/magmax"])
    fishers = [state(known[f"merges/fisher{k}"]) for k in (1, 2)]
    merged = merging.fisher_average(*tuned[:2], *fishers, weight=float(known["merges/fisher_alpha_new"]))
    close(merged, known["merges/fisher_merge_where_both_are_0_plain"])


def test_half_precision_whole_numbers_and_what_has_no_importance():
    before = {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "seen": torch.tensor(3), "mean": torch.zeros(1)}
    after = {"w": torch.tensor([1.0, 4.0], dtype=torch.bfloat16), "seen": torch.tensor(7), "mean": torch.ones(1)}
    merged = merging.fisher_average(
        before, after, {"w": torch.tensor([1.0, 3.0])}, {"w": torch.tensor([1.0, 1.0])}, weight=0.5
    )
    assert merged["w"].dtype == torch.bfloat16 and merged["w"].tolist() == [1.0, 2.5]
    assert merged["seen"] == 7 and merged["mean"] == 0.5
    tiny = torch.tensor([1e-30, 0.0])
    merged = merging.fisher_average({"w": tiny * 0}, {"w": tiny * 0 + 1}, {"w": tiny}, {"w": 3 * tiny}, weight=0.5)
    assert merged["w"].tolist() == pytest.approx([0.75, 0.5])
    merged["w"][0] = 9
    assert torch.equal(merging.wise_ft(before, after, 1.0)["w"], after["w"])
    assert merging.average([before, after], [0.0, 2.0])["w"].tolist() == [1.0, 4.0]
    small = [{"w": torch.ones(3, dtype=torch.bfloat16)}, {"w": torch.full((3,), 1.0078125, dtype=torch.bfloat16)}]
    added = merging.task_arithmetic(small[0], [small[1]] * 4, 0.5)
    assert added["w"].tolist() == [1.015625] * 3  # what bfloat16 would lose on the way is there at the end


def test_the_curve_between_two_states():
    before, after = {"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}
    curve = merging.interpolate(before, after, lambda s: (float(s["w"]), float(1 - s["w"])))
    assert len(curve) == 11 and curve[0] == (0.0, (0.0, 1.0)) and curve[-1] == (1.0, (2.0, -1.0))
    assert curve[5][0] == 0.5 and curve[5][1] == (1.0, 0.0)


def test_refusals():
    one, two = {"w": torch.ones(2)}, {"w": torch.ones(3)}
    for wrong, text in (
        (lambda: merging.wise_ft(one, two, 0.5), "heads of different tasks"),
        (lambda: merging.wise_ft(one, {"v": torch.ones(2)}, 0.5), "only one of the states has 'v'"),
        (lambda: merging.average([]), "no state to merge"),
        (lambda: merging.ties(one, []), "no state to merge"),
        (lambda: merging.fisher_average(one, one, {"w": -torch.ones(2)}, {"w": torch.ones(2)}), "negative entry"),
        (
            lambda: merging.fisher_average(one, one, {"w": torch.ones(2)}, {}),
            "only one .* has an importance",
        ),
        (lambda: merging.fisher_average(one, one, {"v": torch.ones(2)}, {"v": torch.ones(2)}), "importance of 'v'"),
    ):
        with pytest.raises(StateError, match=text):
            wrong()
    for wrong, text in (
        (lambda: merging.wise_ft(one, one, float("nan")), "weight is nan"),
        (lambda: merging.average([one, one], [1.0]), "expected 2 numbers"),
        (lambda: merging.average([one], [0.0]), "not all of them 0"),
        (lambda: merging.ties(one, [one], density=0), "density is 0"),
        (lambda: merging.fisher_average(one, one, {}, {}, weight=2), "weight is 2"),
        (lambda: merging.interpolate(one, one, len, steps=1), "steps is 1"),
        (lambda: merging.CoMA(torch.nn.Linear(1, 1), weight=-0.1), "weight is -0.1"),
        (lambda: merging.CoFiMA(torch.nn.Linear(1, 1), fisher="most"), "fisher is 'most'"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            wrong()
    with pytest.raises(NumericsError, match="'w' is not finite"):
        merging.wise_ft(one, {"w": torch.tensor([1.0, float("inf")])}, 0.5)
