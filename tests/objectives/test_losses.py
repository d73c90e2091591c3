"""Objectives against written-out formulas and dense autograd, in float64."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, localcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast import CausalLM, Classification, ConfigurationError, DataError, MultiLabel, Regression
from holdfast.objectives import Loss, as_objective, count, draw

B, K = 5, 4


def _outputs(seed: int = 0) -> torch.Tensor:
    draw_ = torch.Generator().manual_seed(seed)
    return torch.randn(B, K, generator=draw_, dtype=torch.float64, requires_grad=True)


def test_classification_is_cross_entropy_per_sample():
    outputs, y = _outputs(), torch.tensor([0, 3, 1, 2, 0])
    p = outputs.exp() / outputs.exp().sum(1, keepdim=True)
    expected = torch.stack([-p[i, y[i]].log() for i in range(B)])
    torch.testing.assert_close(Classification().losses(outputs, (None, y)), expected)


def test_columns_and_targets_of_a_subset_of_classes():
    outputs = _outputs()
    objective = Classification(classes=(3, 1))
    chosen = objective.select(outputs)
    torch.testing.assert_close(chosen, outputs[:, [3, 1]])
    got = objective.losses(chosen, (None, torch.tensor([1, 3, 3, 1, 1])))
    torch.testing.assert_close(got, F.cross_entropy(chosen, torch.tensor([1, 0, 0, 1, 1]), reduction="none"))


def test_heads_of_a_list_and_of_a_dict():
    raw = [_outputs(0), _outputs(1)]
    assert Classification(head=1).select(raw) is raw[1]
    assert Classification(head="b").select({"a": raw[0], "b": raw[1]}) is raw[1]


def test_dict_batches_and_logits():
    class Output(nn.Module):
        def forward(self, values, shift):
            return type("Out", (), {"logits": values + shift})()

    batch = {"values": torch.ones(2, 3), "shift": 1.0, "labels": torch.tensor([0, 1])}
    assert torch.equal(Classification().outputs(Output(), batch), torch.full((2, 3), 2.0))


def _dense_fisher(objective, kind: str) -> torch.Tensor:
    """The expectation over targets, one by one, of the squared gradient of the outputs."""
    outputs = _outputs()
    total = torch.zeros(B, K, dtype=torch.float64)
    if kind == "classes":
        p = outputs.detach().softmax(1)
        for y in range(K):
            targets = torch.full((B,), y)
            (g,) = torch.autograd.grad(objective.losses(outputs, (None, targets)).sum(), outputs, retain_graph=True)
            total += p[:, y : y + 1] * g.square()
        return total
    # independent labels: the expectation of (sigma - y)^2
    p = outputs.detach().sigmoid()
    return p * (1 - p).square() + (1 - p) * p.square()


def _factor_fisher(objective) -> torch.Tensor:
    outputs = _outputs()
    total = torch.zeros(B, K, dtype=torch.float64)
    for term in objective.factors(outputs):
        assert term.shape == (B,)
        (g,) = torch.autograd.grad(term.sum(), outputs, retain_graph=True)
        total += g.square()
    return total


def test_factors_of_classification_make_the_exact_fisher():
    torch.testing.assert_close(_factor_fisher(Classification()), _dense_fisher(Classification(), "classes"))


def test_classification_has_a_factor_less_than_classes_and_a_closed_output_has_no_part_in_them():
    outputs = torch.tensor([[0.5, -torch.inf, 2.0], [60.0, 0.0, -60.0]], requires_grad=True)
    terms = list(Classification().factors(outputs))
    assert len(terms) == 2
    total = torch.zeros(2, 3)
    for term in terms:
        (g,) = torch.autograd.grad(term.sum(), outputs, retain_graph=True)
        total += g.square()
    sure = torch.tensor([60.0, 0.0, -60.0], dtype=torch.float64).softmax(0)
    dense = torch.stack([sure[0] * (sure[1] + sure[2]), sure[1] * (sure[0] + sure[2]), sure[2] * (sure[0] + sure[1])])
    open_ = torch.tensor([0.5, 2.0]).softmax(0).prod()
    torch.testing.assert_close(total[0], torch.stack([open_, torch.zeros(()), open_]))
    torch.testing.assert_close(total[1], dense.float(), atol=0.0, rtol=1e-5)


@pytest.mark.parametrize(
    "logits", [[0.0, 40.0, -30.0], [40.0, 0.0, -30.0], [80.0, -5.0, -6.0, -7.0], [-60.0, 0.0, 30.0]]
)
def test_factors_stay_accurate_where_the_model_is_all_but_sure(logits):
    """In float32 they are those of the textbook's Cholesky decomposition in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        exps = [Decimal(z).exp() for z in logits]
        p = [e / sum(exps) for e in exps]
        n = len(p)
        fisher = [[(p[i] if i == j else 0) - p[i] * p[j] for j in range(n)] for i in range(n)]
        truth = [[Decimal(0)] * n for _ in range(n)]
        for k in range(n - 1):
            truth[k][k] = (fisher[k][k] - sum(truth[k][m] ** 2 for m in range(k))).sqrt()
            for j in range(k + 1, n):
                truth[j][k] = (fisher[j][k] - sum(truth[j][m] * truth[k][m] for m in range(k))) / truth[k][k]
    outputs = torch.tensor([logits], requires_grad=True)
    for k, term in enumerate(Classification().factors(outputs)):
        (column,) = torch.autograd.grad(term.sum(), outputs, retain_graph=True)
        expected = torch.tensor([[float(truth[j][k]) for j in range(n)]], dtype=torch.float64)
        torch.testing.assert_close(column.double(), expected, rtol=1e-5, atol=0)


