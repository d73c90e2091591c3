"""Models as people have them: wrapped, compiled, checkpointed, recurrent, with attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from holdfast.errors import ConfigurationError, DataError
from holdfast.importance import fisher, mas, taylor
from holdfast.importance._reference import per_sample_sum_reference
from holdfast.names import canonical_parameters
from holdfast.objectives import Classification


def batches(*shape: int, sizes: tuple[int, ...] = (4, 3)) -> list[Any]:
    torch.manual_seed(1)
    return [(torch.randn(size, *shape, dtype=torch.float64), torch.randint(3, (size,))) for size in sizes]


def expected(model: nn.Module, data: list[Any]) -> dict[str, Tensor]:
    objective = Classification()

    def factors(outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        yield from objective.factors(outputs)

    sums, samples = per_sample_sum_reference(
        model.eval(),
        data,
        objective=objective,
        terms=factors,
        statistic=lambda g, w: g**2,
        parameters=canonical_parameters(model),
    )
    return {name: total / samples for name, total in sums.items()}


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def close(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-18)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled_part() -> nn.Module:
    model = mlp()
    model[0] = torch.compile(model[0], backend="eager")
    return model


WRAPPERS: dict[str, Callable[[], nn.Module]] = {
    "torch.compile": lambda: torch.compile(mlp(), backend="eager"),
    "torch.compile of a part": compiled_part,
    "DataParallel": lambda: DataParallel(mlp()),
    "DistributedDataParallel": lambda: DistributedDataParallel(mlp()),
    "both": lambda: DistributedDataParallel(torch.compile(mlp(), backend="eager")),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("estimate", [fisher, mas, taylor])
def test_wrappers_change_neither_names_nor_numbers(wrap: Any, estimate: Any) -> None:
    data = batches(6)
    close(estimate(wrap(), data), estimate(mlp(), data))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.body = mlp()
        self.head = nn.Linear(3, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x.requires_grad_(), use_reentrant=self.reentrant))


class Grown(nn.Module):
    """Uses its second layer only for large batches: what was never checked must be checked when it appears."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.b = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + (self.b(x.flip(0)) if len(x) > 3 else 0)


@pytest.mark.parametrize(
    ("build", "shape"), [(Recurrent, (3, 4)), (Encoder, (3, 4)), (lambda: Checkpointed(False), (6,)), (Grown, (6,))]
)
def test_models_equal_one_backward_per_sample(build: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, data = build().double(), batches(*shape, sizes=(3, 4, 2))
    close(fisher(model, data), expected(model, data))


def test_reentrant_checkpointing_is_refused_because_it_hides_parameters() -> None:
    with pytest.raises(ConfigurationError, match="use_reentrant=False"):
        fisher(Checkpointed(True).double(), batches(6))


@pytest.mark.parametrize("max_bytes", [1, 1000])
def test_memory_budget_changes_no_number(max_bytes: int) -> None:
    torch.manual_seed(0)
    model, data = Encoder().double(), batches(3, 4)
    close(fisher(model, data, max_bytes=max_bytes), expected(model, data))


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.body = nn.Linear(8 * 6 * 6, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.conv(x)).flatten(1))))


def test_layer_rules_ask_autograd_for_no_weight_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches(1, 8, 8, sizes=(5,) * 4)
    asked: list[bool] = []
    true = torch.autograd.grad

    def spy(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(any(isinstance(i, nn.Parameter) for i in ([inputs] if isinstance(inputs, Tensor) else inputs)))
        return true(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    fisher(Convolved().double(), data, kind="empirical")
    assert sum(asked) == 1  # in the check of the first batch, which asks twice more
    assert len(asked) == 2 * len(data) + 2


def test_outputs_that_need_no_gradient_give_zeros() -> None:
    model = nn.ModuleDict({"used": nn.Linear(6, 3).requires_grad_(False), "other": nn.Linear(2, 2)}).double()

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["used"](x)

    for estimate in (fisher, mas, taylor, lambda *a: fisher(*a, kind="batched")):
        found = estimate(Frozen(), batches(6))
        assert found.keys() == {"parts.other.weight", "parts.other.bias"}
        assert not any(value.any() for value in found.values())


def test_outputs_that_are_no_tensor_are_refused() -> None:
    class Pair(Classification):
        def outputs(self, model: nn.Module, batch: Any) -> Any:
            return [super().outputs(model, batch)]

    with pytest.raises(DataError, match=r"outputs are of type list; expected one tensor \[B, K\]"):
        fisher(mlp(), batches(6), objective=Pair())


def test_a_generator_of_batches_is_read_once() -> None:
    data = batches(6)
    close(fisher(mlp(), iter(data)), fisher(mlp(), data))


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP2 of PyTorch 2.6 needs a GPU")
@pytest.mark.usefixtures("process_group")
def test_sharded_parameters_have_the_importances_of_a_whole_model() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(mlp(), mesh=init_device_mesh("cpu", (1,)))
    found = fisher(model, batches(6))
    close({name: value.full_tensor() for name, value in found.items()}, fisher(mlp(), batches(6)))
