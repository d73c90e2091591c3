"""The site's reference: each keyword with what it does and its default; methods lead to it; equations stand in line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the bench's packages are not installed")
pytest.importorskip("griffe", reason="what builds the site is not installed")

from handbook import reference
from handbook.docstrings import left_out, spelled_out

DOCS = Path(__file__).parent.parent / "docs"


def test_the_further_keywords_of_penalties_are_spelled_out() -> None:
    said = spelled_out("Args:\n    model: m.\n    **options: also these:\n        see there.\n\nRaises:\n    E: if.")
    assert "**options" not in said and "see there" not in said and said.endswith("\n\nRaises:\n    E: if.")
    for name in ("importance_dtype", "state_device", "fused"):
        assert re.search(rf"^    {name}: \S.{{20}}", said, re.MULTILINE)
    assert left_out() == {
        "importance_dtype": None, "state_device": None, "fused": False,
        "coupling": "gradient", "select": None, "objective": None,
    }  # fmt: skip


def test_every_method_of_the_library_leads_to_its_reference() -> None:
    places = {path.stem: reference.of_method(f"methods/{path.name}") for path in (DOCS / "methods").glob("*.md")}
    assert {name for name, place in places.items() if not place} == {"adagrad", "finetune", "index", "joint"}
    assert places["ewc"].strip() == "**Reference.** [`holdfast.EWC`](../reference/penalties.md#holdfast.EWC)"
    assert reference.of_method("guide/ewc.md") == ""


def test_the_bars_of_a_norm_stand_in_line_where_it_has_an_exponent_or_an_index() -> None:
    pytest.importorskip("latex2mathml")
    from handbook.equations import to_mathml

    for end, tag in (("^2", "msup"), ("_2", "msub"), ("_2^2", "msubsup")):
        drawn = to_mathml(rf'<span class="arithmatex">\(\lVert x \rVert{end}\)</span>')
        assert drawn.count(f'<{tag}><mo stretchy="false">&#x02016;</mo>') == 1
