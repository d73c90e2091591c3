"""An audit of two models: every figure against one worked out by hand, for every kind of objective."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast import CausalLM, Classification, ModelLoss, MultiLabel, Regression, Segmentation, TokenClassification
from holdfast.auditing import Audit, as_text, audit, linear_cka, mcnemar, verdict
from holdfast.bench.report.auditing import audit_page
from holdfast.errors import ConfigurationError, DataError, StateError

K = 4


def models(outputs: int = K, spread: float = 0.6) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, outputs)).double()
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return before.train(), after


def data(samples: int = 61) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, K, (samples,), generator=generator)


def batches(x: Tensor, y: Tensor, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """The outputs in evaluation mode, from a copy."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


def test_every_figure_of_a_classifier() -> None:
    before, after = models()
    x, y = data()
    found = audit(before, after, batches(x, y)).data[0]
    p, q = plain(before, x).softmax(1), plain(after, x).softmax(1)
    was, now = p.argmax(1) == y, q.argmax(1) == y
    assert found.samples == found.count == 61 and found.part == "sample"
    assert found.accuracy.before.value == pytest.approx(was.double().mean().item())
    assert found.accuracy.after.value == pytest.approx(now.double().mean().item())
    assert found.negative_flips == int((was & ~now).sum()) > 0
    assert found.positive_flips == int((~was & now).sum()) > 0
    assert found.between_wrong == int((~was & ~now & (p.argmax(1) != q.argmax(1))).sum())
    assert found.mcnemar == mcnemar(found.negative_flips, found.positive_flips)
    assert found.lost == pytest.approx(100 * (was.double() - now.double()).mean().item())
    at = torch.arange(61)
    assert found.loss.before.value == pytest.approx(-p[at, y].log().mean().item())
    assert found.loss.after.value == pytest.approx(-q[at, y].log().mean().item())
    difference = (p[at, y] / q[at, y]).log()
    assert found.loss.difference.half_width == pytest.approx(1.959963984540054 * difference.std().item() / 61**0.5)
    assert found.kl == pytest.approx((p * (p / q).log()).sum(1).mean().item())
    assert found.confidence == pytest.approx((p.amax(1).mean().item(), q.amax(1).mean().item()))
    truth = nn.functional.one_hot(y, K)
    assert found.brier == pytest.approx([(r - truth).square().sum(1).mean().item() for r in (p, q)])
    for side, r in enumerate((p, q)):
        gaps = 0.0
        for k in range(15):
            inside = (r.amax(1) >= k / 15) & (r.amax(1) < (k + 1) / 15)
            gaps += abs((r.amax(1)[inside] - (r.argmax(1) == y)[inside].double()).sum().item())
        assert found.calibration_error[side] == pytest.approx(gaps / 61)
    assert found.perplexity is None


def test_classes_and_the_worst_flips() -> None:
    before, after = models()
    x, y = data()
    names = [f"image {number}.png" for number in range(61)]
    found = audit(before, after, batches(x, y), names=names, classes=["a", "b", "c", "d"]).data[0]
    p, q = plain(before, x).softmax(1), plain(after, x).softmax(1)
    assert [each.change for each in found.classes] == sorted(each.change for each in found.classes)
    for each in found.classes:
        mine = y == each.label
        assert each.count == int(mine.sum()) and each.name == "abcd"[each.label]
        assert each.before == pytest.approx((p.argmax(1) == y)[mine].double().mean().item())
        assert each.after == pytest.approx((q.argmax(1) == y)[mine].double().mean().item())
        assert each.after_interval[0] <= each.after <= each.after_interval[1]
    lost = {n: (p[n, y[n]] - q[n, y[n]]).item() for n in range(61) if p[n].argmax() == y[n] and q[n].argmax() != y[n]}
    order = sorted(lost, key=lambda n: -lost[n])
    assert [flip.sample for flip in found.worst] == [names[n] for n in order[:20]]
    assert found.worst[0].right == "abcd"[int(y[order[0]])] and found.worst[0].now == "abcd"[int(q[order[0]].argmax())]
    risen = (p / q).log()[torch.arange(61), y]
    assert [each.sample for each in found.risen] == [
        names[n] for n in risen.argsort(descending=True)[:20] if risen[n] > 0
    ]


def test_it_does_not_matter_how_the_data_are_cut_and_nothing_is_left_changed() -> None:
    before, after = models()
    x, y = data()
    state, seed = copy.deepcopy(before.state_dict()), torch.random.get_rng_state()
    whole = audit(before, after, [(x, y)])
    parts = audit(before, after, iter(batches(x, y, 7)))
    assert whole.data[0].worst == parts.data[0].worst and whole.data[0].classes == parts.data[0].classes
    assert whole.data[0].kl == pytest.approx(parts.data[0].kl, rel=1e-12)
    assert before.training and after.training
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())


