"""LwF against plain loops in float64, and each of its promises."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.distillation.lwf import LwF
from holdfast.errors import ConfigurationError, ProtectionError, StateError
from holdfast.objectives import CausalLM, Classification, Loss, MultiLabel, Regression


class Heads(nn.Module):
    """A small net with dropout, BatchNorm and several heads, which counts its forward passes."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
        self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(heads))
        self.calls = 0

    def forward(self, x: Tensor) -> list[Tensor]:
        self.calls += 1
        h = self.body(x)
        return [head(h) for head in self.heads]


def heads(number: int = 2, seed: int = 0) -> Heads:
    torch.manual_seed(seed)
    return Heads(number).double()


def linear(outputs: int = 4) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, outputs).double()


def batch(size: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, 5, generator=g, dtype=torch.float64), torch.randint(3, (size,), generator=g)


def plain_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Mean over samples of KL(teacher || student), one number at a time."""
    total = 0.0
    for f, g in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(v / temperature) for v in f]
        q = [math.exp(v / temperature) for v in g]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return total / len(student)


def move(model: nn.Module, amount: float = 0.3) -> None:
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(amount * torch.randn(p.shape, generator=g, dtype=p.dtype))


def train(model: nn.Module, keep: LwF, optimizer: torch.optim.Optimizer, head: int, steps: int, seed: int = 5) -> None:
    for step in range(steps):
        x, y = batch(seed=seed + step)
        raw = model(x)
        optimizer.zero_grad()
        (F.cross_entropy(raw[head], y) + keep.penalty((x, y), raw)).backward()
        optimizer.step()


@pytest.mark.parametrize(("variant", "factor"), [("paper", 9.0), ("released", 1.0)])
def test_value_and_gradient_equal_a_plain_loop(variant: str, factor: float) -> None:
    model = linear()
    keep = LwF(model, strength=0.7, temperature=3.0, variant=variant)
    old = copy.deepcopy(model)
    keep.consolidate()
    move(model)
    x, y = batch()
    raw = model(x)
    value = keep.penalty((x, y), raw)
    assert value.item() == pytest.approx(0.7 * factor * plain_kl(raw, old(x), 3.0), rel=1e-12)
    value.backward()
    # The gradient of T²·KL with respect to a logit is T·(p − q).
    p, q = (raw / 3).softmax(1).detach(), (old(x) / 3).softmax(1).detach()
    expected = 0.7 * factor / 3 * (p - q).T @ x / len(x)
    torch.testing.assert_close(model.weight.grad, expected, rtol=1e-12, atol=1e-15)


def test_only_the_student_gets_a_gradient_and_the_teacher_never_moves() -> None:
    model = heads()
    keep = LwF(model, strength=1.0, objective=Classification(head=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    keep.attach(optimizer)
    train(model, keep, optimizer, 0, 2)
    keep.consolidate()
    before = {name: t.clone() for name, t in keep.buffers.items()}
    train(model, keep, optimizer, 1, 3)
    assert "teacher.body.1.running_mean" in before
    for name, tensor in keep.buffers.items():
        assert torch.equal(tensor, before[name]) and not tensor.requires_grad, name
    assert not torch.equal(model.body[0].weight, before["teacher.body.0.weight"])


def test_teacher_answers_in_eval_mode_and_draws_nothing() -> None:
    model = heads().train()
    keep = LwF(model, strength=1.0, objective=Classification(head=1))
    keep.consolidate()
    assert model.training
    x, y = batch()
    raw = model(x)
    state = torch.get_rng_state()
    value = keep.penalty((x, y), raw)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        old = copy.deepcopy(model)
        old.load_state_dict({n.removeprefix("teacher."): t for n, t in keep.buffers.items()})
        expected = 4 * plain_kl(raw[1], old.eval()(x)[1], 2.0)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_one_forward_pass_of_student_and_teacher_for_all_old_heads() -> None:
    model = heads(3)
    keep = LwF(model, strength=1.0)
    for head in range(2):
        keep.consolidate(objective=Classification(head=head))
        keep.meta["steps"] = 1
    assert [o.head for o in keep.objectives] == [0, 1]
    move(model)
    x, y = batch()
    raw = model(x)
    model.calls, keep._teacher.calls = 0, 0
    value = keep.penalty((x, y), raw)
    assert (model.calls, keep._teacher.calls) == (0, 1)
    model.eval()
    again = keep.penalty((x, y), None)
    assert (model.calls, keep._teacher.calls) == (1, 2)
    assert value.item() != again.item()  # dropout: the outputs given were used, not new ones
    old, new = keep._teacher(x), model(x)
    assert again.item() == pytest.approx(sum(4 * plain_kl(new[k], old[k], 2.0) for k in range(2)), rel=1e-12)


def test_covered_objectives_are_distilled_once() -> None:
    model = linear(6)

    def kept(*objectives: Classification) -> list[tuple[int, ...] | None]:
        keep = LwF(model, strength=1.0)
        for objective in objectives:
            keep.consolidate(objective=objective)
            keep.meta["steps"] = 1
        return [o.classes for o in keep.objectives]

    assert kept(Classification(), Classification()) == [None]
    assert kept(Classification((0, 1)), Classification((0, 1, 2, 3))) == [(0, 1, 2, 3)]
    assert kept(Classification((0, 1, 2)), Classification((2, 0))) == [(0, 1, 2)]
    assert kept(Classification((0, 1)), Classification()) == [None]
    assert kept(Classification((0, 1)), Classification((2, 3))) == [(0, 1), (2, 3)]


def test_other_objectives_equal_plain_formulas() -> None:
    model = linear(3)
    old = copy.deepcopy(model)
    x, _ = batch()
    y = torch.randn(4, 3, dtype=torch.float64)
    values = {}
    keeps = {kind: LwF(model, strength=0.5, objective=kind()) for kind in (Regression, MultiLabel)}
    for keep in keeps.values():
        keep.consolidate()
    move(model)
    for kind, keep in keeps.items():
        values[kind] = keep.penalty((x, y), model(x)).item()
    f, g = model(x).detach(), old(x).detach()
    squares = sum(v * v for v in (f - g).flatten().tolist())
    assert values[Regression] == pytest.approx(0.5 * 0.5 * squares / 4, rel=1e-12)
    total = 0.0
    for a, b in zip(f.flatten().tolist(), g.flatten().tolist(), strict=True):
        p, q = 1 / (1 + math.exp(-a / 2)), 1 / (1 + math.exp(-b / 2))
        total += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert values[MultiLabel] == pytest.approx(0.5 * 4 * total / 4, rel=1e-12)


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_language_leaves_padding_out(per: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).double()
    old = copy.deepcopy(model)
    keep = LwF(model, strength=1.0, objective=CausalLM(per=per))
    keep.consolidate()
    move(model)
    words = torch.tensor([[0, 1, 2, 3], [4, 3, 0, 0]])
    labels = torch.tensor([[0, 1, 2, 3], [4, 3, -100, -100]])
    rows = [(0, 0), (0, 1), (0, 2), (1, 0)]  # where the next token has a label
    f, g = model(words).detach(), old(words).detach()
    total = 4 * sum(plain_kl(f[i, t][None], g[i, t][None], 2.0) for i, t in rows)
    expected = total / 4  # whatever a sample is: a strength must not depend on length
    assert keep.penalty((words, labels), model(words)).item() == pytest.approx(expected, rel=1e-12)


def test_an_objective_of_ones_own() -> None:
    class Cosine(Regression):
        def distill(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
            return 1 - F.cosine_similarity(student, teacher)

    model = linear()
    old = copy.deepcopy(model)
    keep = LwF(model, strength=2.0, objective=Cosine())
    keep.consolidate()
    move(model)
    x, y = batch()
    expected = 2 * (1 - F.cosine_similarity(model(x), old(x))).mean()
    torch.testing.assert_close(keep.penalty((x, y), model(x)), expected)
    fresh = LwF(model, strength=2.0)
    with pytest.raises(StateError, match="1 objectives that cannot be saved \\(Cosine\\)"):
        fresh.load_state_dict(keep.state_dict())
    assert fresh.num_tasks == 0 and not fresh.buffers
    fresh.load_state_dict(keep.state_dict(), objectives=[Cosine()])
    torch.testing.assert_close(fresh.penalty((x, y), model(x)), expected)


def test_refusals_name_what_is_wrong() -> None:
    model = linear()
    with pytest.raises(ConfigurationError, match="strength is -1"):
        LwF(model, strength=-1)
    with pytest.raises(ConfigurationError, match="temperature is 0"):
        LwF(model, strength=1, temperature=0)
    with pytest.raises(ConfigurationError, match="variant is 'x'"):
        LwF(model, strength=1, variant="x")
    keep = LwF(model, strength=1, objective=Loss(lambda outputs, batch: outputs.sum(1)))
    with pytest.raises(ConfigurationError, match="cannot compare the outputs of Loss"):
        keep.consolidate()
    assert keep.num_tasks == 0 and not keep.buffers


def test_a_protected_step_without_penalty_is_refused() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = LwF(model, strength=1.0).attach(optimizer)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    keep.consolidate()
    with pytest.raises(ProtectionError, match="no penalty"):
        optimizer.step()


def test_no_op_before_the_first_consolidate() -> None:
    finals = []
    for protect in (False, True):
        model = heads()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        keep = LwF(model, strength=5.0)
        if protect:
            keep.attach(optimizer)
        torch.manual_seed(3)
        for step in range(3):
            x, y = batch(seed=step)
            raw = model(x)
            loss = F.cross_entropy(raw[0], y)
            optimizer.zero_grad()
            (loss + keep.penalty((x, y), raw) if protect else loss).backward()
            optimizer.step()
        finals.append(model.state_dict())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def test_save_and_load_in_mid_task_continues_bit_identically() -> None:
    model = heads()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    keep = LwF(model, strength=1.0).attach(optimizer)
    train(model, keep, optimizer, 0, 2)
    keep.consolidate(objective=Classification(head=0))
    train(model, keep, optimizer, 1, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), keep.state_dict()))
    torch.manual_seed(11)
    train(model, keep, optimizer, 1, 2, seed=50)
    other = heads(seed=9)
    other.load_state_dict(saved[0])
    again = torch.optim.Adam(other.parameters(), lr=0.02)
    again.load_state_dict(saved[1])
    resumed = LwF(other, strength=1.0)
    resumed.load_state_dict(saved[2])
    resumed.attach(again)
    torch.manual_seed(11)
    train(other, resumed, again, 1, 2, seed=50)
    mine, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not torch.equal(mine["heads.1.weight"], saved[0]["heads.1.weight"])


def test_loads_after_a_new_head_and_a_wider_one() -> None:
    model = heads(1)
    keep = LwF(model, strength=1.0, objective=Classification(head=0))
    keep.consolidate()
    saved = keep.state_dict()
    x, y = batch()
    old = [t.detach() for t in copy.deepcopy(model).eval()(x)]
    grown = heads(2, seed=4)
    grown.heads[0] = nn.Linear(6, 5).double()
    resumed = LwF(grown, strength=1.0)
    resumed.load_state_dict(saved)
    raw = grown(x)
    expected = 4 * plain_kl(raw[0][:, :3].detach(), old[0], 2.0)
    assert resumed.penalty((x, y), raw).item() == pytest.approx(expected, rel=1e-12)


def test_a_plain_state_loads_into_wrapped_models() -> None:
    model = linear()
    keep = LwF(model, strength=1.0)
    keep.consolidate()
    saved = keep.state_dict()
    x, y = batch()
    for wrap in (nn.DataParallel, lambda m: torch.compile(m, backend="eager")):
        other = linear()
        move(other)
        wrapped = LwF(wrap(other), strength=1.0)
        wrapped.load_state_dict(saved)
        assert set(wrapped.buffers) == {"teacher.weight", "teacher.bias"}
        expected = 4 * plain_kl(other(x).detach(), model(x).detach(), 2.0)
        assert wrapped.penalty((x, y), other(x)).item() == pytest.approx(expected, rel=1e-12)


def test_a_state_of_another_model_is_refused() -> None:
    keep = LwF(heads(), strength=1.0)
    keep.consolidate(objective=Classification(head=0))
    with pytest.raises(StateError, match=r"the model has no 'body\.0\.weight'"):
        LwF(linear(), strength=1.0).load_state_dict(keep.state_dict())


def test_bfloat16_weights() -> None:
    model = linear().bfloat16()
    keep = LwF(model, strength=1.0)
    keep.consolidate()
    move(model)
    x, y = batch()
    value = keep.penalty((x.bfloat16(), y), model(x.bfloat16()))
    assert value.dtype == torch.float32 and value.item() > 0
    value.backward()
    assert model.weight.grad.dtype == torch.bfloat16 and bool(model.weight.grad.any())