def test_factors_of_multilabel_make_the_exact_fisher():
    torch.testing.assert_close(_factor_fisher(MultiLabel()), _dense_fisher(MultiLabel(), "labels"))


def test_factors_of_regression_make_the_identity():
    torch.testing.assert_close(_factor_fisher(Regression()), torch.ones(B, K, dtype=torch.float64))


def test_sampled_targets_follow_the_model():
    outputs = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64).repeat(20000, 1)
    _, y = Classification(classes=(4, 5, 6)).sample(outputs, torch.Generator().manual_seed(0))
    shares = torch.stack([(y == k).double().mean() for k in (4, 5, 6)])
    torch.testing.assert_close(shares, outputs[0].softmax(0), atol=0.015, rtol=0)


def test_sampling_uses_the_generator_only():
    state = torch.get_rng_state()
    a = Classification().sample(_outputs(), torch.Generator().manual_seed(1))[1]
    b = Classification().sample(_outputs(), torch.Generator().manual_seed(1))[1]
    assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())


def test_regression_and_multilabel_losses():
    outputs = _outputs()
    y = torch.randn(B, K, dtype=torch.float64)
    torch.testing.assert_close(Regression().losses(outputs, (None, y)), 0.5 * ((outputs - y) ** 2).sum(1))
    labels = (y > 0).double()
    p = outputs.sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum(1)
    torch.testing.assert_close(MultiLabel().losses(outputs, (None, labels)), expected)


def test_language_per_token_and_per_sequence():
    logits = torch.randn(2, 4, 7, dtype=torch.float64)
    labels = torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])
    per_token = CausalLM(per="token").losses(logits, {"labels": labels})
    log_p = logits.log_softmax(-1)
    assert per_token.shape == (2, 3)
    torch.testing.assert_close(per_token[0, 1], -log_p[0, 1, 3])
    assert per_token[1, 1:].tolist() == [0.0, 0.0]
    torch.testing.assert_close(CausalLM(per="sequence").losses(logits, {"labels": labels}), per_token.sum(1))
    assert count(CausalLM(per="token"), {"labels": labels}) == 4
    assert count(CausalLM(per="sequence"), {"labels": labels}) == 2


