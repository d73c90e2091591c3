"""Long tails and few shots, run: what records and tables say of each class is what a model answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import metrics
from holdfast.bench import Stream, compare
from holdfast.bench.records import record
from holdfast.errors import ConfigurationError

pytest.importorskip("sklearn", reason="the bench's packages are not installed")


def test_a_long_tail_is_told_by_class(tmp_path: Path) -> None:
    table = compare(
        "longtail-digits", ["finetune", "max-norm"], seeds=1, epochs=1, stream_options={"imbalance": 10}, out=tmp_path
    )
    for one in table.records:
        found = one.by_class
        assert found is not None and found.samples == [[125, 96, 74, 58, 44, 34, 26, 20, 16, 12]]
        assert sum(found.accuracies[0]) / 10 == pytest.approx(metrics.average_accuracy(one.matrix))  # a level test
        assert found.performance_drop is None and set(found.frequencies) == {"many", "medium", "few"}
        assert "--imbalance 10" in one.command
        assert record.load(tmp_path / "records" / record.filename(one.config)).by_class == found
    shown = str(table)
    assert "Many (%)" in shown and "Few (%)" in shown and "PD" not in shown
    assert "Classes by frequency: many: more than 100 training samples, few: fewer than 20." in shown
    report = table.report
    assert report is not None and "Few samples" in report.read_text(encoding="utf-8")


def test_few_shots_are_class_incremental_and_told_by_session() -> None:
    table = compare("fewshot-digits-4-3x5", ["ncm", "joint"], seeds=1, epochs=1)
    ncm, joint = (one.by_class for one in table.records)
    assert ncm is not None and joint is not None
    assert all(one.config.scenario == "class" for one in table.records)
    matrix = table.records[0].matrix
    widths = [4, 3, 3]
    for last, found in enumerate(ncm.sessions):
        seen = list(zip(matrix[last], widths, strict=True))[: last + 1]
        assert found == pytest.approx(sum(a * k for a, k in seen) / sum(k for _, k in seen))
    assert ncm.performance_drop == pytest.approx(ncm.sessions[0] - ncm.sessions[-1])
    assert len(joint.sessions) == 1 and joint.performance_drop is None
    assert "PD (points)" in str(table) and "Last (%)" in str(table)


def test_other_streams_tell_no_classes() -> None:
    (one,) = compare("split-digits", ["finetune"], seeds=1, epochs=1).records
    assert one.by_class is None


def test_options_are_for_named_streams() -> None:
    import torch

    x, y = torch.randn(8, 4), torch.tensor([0, 1] * 4)
    own = Stream.from_tensors([((x, y), (x, y))])
    with pytest.raises(ConfigurationError, match="stream_options is for named streams"):
        compare(own, ["finetune"], stream_options={"imbalance": 2})
