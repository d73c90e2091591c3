"""``holdfast results``: records -> docs/results.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from holdfast.errors import StateError

__all__ = ["register"]


def _results(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of results.")] = Path("results"),
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The page that opens; the others are in a folder of its name.")
    ] = Path("docs/results.md"),
    check: Annotated[bool, typer.Option("--check", help="Only say whether pages and pictures are up to date.")] = False,
) -> None:
    """Make the pages of results from records, published numbers beside ours."""
    from holdfast.bench.evidence import page as results_page
    from holdfast.bench.evidence import writing

    if not folder.is_dir():
        raise StateError(f"there is no folder {folder}; expected one with the records of 'holdfast recipe run'")
    # Words, not paths of this machine: the same records give the same pages wherever they lie.
    root = Path(os.path.relpath(folder, out.parent)).as_posix()
    name = folder.name if folder.is_absolute() else folder.as_posix()
    pages = results_page.render(folder, name=name, root=root, stem=out.stem)
    if check:
        writing.check(pages, out, folder)
        typer.echo(f"{out} and {len(pages) - 1} files in {out.with_suffix('')} are up to date.")
        return
    writing.write(pages, out)
    typer.echo(f"Page: {out}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("results", epilog="Example: holdfast results --check")(_results)
