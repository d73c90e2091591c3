"""How a dataclass of options becomes a command, and how an error names the options that were typed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperGroup

from holdfast.errors import HoldfastError, Option

__all__ = ["Group", "add", "typed"]

_COMMAND = "holdfast.command"
_TYPED_AS = {
    "settings": "set", "grids": "grid", "methods": "method", "seeds": "seed", "trials": "tune", "labels": "methods",
    "repository": "push", "stream_options": "stream_option", "model_options": "model_option",
}  # fmt: skip
"""Keyword -> the parameter of commands that have none of its name."""

Options = TypeVar("Options")


class Group(TyperGroup):
    """Commands whose errors name an option as it was typed, not as the Python call behind the command does."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Note which command it is."""
        found = super().resolve_command(ctx, args)
        ctx.meta[_COMMAND] = found[1]  # groups in groups share it
        return found

    def invoke(self, ctx: Any) -> Any:
        """Do it; what it raises is said in the words of the command line."""
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            command = ctx.meta.get(_COMMAND, self)
            raise HoldfastError(error.worded(lambda option: typed(command, option))) from error


def typed(command: Any, option: Option) -> str:
    """What one would type for an option, where the command has it; else its keyword.

    Args:
        command: as the command line knows it.
        option: what is wrong with it is being said.
    """
    parameters = {each.name: each for each in command.params}
    found = parameters.get(option.name) or parameters.get(_TYPED_AS.get(option.name, ""))
    if found is None:
        return str(option)
    name: str = max(found.opts, key=len) if found.param_type_name == "option" else found.metavar or found.name.upper()
    return " ".join([name, " or ".join(map(str, option.values))]).strip()


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
