"""The command ``holdfast``, which ``python -m holdfast`` is too; without typer it can still say what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from holdfast._version import __version__

__all__ = ["main", "without_typer"]


def without_typer(words: Sequence[str]) -> int:
    """What the command can do where the extra ``bench`` is not installed: its version, and ``doctor``.

    Args:
        words: what was typed after ``holdfast``.

    Returns:
        The exit code.
    """
    if list(words) == ["--version"]:
        print(f"holdfast {__version__}")
        return 0
    if words and words[0] == "doctor":
        from holdfast import doctor

        parser = argparse.ArgumentParser(
            prog="holdfast doctor",
            description="Say what is installed, what is missing for what, and where it would run.",
        )
        parser.add_argument("--data-dir", type=Path, help="Folder with the data sets; default: HOLDFAST_DATA.")
        for line in doctor.report(parser.parse_args(words[1:]).data_dir):
            print(line)
        return 0
    print(
        'holdfast: the commands need: pip install "holdfast[bench]" ("holdfast doctor" says what else is missing; '
        "the methods themselves need no more than is installed: import holdfast)",
        file=sys.stderr,
    )
    return 2


def main() -> None:
    """The entry point of the ``holdfast`` command."""
    if importlib.util.find_spec("typer") is None:
        sys.exit(without_typer(sys.argv[1:]))
    from holdfast.cli import main as typed

    typed()


if __name__ == "__main__":
    main()
