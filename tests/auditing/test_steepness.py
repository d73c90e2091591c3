"""How steep the loss is around two audited models: against the dense Hessian, in the table and in the report."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from holdfast.auditing import Audit, as_text, audit
from holdfast.bench.report.auditing import audit_page
from tests.auditing.test_audit import batches, data, models


def dense(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a batch's mean loss, and its whole Hessian."""
    model = copy.deepcopy(model).eval()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, named, (x,)), y)

    (g,) = torch.autograd.grad(loss(flat.requires_grad_()), flat)
    return g, hessian(loss, flat.detach())


def test_both_models_are_as_steep_as_their_dense_hessians_say() -> None:
    before, after = models()
    before.requires_grad_(False)  # frozen weights count: it is the model that is asked about
    x, y = data()
    found = audit(before, after, iter(batches(x, y)), hessian=True)
    assert found.hessian_norm is not None
    for model, number in ((before, 0), (after, 1)):
        g, H = dense(model, x[:16], y[:16])
        along = float(g @ H @ g / g.square().sum())
        assert found.hessian_norm["quadratic"][number] == pytest.approx(along, rel=1e-9)
        assert found.hessian_norm["frobenius"][number] == pytest.approx(float(H.norm()), rel=0.35)  # of 16 probes
    assert not any(p.requires_grad for p in before.parameters()) and all(p.requires_grad for p in after.parameters())
    assert all(p.grad is None for p in after.parameters())


def test_it_is_shown_saved_and_asked_for(tmp_path) -> None:
    before, after = models()
    plain = audit(before, after, batches(*data()))
    found = audit(before, after, batches(*data()), hessian=True)
    assert plain.hessian_norm is None and "steep" not in as_text(plain) + audit_page(plain)
    assert plain.data == found.data and plain.layers == found.layers
    old, new = found.hessian_norm["quadratic"]
    assert f"{old:.4g}" in as_text(found) and f"× {new / old:.3g}" in as_text(found)
    assert "How steep the loss is" in audit_page(found) and f"{new:.4g}" in audit_page(found)
    assert Audit.load(found.save(tmp_path / "audit.json")) == found
