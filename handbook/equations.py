"""Equations as MathML, which browsers draw themselves: no script, no font from elsewhere."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

__all__ = ["to_mathml"]

_MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)

# A closing bracket or bar with an exponent or index: to stretch it alone would take it off the line of the opening one.
_RAISED = re.compile(r"<(msup|msub|msubsup)><mo>([^<]*)</mo>")


def to_mathml(page: str) -> str:
    """A page's HTML with MathML in place of what ``pymdownx.arithmatex`` has marked as TeX."""
    return _MARKED.sub(_drawn, page)


def _drawn(found: re.Match[str]) -> str:
    tex = " ".join(html.unescape(found["tex"]).split())
    display = found["open"] == "["
    drawn: str = convert(_plain(tex), display="block" if display else "inline")
    drawn = _RAISED.sub(r'<\1><mo stretchy="false">\2</mo>', drawn)
    if unknown := re.findall(r"\\\w+", drawn):
        raise PluginError(f"the equation {tex} has {', '.join(unknown)}, which cannot be drawn")
    # A long line scrolls by itself instead of making the page wider than the screen.
    return f'<div class="equation">{drawn}</div>' if display else drawn


def _plain(tex: str) -> str:
    """TeX in the words that the converter knows: brackets that fit, braces around single digits of fractions."""
    left, right = r"\\[Bb]igg?l(?![A-Za-z])", r"\\[Bb]igg?r(?![A-Za-z])"
    if len(re.findall(left, tex)) == len(re.findall(right, tex)):
        tex = re.sub(right, r"\\right", re.sub(left, r"\\left", tex))
    tex = re.sub(r"\\([Bb]igg?)([lrm]?)(?![A-Za-z])", "", tex)
    tex = re.sub(r"\\arg(?![A-Za-z])", r"\\operatorname{arg}", tex)
    return re.sub(r"\\([dt]?)frac(\d)(\d)", r"\\\1frac{\2}{\3}", tex)
