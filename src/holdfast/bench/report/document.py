"""The shell of a page: one HTML file without scripts, fonts, images or links to anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.bench.report.svg import el, style_sheet, text

__all__ = ["box", "document"]


def document(title: str, body: str, rules: Sequence[str] = ()) -> str:
    """A whole page.

    Args:
        title: of the window, plain text.
        body: markup.
        rules: style rules of this page, after those that all have.
    """
    # A drawing brings its own style, which the page may refine.
    style = "\n".join([style_sheet("chart.css"), style_sheet("style.css"), *rules])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be loaded or run: a name in a record that got past the escaping could still do nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title>\n<style>\n{style}\n</style></head>\n'
        f"<body>{body}</body></html>\n"
    )


def box(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str, *, words: bool = False) -> str:
    """A table that scrolls within itself where the window is narrow.

    Args:
        heads: of the columns, plain text.
        rows: cells as plain text; the first of each is the row's heading.
        label: what a screen reader calls it.
        words: whether cells are sentences, which break.
    """
    head = el("thead", el("tr", *(el("th", text(name), scope="col") for name in heads)))
    lines = [
        el("tr", el("th", text(first), scope="row"), *(el("td", _cell(cell)) for cell in rest)) for first, *rest in rows
    ]
    table = el("table", head, el("tbody", *lines), class_="words" if words else None)
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _cell(words: str) -> str:
    """A cell's text; an interval in brackets stands below its number, as a smaller one."""
    number, bracket, ends = words.partition(" [")
    if not bracket or not ends.endswith("]"):
        return text(words)
    return text(number) + el("span", text(f" [{ends}"), class_="half")
