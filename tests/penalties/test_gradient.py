"""The fast paths of a quadratic penalty's gradient against the plain twin, and the twin against float64 numbers."""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._dynamo.utils import counters

from holdfast.penalties.gradient import add_quadratic_gradient, add_quadratic_gradient_plainly
from holdfast.pieces import LARGE, PIECE, compiled, flat_alike, pieces, scratch

# Small, large, more than a piece, more than two with a ragged end, and an image kernel for another memory format.
SHAPES = [(3,), (LARGE,), (PIECE + 5,), (2, PIECE + 11), (64, 32, 3, 3)]


def draw(dtype: torch.dtype, seed: int, *, channels_last: bool = False) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    found = [torch.rand(shape, generator=source).to(dtype) for shape in SHAPES]
    if channels_last:
        found[-1] = found[-1].to(memory_format=torch.channels_last)
    return found


@pytest.mark.parametrize("weighted", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_path_is_the_plain_one(dtype, weighted, channels_last):
    params, grads = draw(dtype, 1, channels_last=channels_last), draw(dtype, 2, channels_last=channels_last)
    anchors = draw(torch.promote_types(dtype, torch.float32), 3, channels_last=channels_last)
    importances = None if weighted is None else draw(weighted, 4)  # not channels_last: then the layouts differ
    torch._foreach_add_(grads, 2.0)  # no sum is near zero, where bfloat16 would have no digits to compare
    expected = [g.clone() for g in grads]
    add_quadratic_gradient_plainly(params, expected, anchors, importances, 0.35)
    add_quadratic_gradient(params, grads, anchors, importances, 0.35)
    for g, e in zip(grads, expected, strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("weighted", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.float32, torch.bfloat16)])
def test_every_path_is_the_plain_one_with_a_grad_scale(dtypes, weighted):
    params, grads = (draw(dtype, seed) for dtype, seed in zip(dtypes, (1, 2), strict=True))
    assert max(p.numel() for p in params) >= PIECE
    anchors = draw(torch.float32, 3)
    importances = None if weighted is None else draw(weighted, 4)
    torch._foreach_add_(grads, 8.0)
    scale = torch.tensor(16.0)
    expected = [g.clone() for g in grads]
    add_quadratic_gradient_plainly(params, expected, anchors, importances, 0.35, scale)
    add_quadratic_gradient(params, grads, anchors, importances, 0.35, scale)
    for g, e in zip(grads, expected, strict=True):
        torch.testing.assert_close(g, e)


def test_the_plain_path_is_the_equation():
    params, grads, anchors, importances = (draw(torch.float32, seed)[:1] for seed in range(4))
    expected = [
        g + 2 * 0.35 * 8.0 * f * (p - a)
        for p, g, a, f in zip(*(t[0].tolist() for t in (params, grads, anchors, importances)), strict=True)
    ]
    add_quadratic_gradient_plainly(params, grads, anchors, importances, 0.35, torch.tensor(8.0))
    torch.testing.assert_close(grads[0], torch.tensor(expected))


def test_large_weights_in_pieces_leave_everything_but_the_gradient_alone():
    params, grads, anchors, importances = (draw(torch.float32, seed) for seed in range(4))
    before = [t.clone() for t in itertools.chain(params, anchors, importances)]
    add_quadratic_gradient(params, grads, anchors, importances, 1.0)
    assert all(map(torch.equal, itertools.chain(params, anchors, importances), before))


def test_pieces_cover_every_entry_once():
    left, right = torch.zeros(2, PIECE + 11), torch.arange(2.0 * (PIECE + 11)).view(2, -1)
    sizes = []
    for l_part, r_part in pieces(left, right):
        l_part.add_(r_part)
        sizes.append(l_part.numel())
    assert torch.equal(left, right)
    assert len(sizes) == 2 and max(sizes) - min(sizes) <= 2


def test_pieces_are_at_most_half_as_long_again(monkeypatch):
    monkeypatch.setattr("holdfast.pieces.PIECE", 8)
    for entries in range(1, 100):
        sizes = [part.numel() for (part,) in pieces(torch.zeros(entries))]
        assert sum(sizes) == entries and max(sizes) <= 12


def test_scratch_is_the_same_memory_in_a_thread_and_other_memory_in_another():
    here, again, beside = scratch(7, torch.float32), scratch(5, torch.float32), scratch(7, torch.float32, 1)
    assert here.data_ptr() == again.data_ptr() != beside.data_ptr()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: scratch(7, torch.float32).data_ptr()).result() != here.data_ptr()


def test_a_growing_list_of_weights_is_compiled_each_time(monkeypatch):
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="eager"))
    before = counters["stats"]["unique_graphs"]
    update = compiled(lambda tensors: [t.add_(1) for t in tensors] and None, dynamic=False)
    for count in range(1, 12):  # PyTorch's own limit is 8
        update([torch.zeros(3) for _ in range(count)])
    assert counters["stats"]["unique_graphs"] == before + 11


def test_scratch_first_used_in_inference_mode_serves_afterwards():
    entries = PIECE + 7

    def add() -> tuple[torch.Tensor, torch.Tensor]:
        p, g, a, w = (torch.rand(entries) for _ in range(4))
        expected = g + w * (p - a)
        add_quadratic_gradient([p], [g], [a], [w], 0.5)
        return g, expected

    def both() -> None:
        with torch.inference_mode():
            torch.testing.assert_close(*add())
        torch.testing.assert_close(*add())

    with ThreadPoolExecutor(1) as pool:  # where nobody has been given any yet
        pool.submit(both).result()


def test_only_tensors_of_one_dense_layout_are_walked():
    a, b = torch.zeros(4, 6), torch.zeros(4, 6)
    assert flat_alike(a, torch.nn.Parameter(b))
    assert not flat_alike(a, torch.zeros(6, 4).t())
    assert not flat_alike(torch.zeros(4, 12)[:, ::2], torch.zeros(4, 12)[:, ::2])
    image = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert flat_alike(image, image.clone()) and not flat_alike(image, torch.zeros(2, 3, 4, 5))
