"""Rare classes count more: the reference's numbers, and importances against dense sums over outcomes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast import EWC, MAS, ClassBalanced, Classification, ConfigurationError, DataError, LwF
from holdfast.importance import fisher, mas
from holdfast.objectives import class_balanced_weights

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "weight_balancing.npz")


def reference(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name].copy())


def close(found: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=rtol, atol=1e-12)


def test_weights_loss_and_gradient_are_the_references() -> None:
    counts = reference("counts")
    close(class_balanced_weights(counts, beta=float(reference("beta"))), reference("cb_weights"))
    logits, labels = reference("logits").requires_grad_(), reference("labels")
    losses = ClassBalanced(counts).losses(logits, (None, labels))
    close(losses.mean(), reference("cb_loss"))
    close(torch.autograd.grad(losses.mean(), logits)[0], reference("grad_cb"))
    # What PyTorch's weighted mean is instead.
    weights = reference("cb_weights")
    close(losses.sum() / weights[labels].sum(), reference("cb_loss_torch_weighted_mean"))
    close(F.cross_entropy(logits, labels, weight=weights), reference("cb_loss_torch_weighted_mean"))


def test_the_ends_of_beta() -> None:
    counts = [500, 20, 1]
    assert class_balanced_weights(counts, beta=0).tolist() == [1.0, 1.0, 1.0]
    close(class_balanced_weights(counts, beta=1), class_balanced_weights(counts, beta=1 - 1e-12), rtol=1e-6)
    inverse = 1 / torch.tensor(counts, dtype=torch.float64)
    close(class_balanced_weights(counts, beta=1), 3 * inverse / inverse.sum())
    outputs, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])
    close(
        ClassBalanced(counts, beta=0).losses(outputs, (None, labels)), Classification().losses(outputs, (None, labels))
    )
    assert ClassBalanced(counts).losses(outputs, (None, labels))[3] == 0


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(2)
    return [(torch.randn(6, 5).double(), torch.tensor([1, 3, 2, 3, -100, 1])) for _ in range(2)]


OBJECTIVE = ClassBalanced([40, 3, 10], beta=0.99, classes=(3, 1, 2))
WEIGHTS = dict(zip((3, 1, 2), class_balanced_weights([40, 3, 10], beta=0.99), strict=True))


def dense(kind: str) -> dict[str, Tensor]:
    """One backward pass per sample and outcome."""
    model, number = network(), 0
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in batches():
        for sample, label in zip(x, y.tolist(), strict=True):
            if label == -100:
                continue
            number += 1
            log_p = model(sample)[[3, 1, 2]].log_softmax(0)
            for k, outcome in enumerate((3, 1, 2)):
                share = log_p[k].exp().item() if kind == "exact" else float(outcome == label)
                grads = torch.autograd.grad(log_p[k], list(model.parameters()), retain_graph=True)
                for name, g in zip(found, grads, strict=True):
                    found[name] += share * WEIGHTS[outcome] * g.square()
    return {name: total / number for name, total in found.items()}


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_each_outcome_counts_once_in_a_fisher_information(kind) -> None:
    found = fisher(network(), batches(), objective=OBJECTIVE, kind=kind)
    for name, expected in dense(kind).items():
        close(found[name], expected)


def test_the_sampled_one_tends_to_the_exact_one() -> None:
    many = [(x.repeat(400, 1), y.repeat(400)) for x, y in batches()]
    found = fisher(network(), many, objective=OBJECTIVE, kind="sampled", generator=torch.Generator().manual_seed(0))
    for name, expected in dense("exact").items():
        torch.testing.assert_close(found[name], expected, rtol=0.15, atol=0.02 * float(expected.max()))


def test_batched_is_of_the_loss_that_is_trained_on() -> None:
    model = network()
    found = fisher(model, batches(), objective=OBJECTIVE, kind="batched")
    total = torch.zeros(4, 4).double()
    for batch in batches():
        loss = OBJECTIVE.losses(OBJECTIVE.outputs(model, batch), batch).sum() / 5
        total += torch.autograd.grad(loss, model[2].weight)[0].square()
    close(found["2.weight"], total / 2)


def test_an_output_that_is_closed_has_no_part() -> None:
    outputs = torch.tensor([[0.5, -torch.inf, 2.0]], dtype=torch.float64, requires_grad=True)
    terms = list(ClassBalanced([5, 1, 2]).factors(outputs))
    (gradient,) = torch.autograd.grad(torch.stack(terms).square().sum(), outputs)
    assert bool(gradient.isfinite().all()) and gradient[0, 1] == 0


def test_methods_take_it_and_a_teacher_weighs_nothing() -> None:
    model = network()
    data = batches()
    for keep in (EWC(model, strength=1.0), MAS(model, strength=1.0), LwF(model, strength=1.0)):
        keep.consolidate(data, objective=OBJECTIVE)
    plain = Classification(classes=(3, 1, 2))
    for name, expected in mas(model, data, objective=plain).items():
        close(mas(model, data, objective=OBJECTIVE)[name], expected)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight.mul_(1.5)
    outputs = [objective.select(each(data[0][0])) for objective in (OBJECTIVE, plain) for each in (other, model)]
    distances = [
        objective.distance(*outputs[2 * i : 2 * i + 2], data[0], temperature=2.0, factor=4.0)
        for i, objective in enumerate((OBJECTIVE, plain))
    ]
    close(*distances)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ClassBalanced([5, 0]), ConfigurationError, r"counts is \[5, 0\]; expected a number of samples"),
        (lambda: ClassBalanced([5, 1.5]), ConfigurationError, "counts is"),
        (lambda: ClassBalanced([]), ConfigurationError, "counts is"),
        (lambda: ClassBalanced([5, 2], beta=1.5), ConfigurationError, r"beta is 1\.5"),
        (lambda: ClassBalanced([5, 2], classes=(0, 1, 2)), ConfigurationError, "2 numbers, and classes names 3"),
        (
            lambda: ClassBalanced([5, 2]).losses(torch.zeros(1, 3), (None, torch.tensor([0]))),
            DataError,
            "the outputs have 3 classes, and ClassBalanced has counts of 2",
        ),
    ],
)
def test_what_does_not_go_together_is_named(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
