"""How a dataclass of options becomes a command."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import typer

__all__ = ["add"]

Options = TypeVar("Options")


def add(
    app: typer.Typer, name: str, options: type[Options], act: Callable[[typer.Context, Options], None], *, epilog: str
) -> None:
    """Add a command whose options are the fields of a dataclass.

    Args:
        app: the application.
        name: of the command.
        options: the dataclass; its fields are annotated as typer wants parameters.
        act: does it; its docstring is the command's help.
        epilog: an example.
    """

    def command(context: typer.Context, **values: Any) -> None:
        act(context, options(**values))

    hints = get_type_hints(options, include_extras=True)
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    inherited = {
        each.name for base in options.__mro__[1:] if dataclasses.is_dataclass(base) for each in dataclasses.fields(base)
    }
    found = dataclasses.fields(options)  # type: ignore[arg-type]  # a type variable cannot ask for a dataclass
    for each in sorted(found, key=lambda field: field.name in inherited):  # a command's own options come first
        default = inspect.Parameter.empty if each.default is dataclasses.MISSING else each.default
        parameters.append(
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[each.name])
        )
    command.__doc__ = act.__doc__
    command.__annotations__ = {"context": typer.Context}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    app.command(name, epilog=epilog)(command)