def test_layers() -> None:
    before, after = models()
    x, y = data()
    found = audit(before, after, batches(x, y), similarity_samples=40)
    assert [layer.name for layer in found.layers] == ["0", "3"] and found.similarity_samples == 40
    wanted = linear_cka(plain(before, x[:40]), plain(after, x[:40]), unbiased=True)
    assert found.layers[1].similarity == pytest.approx(wanted, abs=1e-12)
    none = audit(before, after, batches(x, y), similarity_samples=0)
    assert [layer.similarity for layer in none.layers] == [None, None]
    assert [layer.distance for layer in none.layers] == [layer.distance for layer in found.layers]


def test_the_same_model_lost_nothing() -> None:
    before, _ = models()
    x, y = data()
    found = audit(before, copy.deepcopy(before), batches(x, y))
    one = found.data[0]
    assert (one.negative_flips, one.positive_flips, one.mcnemar, one.kl, one.lost) == (0, 0, 1.0, 0.0, 0.0)
    assert not one.worst and not one.risen and not found.exceeding(0.0)
    assert all(layer.distance == 0 and layer.similarity == pytest.approx(1.0) for layer in found.layers)
    assert verdict(one).startswith("The accuracy is the same")


def test_a_head_that_grew_and_labels_that_the_old_one_lacks() -> None:
    before, _ = models(outputs=2)
    _, after = models(outputs=4)
    x, y = data()
    found = audit(before, after, {"old": [(x, y % 2)], "new": [(x, y)]})
    old, new = found.data
    assert old.kl is not None and old.loss is not None
    assert new.loss is None and new.lost is not None  # no probability at all of what it does not know
    assert new.accuracy.before.value == pytest.approx((plain(before, x).argmax(1) == y).double().mean().item())
    assert new.brier[0] > 0
    json.dumps(found.to_dict())


def test_tokens_count_where_they_have_a_label() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 3).double()

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids)

    torch.manual_seed(0)
    before, after = Tagger(), Tagger()
    ids, labels = torch.randint(0, 9, (8, 5)), torch.randint(0, 3, (8, 5))
    labels[:, 3:] = -100
    found = audit(before, after, [(ids, labels)], objective=TokenClassification()).data[0]
    was, now = (plain(model, ids).argmax(-1) == labels for model in (before, after))
    assert (found.part, found.samples, found.count) == ("token", 8, 24)
    assert found.negative_flips == int((was & ~now)[:, :3].sum())
    assert found.mcnemar is None and found.perplexity is None and not found.worst
    assert sum(each.count for each in found.classes) == 24


def language(seed: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).double()


def test_perplexity_is_that_of_the_models_own_loss() -> None:
    before, after = language(0), language(1)
    ids = torch.randint(0, 20, (6, 8), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    labels[0, 5:] = -100
    batch = {"input_ids": ids, "labels": labels}
    found = audit(before, after, [batch]).data[0]
    for side, model in (("before", before), ("after", after)):
        with torch.no_grad():
            wanted = copy.deepcopy(model).eval()(**batch).loss.exp().item()
        assert getattr(found.perplexity, side).value == pytest.approx(wanted, rel=1e-6)  # theirs is in float32
    assert found.objective == "CausalLM" and found.count == 6 * 7 - 3
    assert verdict(found).startswith("The perplexity ")
    assert found.lost == pytest.approx(100 * found.loss.difference.value / found.loss.before.value)
    assert audit(before, after, [batch], objective=CausalLM(per="sequence")).data[0].kl == pytest.approx(found.kl)
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 2), slice(2, 6))]
    assert audit(before, after, halves).data[0].perplexity.after.value == pytest.approx(found.perplexity.after.value)


def test_pixels() -> None:
    torch.manual_seed(0)
    before, after = (nn.Conv2d(1, 3, 1).double() for _ in range(2))
    x, y = torch.randn(3, 1, 4, 4).double(), torch.randint(0, 3, (3, 4, 4))
    y[0, 0] = 255
    found = audit(before, after, [(x, y)], objective=Segmentation(), similarity_samples=0).data[0]
    now = plain(after, x).argmax(1) == y
    assert (found.part, found.count) == ("pixel", 44)
    assert found.accuracy.after.value == pytest.approx((now.sum() / 44).item())


