"""The picture in the README is of the demo's records."""

from __future__ import annotations

from tests.bench.report import picture


def test_the_picture_is_of_the_demos_records() -> None:
    assert list(picture.remarks(picture.PICTURE.read_bytes())) == [picture.digest()], (
        "take it anew: python -m tests.bench.report.picture"
    )


def test_a_remark_is_read_as_it_was_written() -> None:
    png = picture.PICTURE.read_bytes()
    assert list(picture.remarks(picture.marked(png, "other records"))) == [*picture.remarks(png), "other records"]
