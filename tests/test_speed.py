"""The benchmarks run and say what they measured; whether they are fast is for ``make speed`` to say."""

from __future__ import annotations

import json

import pytest
import torch

from holdfast.bench.models import named as models
from holdfast.importance import fisher
from speed import __main__ as command
from speed import page, penalties, plain
from speed.rows import Row, text_table
from speed.timing import Setup, Timings, alternate


def test_the_command_prints_ratios_and_writes_them(tmp_path, capsys):
    file, written = tmp_path / "figures.json", tmp_path / "performance.md"
    names = ("ewc", "anastrophic", "paths", "classp", "dispatcher", "heads", "state")
    asked = [f"--only={name}" for name in names]
    command.main(["--quick", "--device=cpu", *asked, f"--json={file}", f"--page={written}"])
    shown = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["quick"] and found["environment"][0]["torch"] == torch.__version__
    for row in found["rows"]:
        assert row["value"] > 0 or row["bench"] in (
            "dispatcher",
            "paths",
        )  # a difference of two times, which may come out below 0
        assert row["work"] in shown and row["work"] in written.read_text()
    assert {row["bench"] for row in found["rows"]} == set(names)
    sizes = {row["work"]: row["value"] for row in found["rows"] if row["bench"] == "state"}
    assert sorted(sizes.values()) == [6.0, 6.0, 8.0, 8.0]


def test_a_quick_page_says_that_its_figures_mean_nothing():
    row = Row("ewc", "a step", "cpu", "a loop", 9.0, "times faster", 8.0, "more").plain()
    run = {"rows": [row], "environment": [], "cpu_time": False}
    assert "mean nothing" in page.markdown(run | {"quick": True})
    assert "mean nothing" not in page.markdown(run | {"quick": False})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--of=x.json"], "expected --page FILE"),
        (["--of=missing.json", "--page=p.md"], "expected what --json wrote"),
        (["--threads=0"], "--threads is 0; expected at least 1"),
        (["--seconds=nan"], "--seconds is nan; expected a number > 0"),
        (["--device=foo"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(arguments, said, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert said in capsys.readouterr().err


def test_whole_runs_are_measured_against_the_loop_by_hand():
    rows = command.BENCHES["runs"](Setup(torch.device("cpu"), quick=True))
    assert any("finetune" in row.work for row in rows)
    assert all(row.beside_seconds and row.seconds and " training (" in row.note for row in rows)
    assert "random images" in rows[0].note


def test_a_fisher_of_all_classes_is_measured_against_the_loop_by_hand():
    rows = command.BENCHES["competing"](Setup(torch.device("cpu"), quick=True))
    assert [row.target for row in rows] == [1.6, None, None]
    assert all(row.beside_seconds and row.seconds and " consolidating" in row.note for row in rows)


def test_importances_of_sequences_are_measured_against_training():
    rows = command.BENCHES["sequences"](Setup(torch.device("cpu"), quick=True))
    assert len(rows) == 6 and all(row.target == 1.5 and row.beside_seconds and row.seconds for row in rows)


def test_a_ratio_is_the_median_of_those_of_the_rounds():
    timings = Timings({"ours": [1.0, 2.0, 9.0], "plain": [8.0, 2.0, 3.0]})
    assert timings.median("ours") == 2.0 and timings.fastest("ours", "plain") == "ours"
    assert timings.ratio("ours", "plain") == 1.0 and timings.ratio("plain", "ours") == 1.0
    drifting = Timings({"ours": [2.0, 4.0, 80.0, 80.0], "plain": [1.0, 2.0, 40.0, 40.0]})
    assert drifting.ratio("ours", "plain") == 2.0
    assert timings.rounds == 3


def test_every_round_measures_everything_once():
    calls: list[str] = []
    timings = alternate(Setup(torch.device("cpu"), quick=True), {n: lambda n=n: calls.append(n) for n in "abc"})
    assert "".join(calls) == "abc" + "abc" + "bca"  # once to warm up, then two rounds that begin with another
    assert timings.rounds == 2


@pytest.mark.parametrize(("better", "value", "met"), [("more", 8.0, True), ("more", 7.9, False), ("less", 1.2, False)])
def test_a_row_knows_whether_it_met_its_target(better, value, met):
    row = Row("ewc", "a step", "cpu", "a loop", value, "times", 8.0 if better == "more" else 1.0, better)
    assert row.met is met
    assert ("yes" if met else "no") in text_table([row]).splitlines()[2]
    assert page.markdown({"rows": [row.plain()], "environment": [], "cpu_time": False}).count("| no |") == (not met)


def test_the_loop_by_autograd_computes_what_ewc_adds():
    model = models.build("mlp-5", (1, 3, 3), 2, seed=0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = plain.Still(model.parameters())
    keep = penalties.DrawnEWC(model, strength=3.0)
    keep.consolidate([None])
    keep.attach(optimizer)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    optimizer.step()
    mine = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    held = [keep.state[name] for name, _ in model.named_parameters()]
    plain.quadratic_by_autograd(
        list(model.parameters()), [[h["anchor"] for h in held]], [[h["importance"] for h in held]], 3.0
    )
    for p, expected in zip(model.parameters(), mine, strict=True):
        torch.testing.assert_close(p.grad, expected)


@pytest.mark.parametrize("way", [plain.one_by_one, plain.vectorized])
def test_the_other_ways_to_a_fisher_agree(way):
    model = models.build("mlp-5", (1, 3, 3), 2, seed=0)
    batch = (torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0]))
    expected = fisher(model, [batch], kind="empirical")
    for name, total in way(model, batch).items():
        torch.testing.assert_close(total / 4, expected[name])