def test_sampled_language_leaves_padding_out():
    logits = torch.randn(2, 4, 7, dtype=torch.float64)
    labels = torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])
    objective = CausalLM(per="token")
    sampled = draw(objective, logits, {"labels": labels}, torch.Generator().manual_seed(0))
    assert objective.losses(logits, sampled)[1, 1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("objective", "batch", "names"),
    [
        (Classification(), (None, torch.zeros(B)), "Regression"),
        (Classification(classes=(0, 1)), (None, torch.full((B,), 3)), "3"),
        (Regression(), (None, torch.zeros(B)), "Regression"),
        (MultiLabel(), (None, torch.zeros(B)), "MultiLabel"),
        (Classification(), torch.zeros(B), "pair"),
        (Classification(), {"x": torch.zeros(B)}, "labels"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error_that_says_what_would(objective, batch, names):
    outputs = _outputs()[:, :2] if getattr(objective, "classes", None) else _outputs()
    with pytest.raises(DataError, match=names):
        objective.losses(outputs, batch)


def test_a_bare_callable_knows_losses_only():
    objective = as_objective(lambda outputs, batch: outputs.sum(1))
    assert isinstance(objective, Loss)
    torch.testing.assert_close(objective.losses(_outputs(), None), _outputs().sum(1))
    with pytest.raises(ConfigurationError, match="empirical"):
        objective.sample(_outputs(), None)
    with pytest.raises(ConfigurationError, match="empirical"):
        objective.factors(_outputs())


def test_a_mean_instead_of_one_loss_per_sample_is_refused():
    with pytest.raises(DataError, match="per sample"):
        as_objective(lambda outputs, batch: outputs.mean()).losses(_outputs(), None)


def test_wrong_arguments():
    with pytest.raises(ConfigurationError, match="per"):
        CausalLM(per="word")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ConfigurationError, match="twice"):
        Classification(classes=(1, 1))
    with pytest.raises(ConfigurationError, match="objective"):
        as_objective(3)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ConfigurationError, match="sampled"):
        CausalLM(per="token").factors(_outputs())


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 5, 3)], ids=str)
def test_a_class_without_a_rival_is_refused(shape):
    """Its softmax is 1 whatever the weights: every importance would be 0."""
    objective, outputs = Classification(), torch.randn(shape)
    batch = (None, torch.zeros(8, dtype=torch.long))
    for use in (
        lambda: objective.losses(outputs, batch),
        lambda: next(objective.factors(outputs)),
        lambda: objective.sample(outputs, None),
    ):
        with pytest.raises(DataError, match="at least two classes"):
            use()


def test_a_target_without_an_output_is_refused():
    outputs = torch.zeros(2, 3)
    for wrong in (3, -1):
        with pytest.raises(DataError, match=f"target {wrong} is not among the model's 3 outputs"):
            Classification().losses(outputs, (None, torch.tensor([0, wrong])))
    assert float(Classification().losses(outputs, (None, torch.tensor([0, -100])))[1]) == 0  # PyTorch's "no loss here"


@pytest.mark.parametrize("classes", [(), (1, 1), (-1,), (0.5, 1), ("a",), 5], ids=str)
def test_columns_that_are_none_are_refused(classes):
    with pytest.raises(ConfigurationError, match="classes is"):
        Classification(classes=classes)


@pytest.mark.parametrize("objective", [Regression(), MultiLabel()], ids=["regression", "multilabel"])
def test_outputs_without_a_second_axis_are_as_one_output(objective):
    outputs = torch.randn(6, generator=torch.Generator().manual_seed(0))
    targets = (outputs > 0).float()
    flat, column = (outputs, targets), (outputs[:, None], targets[:, None])
    torch.testing.assert_close(
        objective.losses(flat[0], (None, flat[1])), objective.losses(column[0], (None, column[1]))
    )
    for left, right in zip(objective.factors(flat[0]), objective.factors(column[0]), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("wrong", [Classification, nn.CrossEntropyLoss(), 3], ids=["class", "loss", "number"])
def test_what_is_no_objective_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="objective is"):
        as_objective(wrong)


def test_a_callable_that_returns_no_tensor_is_refused():
    with pytest.raises(DataError, match="returned a float"):
        Loss(lambda outputs, batch: 1.0).losses(torch.zeros(2, 3), (None, None))
    with pytest.raises(ConfigurationError, match="forward is 3"):
        Classification(forward=3)


def test_the_table_of_columns_is_made_once_and_leaves_no_trace(monkeypatch):
    objective, outputs = Classification(classes=(3, 1)), _outputs()
    batch = (None, torch.tensor([1, 3, 3, 1, 1]))
    before = repr(objective)

    def use(which: Classification = objective) -> torch.Tensor:
        return which.losses(which.select(outputs), batch)

    with torch.inference_mode():
        use()
    expected = use()
    expected.sum().backward()  # a table from inference mode would be refused here
    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", lambda *a, **k: pytest.fail("made again"))
        assert torch.equal(use(), expected)
    assert repr(objective) == before
    for twin in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert not twin._tables
        assert torch.equal(use(twin), expected)
    with ThreadPoolExecutor(4) as pool:
        fresh = Classification(classes=(3, 1))
        assert all(torch.equal(found, expected) for found in pool.map(use, [fresh] * 50))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.functionalize], ids=["grad", "functionalize"])
def test_a_table_made_within_a_transformation_does_not_outlive_it(transform):
    objective, outputs = Classification(classes=(3, 1)), _outputs().detach()
    transform(lambda rows: objective.select(rows).sum())(outputs)
    assert not objective._tables
    assert torch.equal(objective.select(outputs), outputs[:, [3, 1]])
