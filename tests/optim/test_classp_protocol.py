"""What torch.optim promises of an optimizer, and what CLASSP promises of its phases."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from holdfast.errors import ConfigurationError, StateError
from holdfast.optim import CLASSP


def parameter(*values: float, gradient: list[float] | None = None, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    p = nn.Parameter(torch.tensor(values, dtype=dtype))
    p.grad = None if gradient is None else torch.tensor(gradient, dtype=dtype)
    return p


def test_each_group_keeps_its_own_values_in_both_variants() -> None:
    for variant in ("paper", "released"):
        a, b = parameter(0.0, gradient=[1.0]), parameter(0.0, gradient=[1.0])
        groups = [{"params": [a], "lr": 0.5}, {"params": [b], "scaling": False, "lr": 0.25, "threshold": 0.9}]
        CLASSP(groups, eps=1.0, variant=variant).step()
        assert a.item() == pytest.approx(-0.25) and b.item() == pytest.approx(-0.25)
        frozen = parameter(0.0, gradient=[1.0])
        CLASSP([{"params": [frozen], "threshold": 1.0}, {"params": [a]}], threshold=0.0, variant=variant).step()
        assert frozen.item() == 0.0


def test_one_state_tensor_per_parameter_and_none_without_a_gradient() -> None:
    used, unused = parameter(1.0, gradient=[2.0]), parameter(1.0)
    optimizer = CLASSP([used, unused])
    optimizer.step()
    assert list(optimizer.state[used]) == ["sum"]
    assert unused not in optimizer.state and unused.item() == 1.0


def test_a_step_counts_as_a_change_of_the_weights_for_autograd() -> None:
    p = parameter(1.0, gradient=[2.0])
    loss = (p * p).sum()
    CLASSP([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_closure_runs_with_gradients_and_its_loss_is_returned() -> None:
    p = parameter(3.0)
    optimizer = CLASSP([p], lr=0.1, scaling=False)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(9.0)
    assert p.item() == pytest.approx(3.0 - 0.1 * 6.0)


def test_hooks_run_around_the_step_and_a_scheduler_sets_the_step_size() -> None:
    p = parameter(0.0, gradient=[1.0])
    optimizer = CLASSP([p], lr=1.0, scaling=False)
    seen: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(p.item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(p.item()))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([0.0, -1.0, -1.0, -1.5])


def run(optimizer: CLASSP, parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_saved_and_loaded_in_mid_task_continues_bit_identically(dtype: torch.dtype) -> None:
    ours = [parameter(1.0, 2.0, dtype=dtype), parameter(3.0, dtype=dtype)]
    optimizer = CLASSP(ours, threshold=0.1)
    optimizer.consolidate(eps=1e-3)
    run(optimizer, ours, seed=1)
    twins = [nn.Parameter(p.detach().clone()) for p in ours]
    resumed = CLASSP(twins)
    resumed.load_state_dict(optimizer.state_dict())
    run(optimizer, ours, seed=2)
    run(resumed, twins, seed=2)
    for p, q in zip(ours, twins, strict=True):
        assert torch.equal(p, q) and torch.equal(optimizer.state[p]["sum"], resumed.state[q]["sum"])
        assert optimizer.state[p]["sum"].data_ptr() != resumed.state[q]["sum"].data_ptr()
    assert resumed.param_groups[0]["eps"] == 1e-3


def test_a_state_moves_to_the_dtype_of_the_model_that_loads_it() -> None:
    p = parameter(1.0, gradient=[1.0 + 2.0**-20])
    optimizer = CLASSP([p])
    optimizer.step()
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32)):
        q = parameter(1.0, dtype=dtype)
        other = CLASSP([q])
        other.load_state_dict(optimizer.state_dict())
        assert other.state[q]["sum"].dtype == expected
        assert other.state[q]["sum"].item() == 1.0 + 2.0**-20  # exact in float32, not in bfloat16


def test_a_pre_hook_of_the_user_may_replace_the_state_that_is_loaded() -> None:
    p = parameter(1.0, gradient=[1.0])
    optimizer = CLASSP([p])
    optimizer.step()
    saved = optimizer.state_dict()

    def double(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "state": {0: {"sum": state["state"][0]["sum"] * 2}}}

    optimizer.register_load_state_dict_pre_hook(double)
    optimizer.load_state_dict(saved)
    assert optimizer.state[p]["sum"].item() == 2.0


def test_a_state_that_is_not_its_own_is_refused_and_nothing_is_loaded() -> None:
    p = parameter(1.0, 2.0, gradient=[1.0, 1.0])
    optimizer = CLASSP([p])
    optimizer.step()
    adagrad = torch.optim.Adagrad([p]).state_dict()
    with pytest.raises(StateError, match="no 'threshold'"):
        optimizer.load_state_dict(adagrad)
    saved = optimizer.state_dict()
    with pytest.raises(StateError, match=r"\['step', 'sum'\], expected \['sum'\]"):
        optimizer.load_state_dict({**saved, "state": {0: {"sum": torch.ones(2), "step": 1}}})
    with pytest.raises(StateError, match=r"shape \(3,\), expected its parameter's \(2,\)"):
        optimizer.load_state_dict({**saved, "state": {0: {"sum": torch.ones(3)}}})
    assert optimizer.state[p]["sum"].tolist() == [1.0, 1.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
def test_a_deep_copy_continues_on_its_own() -> None:
    p = parameter(1.0, gradient=[1.0])
    optimizer = CLASSP([p], fused=True)
    optimizer.step()
    clone = copy.deepcopy(optimizer)
    q = clone.param_groups[0]["params"][0]
    q.grad = torch.ones_like(q)
    clone.step()
    assert clone.fused is True
    assert clone.state[q]["sum"].item() == 2.0 and optimizer.state[p]["sum"].item() == 1.0


def test_a_group_added_later_takes_the_constructors_values() -> None:
    optimizer = CLASSP([("a", parameter(0.0))], lr=0.5)
    optimizer.add_param_group({"params": [("b", parameter(0.0))], "threshold": 0})
    assert optimizer.param_groups[1]["lr"] == 0.5 and optimizer.param_groups[1]["threshold"] == 0.0
    assert optimizer.param_groups[1]["param_names"] == ["b"]


def test_consolidate_switches_every_group_and_keeps_the_accumulators() -> None:
    a, b = parameter(0.0, gradient=[2.0]), parameter(0.0, gradient=[0.5])
    optimizer = CLASSP([{"params": [a]}, {"params": [b], "threshold": 0.9}], lr=0.1, scaling=False)
    optimizer.step()
    assert (a.item(), b.item()) == pytest.approx((-0.2, 0.0))
    assert optimizer.consolidate([1, 2], generator=torch.Generator(), threshold=0, scaling=True, eps=1.0) is None
    optimizer.step()
    # Sums 2 and 0 from before, 4 and 0.5 now.
    assert (a.item(), b.item()) == pytest.approx((-0.2 - 0.1 * 2.0 / 5.0, -0.1 * 0.5 / 1.5))


BAD = [
    ("lr", -0.1, "lr is -0.1, expected a number >= 0"),
    ("lr", torch.tensor(0.1), "expected a finite number"),
    ("threshold", -1, "threshold is -1"),
    ("threshold", float("nan"), "expected a finite number"),
    ("eps", 0, "eps is 0, expected a number > 0"),
    ("power", 0.0, "power is 0.0"),
    ("power", True, "expected a finite number"),
    ("scaling", 1, "expected True or False"),
    ("variant", "papre", "expected one of paper, released"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), BAD)
def test_a_bad_value_is_refused_wherever_it_is_given(name: str, value: Any, sentence: str) -> None:
    p = parameter(0.0, gradient=[1.0])
    with pytest.raises(ConfigurationError, match=sentence):
        CLASSP([p], **{name: value})
    with pytest.raises(ConfigurationError, match=sentence):
        CLASSP([{"params": [p], name: value}])
    optimizer = CLASSP([p])
    with pytest.raises(ConfigurationError, match=sentence):
        optimizer.consolidate(**{"lr": 0.7, name: value})
    assert optimizer.param_groups[0]["lr"] == 0.2
    if name != "lr":
        optimizer.param_groups[0][name] = value
        with pytest.raises(ConfigurationError, match=sentence):
            optimizer.step()
        assert p.item() == 0.0


def test_what_cannot_be_optimized_is_refused_in_a_sentence() -> None:
    p = parameter(0.0)
    with pytest.raises(ConfigurationError, match="no group value 'treshold'"):
        CLASSP([p]).consolidate(treshold=0.0)
    with pytest.raises(ConfigurationError, match="number 1 of its group is given twice"):
        CLASSP([p, p])
    with pytest.raises(ConfigurationError, match=r"'w' is torch\.complex64"):
        CLASSP([("w", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))])
    with pytest.raises(ValueError, match="empty parameter list"):
        CLASSP([])
    with pytest.raises(TypeError, match="ordered collections"):
        CLASSP([{"params": {p}}])
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigurationError, match=r"torch\.sparse_coo, expected a dense one"):
        CLASSP(embedding.parameters()).step()


@pytest.mark.parametrize("unscale_first", [False, True])
def test_a_gradient_scaler_is_undone_and_an_overflow_moves_nothing(unscale_first: bool) -> None:
    torch.manual_seed(0)
    a, b = (nn.Linear(3, 2, dtype=torch.float64) for _ in range(2))
    b.load_state_dict(a.state_dict())
    plain, scaled = CLASSP(a.parameters(), threshold=0.01), CLASSP(b.parameters(), threshold=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for factor in (1.0, float("inf"), 1.0):
        x = torch.randn(4, 3, dtype=torch.float64)
        for model, optimizer in ((a, plain), (b, scaled)):
            optimizer.zero_grad()
            loss = model(x).square().sum() * factor
            if optimizer is plain:
                loss.backward()
                if factor == 1.0:
                    plain.step()
            else:
                scaler.scale(loss).backward()
                if unscale_first:
                    scaler.unscale_(scaled)
                scaler.step(scaled)
                scaler.update()
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q) and torch.equal(plain.state[p]["sum"], scaled.state[q]["sum"])
    assert scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_on_cuda_reads_no_value_back_to_the_host(scaled: bool) -> None:
    with FakeTensorMode():  # needs no GPU, and raises where a program asks for a tensor's value
        p = nn.Parameter(torch.zeros(40000, device="cuda"))
        p.grad = torch.ones(40000, device="cuda")
        optimizer = CLASSP([p])
        if scaled:
            optimizer.grad_scale, optimizer.found_inf = (torch.ones((), device="cuda") for _ in range(2))
        optimizer.step()
        assert optimizer.state[p]["sum"].device.type == "cuda"
