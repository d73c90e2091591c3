"""Starts of adapters that spare the base: the reference, and what each promises of a model of PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.errors import ConfigurationError, NumericsError
from holdfast.integrations.peft import start_lora
from holdfast.objectives import CausalLM
from holdfast.projections import starts

R = {
    name: torch.from_numpy(array)
    for name, array in np.load(Path(__file__).parents[1] / "data" / "lora_starts.npz").items()
}
RANK = int(R["r"])
C = R["X"].T @ R["X"] / len(R["X"])
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def test_milora_equals_the_reference() -> None:
    B, A = starts.milora(R["W"], RANK)
    torch.testing.assert_close(B @ A, R["milora_BA"], **CLOSE)
    torch.testing.assert_close(B.norm(dim=0), A.norm(dim=1), **CLOSE)


@pytest.mark.parametrize("tokens", [1, 50])
def test_corda_equals_the_reference_whatever_the_amount_of_data(tokens: int) -> None:
    B, A = starts.corda(R["W"], tokens * C, RANK, float(R["corda_damping"]))
    torch.testing.assert_close(B @ A, R["corda_kpm_BA"], **CLOSE)
    torch.testing.assert_close(R["W"] - B @ A, R["corda_residual"], **CLOSE)
    again = starts.corda(R["W"], C, RANK, float(R["corda_damping"]))
    torch.testing.assert_close(A.norm(), again[1].norm(), **CLOSE)


def test_lora_null_equals_the_reference() -> None:
    N = starts.unused_directions(C, 1e-10)
    torch.testing.assert_close(N @ N.T, R["null_basis_projector"], **CLOSE)
    B, A = starts.lora_null(R["W"], N, RANK)
    torch.testing.assert_close(B @ A, R["lora_null_BA"], **CLOSE)
    torch.testing.assert_close(A.T @ A, R["lora_null_A_projector"], **CLOSE)


def test_inflora_equals_the_reference() -> None:
    new = R["new_task_inputs"]
    A = starts.inflora(new.T @ new, R["old_basis"], RANK)
    torch.testing.assert_close(3 * A.T @ A, R["inflora_A_projector"], **CLOSE)
    M = starts.kept_directions(
        R["old_basis"] @ torch.diag(torch.tensor([4.0, 2.0, 1.0]).double()) @ R["old_basis"].T, 1.0
    )
    torch.testing.assert_close(M @ M.T, R["old_basis"] @ R["old_basis"].T, **CLOSE)
    assert [starts.kept_directions(torch.diag(torch.tensor([4.0, 3.0, 3.0])), t).shape[1] for t in (0.3, 0.5, 1)] == [
        1,
        2,
        3,
    ]


def test_what_is_refused_of_a_matrix() -> None:
    with pytest.raises(ConfigurationError, match="rank is 7; expected at most 6"):
        starts.milora(R["W"], 7)
    with pytest.raises(ConfigurationError, match="leave 3 of 8 directions unused"):
        starts.lora_null(R["W"], starts.unused_directions(C, 1e-10), 4)
    with pytest.raises(ConfigurationError, match="3 of 8 directions are kept; expected at most 5"):
        starts.inflora(C, R["old_basis"], 6)
    with pytest.raises(NumericsError, match="all 0"):
        starts.corda(R["W"], torch.zeros(8, 8), 2)
    for broken in (C * float("inf"), C * float("nan"), torch.where(torch.eye(8) == 1, C, float("inf"))):
        with pytest.raises(NumericsError, match="not finite"):
            starts.corda(R["W"], broken, 2)
    for damping in (0.0, -1.0, float("inf"), float("nan")):  # whose doubling would never come to an end
        with pytest.raises(ConfigurationError, match=r"damping is .*; expected a finite number > 0"):
            starts.corda(R["W"], C, 2, damping)


peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def writer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(
            n_embd=12, n_layer=2, n_head=2, n_positions=16, vocab_size=20, initializer_range=0.5,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config).double()
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.5,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double()


def adapted(kind: str = "llama", **settings: Any) -> nn.Module:
    targets = ["c_attn", "c_proj"] if kind == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    options = {"r": 2, "lora_alpha": 6, "target_modules": targets, "fan_in_fan_out": kind == "gpt2"} | settings
    return peft.get_peft_model(writer(kind), peft.LoraConfig(**options))


def words(seed: int, rows: int = 4) -> dict[str, Tensor]:
    ids = torch.randint(0, 20, (rows, 9), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids.clone()}


def answers(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=batch["input_ids"]).logits
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("how", ["milora", "corda", "lora-null", "inflora"])
def test_the_model_computes_what_it_did_and_can_learn(how: Any, kind: str) -> None:
    model, plain = adapted(kind), writer(kind)
    own = holdfast.generations(model, 1, samples=4, length=8, generator=torch.Generator().manual_seed(0)).batched(2)
    batches = {"keep": own, "new": [words(2)]}
    needs = {"milora": (), "inflora": ("keep", "new")}.get(how, ("keep",))
    named = start_lora(
        model,
        how,
        objective=CausalLM(per="token"),
        tolerance=1.0,
        threshold=0.5,
        **{name: batches[name] for name in needs},
    )
    assert len(named) == 6
    torch.testing.assert_close(answers(model, words(5)), answers(plain, words(5)), rtol=1e-9, atol=1e-9)
    trained = {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == ({"lora_B"} if how in ("lora-null", "inflora") else {"lora_A", "lora_B"})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    before = model(**words(2)).loss
    for _ in range(10):
        optimizer.zero_grad()
        model(**words(2)).loss.backward()
        optimizer.step()
    assert model(**words(2)).loss < before - 0.05


@pytest.mark.parametrize("how", ["lora-null", "inflora"])
def test_training_changes_nothing_for_what_was_kept(how: Any) -> None:
    """One sentence of four words leaves most of twelve directions unused, in the first layer and in every other."""
    model, kept = adapted(target_modules=["q_proj", "v_proj"]), words(1, rows=1)
    kept = {name: tensor[:, :4] for name, tensor in kept.items()}
    given = {"keep": [kept]} | ({"new": [words(2)]} if how == "inflora" else {})
    start_lora(model, how, objective=CausalLM(per="token"), threshold=1 - 1e-12, tolerance=1e-10, **given)
    before, other = answers(model, kept), answers(model, words(2))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(**words(2)).loss.backward()
        optimizer.step()
    torch.testing.assert_close(answers(model, kept), before, rtol=1e-7, atol=1e-7)
    assert (answers(model, words(2)) - other).abs().max() > 0.1


@pytest.mark.parametrize(
    ("make", "settings", "says"),
    [
        (adapted, {"how": "pissa"}, "how is 'pissa'; expected one of 'milora'"),
        (adapted, {"how": "corda"}, "corda needs keep="),
        (adapted, {"how": "inflora", "keep": [words(1)]}, "inflora needs new="),
        (adapted, {"how": "milora", "damping": 0.0}, "damping is 0.0; expected a finite number > 0"),
        (adapted, {"how": "milora", "tolerance": 1.5}, "tolerance is 1.5; expected a share of energy"),
        (adapted, {"how": "milora", "threshold": float("nan")}, "threshold is nan; expected a share of energy"),
        (adapted, {"how": "milora", "adapter": "other"}, "no LoRA adapter 'other'"),
        (lambda: writer("llama"), {"how": "milora"}, "no LoRA adapter 'default'"),
        (lambda: adapted(use_dora=True), {"how": "milora"}, "does more than add to a weight"),
        (lambda: adapted(target_modules=["embed_tokens"]), {"how": "milora"}, "is no linear layer"),
        (lambda: adapted(r=13, target_modules=["q_proj"]), {"how": "milora"}, "rank is 13; expected at most 12"),
    ],
)
def test_what_is_refused_of_a_model(make: Any, settings: dict[str, Any], says: str) -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigurationError, match=says):
        start_lora(model, **settings)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
