"""The command line: parsing only. Each command reads what was typed, calls the bench, and shows what came back.

Nothing here imports PyTorch before a command needs it, so ``holdfast --help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from holdfast._version import __version__
from holdfast.cli import adapting, commands, evidence, export, importance, lists, recipes, running, runs
from holdfast.doctor import packages
from holdfast.errors import HoldfastError

__all__ = ["app", "main"]

# The base of typer's own errors, which has moved between its releases.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class _Group(commands.Group):
    """Commands whose every expected failure is one sentence on the standard error and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = list(args)  # the words of the command, for the manifest and the report
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except HoldfastError as error:
            code = _say(str(error))
        except ModuleNotFoundError as error:
            extra = packages.extra_of(error.name or "")
            if not extra:
                raise
            code = _say(f"this needs {error.name}: pip install \"holdfast[{extra}]\"; 'holdfast doctor' says what else")
        except _UsageError as error:
            code = _say(error.format_message())  # type: ignore[attr-defined]  # known by its place in typer alone
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        if code == INTERRUPTED:  # typer itself may have turned Ctrl-C into this code
            _say("stopped")
        sys.exit(code if isinstance(code, int) else 0)


def _say(sentence: str, code: int = 2) -> int:
    typer.echo(f"holdfast: {' '.join(sentence.split())}", err=True)
    return code


app: typer.Typer = typer.Typer(
    cls=_Group,
    name="holdfast",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Example: holdfast compare split-digits --methods finetune,ewc,lwf,joint --seeds 3 --out demo",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Teach a model something new without losing what it knew, and without keeping the old data."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


lists.register(app)
adapting.register(app)
running.register(app)
runs.register(app)
importance.register(app)
recipes.register(app)
evidence.register(app)
export.register(app)


def main() -> None:
    """The entry point of the ``holdfast`` command."""
    app(prog_name="holdfast")
