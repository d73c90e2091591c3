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
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("docs/results.md"),
    check: Annotated[bool, typer.Option("--check", help="Only say whether the page is up to date.")] = False,
) -> None:
    """Make the page of results from records, published numbers beside ours."""
    from holdfast.bench.evidence import page as results_page
    from holdfast.bench.records import record

    if not folder.is_dir():
        raise StateError(f"there is no folder {folder}; expected one with the records of 'holdfast recipe run'")
    # Words, not paths of this machine: the same records give the same page wherever they lie.
    root = Path(os.path.relpath(folder, out.parent)).as_posix()
    page = results_page.render(folder, name=folder.name if folder.is_absolute() else folder.as_posix(), root=root)
    if check:
        if not out.is_file() or out.read_text(encoding="utf-8") != page:
            raise StateError(f"{out} is not what the records in {folder} give: run 'holdfast results'")
        typer.echo(f"{out} is up to date.")
        return
    record.write_whole(out, page, "page")
    typer.echo(f"Page: {out}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("results", epilog="Example: holdfast results --check")(_results)