@pytest.mark.parametrize("objective", [Regression(), MultiLabel(), lambda out, batch: (out - batch[1]).abs().sum(1)])
def test_what_is_neither_right_nor_wrong_has_its_loss(objective: object) -> None:
    before, after = models()
    x, _ = data()
    y = torch.randint(0, 2, (61, K)).double()
    found = audit(before, after, batches(x, y), objective=objective).data[0]
    if isinstance(objective, Regression):
        each = [(plain(model, x) - y).square().sum(1) / 2 for model in (before, after)]
    elif isinstance(objective, MultiLabel):
        each = [nn.BCEWithLogitsLoss(reduction="none")(plain(model, x), y).sum(1) for model in (before, after)]
    else:
        each = [(plain(model, x) - y).abs().sum(1) for model in (before, after)]
    assert found.loss.before.value == pytest.approx(each[0].mean().item())
    assert found.loss.after.value == pytest.approx(each[1].mean().item())
    assert found.accuracy is None and found.kl is None and found.negative_flips is None
    assert found.lost == pytest.approx(100 * (each[1].mean() / each[0].mean() - 1).item())
    assert "loss" in verdict(found).lower()


def test_a_models_own_loss() -> None:
    before, after = language(0), language(1)
    ids = torch.randint(0, 20, (4, 8))
    found = audit(before, after, [{"input_ids": ids, "labels": ids}], objective=ModelLoss()).data[0]
    with torch.no_grad():
        wanted = [copy.deepcopy(after).eval()(input_ids=row, labels=row).loss.item() for row in ids[:, None]]
    assert found.loss.after.value == pytest.approx(sum(wanted) / 4)


def test_a_record_is_written_and_read(tmp_path) -> None:
    before, _ = models(outputs=2)
    _, wider = models()
    x, y = data()
    found = audit(before, wider, {"old": batches(x, y % 2), "new": batches(x, y)})
    assert Audit.load(found.save(tmp_path / "audit.json")) == found
    (tmp_path / "other.json").write_text('{"version": 1, "data": 3}')
    with pytest.raises(StateError, match="this is no audit"):
        Audit.load(tmp_path / "other.json")
    with pytest.raises(StateError, match="is no audit"):
        Audit.load(tmp_path / "missing.json")
    with pytest.raises(StateError, match="its version is 99"):
        Audit.from_dict({**found.to_dict(), "version": 99})


def test_a_gate() -> None:
    before, after = models()
    x, _ = data()
    y = plain(before, x).argmax(1)  # so that the model before is always right
    found = audit(before, after, {"old": [(x, y)], "same": [(x, plain(after, x).argmax(1))]})
    assert found.data[0].lost == pytest.approx(100 * found.data[0].negative_flips / 61)
    assert [each.name for each in found.exceeding(1.0)] == ["old"]
    assert found.exceeding(100.0) == []


def test_what_is_shown_escapes_names() -> None:
    before, after = models()
    x, y = data()
    names = ["<script>alert(1)</script>"] * 61
    found = audit(before, after, {"<i>old</i>": [(x, y)]}, names=names, called=("<b>one</b>", "two"))
    page = audit_page(found, command="holdfast audit '<x>'")
    assert "<script>" not in page and "<i>old" not in page and "<b>one" not in page and "<x>" not in page
    assert "What became of every answer" in page and "Worst flips" in page
    shown = as_text(found)
    assert "accuracy (%)" in shown and "layers that moved most" in shown


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"batches": []}, DataError, "old has no sample"),
        ({"batches": {}}, DataError, "batches is empty"),
        ({"names": ["a"]}, DataError, "names of old are 1, but it has 61 samples"),
        (
            {"objective": {"new": Classification()}},
            ConfigurationError,
            "objective is given for new; the data sets are old",
        ),
        ({"similarity_samples": -1}, ConfigurationError, "similarity_samples is -1"),
        ({"objective": TokenClassification()}, DataError, "old: the outputs have shape"),
    ],
)
def test_bad_input(asked: dict, error: type[Exception], words: str) -> None:
    before, after = models()
    x, y = data()
    given = {"batches": [(x, y)], **asked}
    with pytest.raises(error, match=words):
        audit(before, after, given.pop("batches"), **given)


def test_a_copy_is_needed() -> None:
    before, _ = models()
    with pytest.raises(ConfigurationError, match=r"copy\.deepcopy"):
        holdfast.audit(before, before, [])


def test_a_label_that_neither_model_knows() -> None:
    before, after = models()
    x, y = data()
    with pytest.raises(DataError, match="old: "):
        audit(before, after, [(x, y + 2)])
