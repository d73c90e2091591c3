"""What is public, with signatures: ``python -m tests.surface > tests/public-surface.txt`` records it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = (
    "holdfast", "holdfast.auditing", "holdfast.bench", "holdfast.heads", "holdfast.importance", "holdfast.merging",
    "holdfast.objectives", "holdfast.optim", "holdfast.prequential", "holdfast.reparam", "holdfast.testing",
)  # fmt: skip
INTEGRATIONS = Path(importlib.import_module("holdfast").__file__ or "").parent / "integrations"


def lines() -> list[str]:
    """One line for each public name: functions and classes with what they take, classes' members under them."""
    modules = [importlib.import_module(package) for package in PACKAGES]
    public = {getattr(module, name) for module in modules for name in module.__all__ if _is_class(module, name)}
    found = [line for module in modules for line in _package(module, public)]
    for name in ("accelerate", "lightning", "peft", "transformers"):  # read, not imported: they take seconds
        found += _read(INTEGRATIONS / f"{name}.py", f"holdfast.integrations.{name}")
    return found


def _is_class(module: ModuleType, name: str) -> bool:
    return inspect.isclass(getattr(module, name))


def _package(module: ModuleType, public: set[type]) -> Iterator[str]:
    package = module.__name__
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if inspect.isclass(value):
            yield from _class(f"{package}.{name}", value, public)
        elif callable(value) and not isinstance(value, type) and inspect.isfunction(inspect.unwrap(value)):
            yield f"{package}.{name}{_signature(value)}"
        else:
            yield f"{package}.{name}"


def _class(name: str, cls: type, public: set[type]) -> Iterator[str]:
    yield f"{name}{_signature(cls)}"
    for member in sorted(dir(cls)):
        if member.startswith("_"):
            continue
        owner = next(each for each in cls.__mro__ if member in vars(each))
        value = vars(owner)[member]
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        # A function's own home counts: the first instance of an optimizer sets a wrapped step of its base on the class.
        if not (value if inspect.isfunction(value) else owner).__module__.startswith("holdfast"):
            continue  # what torch and Python bring along is theirs to change
        if any(getattr(base, member, None) is getattr(cls, member) for base in cls.__mro__[1:] if base in public):
            continue  # that line stands under the base
        yield f"{name}.{member}{_signature(value) if inspect.isfunction(value) else ''}"


def _signature(value: Any) -> str:
    """Names, kinds and defaults: what a caller's code depends on; types are pyright's to watch."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    shown = [_parameter(each, value) for each in signature.parameters.values()]
    kinds = [each.kind for each in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        shown.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return f"({', '.join(shown)})"


def _parameter(parameter: inspect.Parameter, of: Any) -> str:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"**{parameter.name}{_options(parameter, of)}"
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={re.sub(r' at 0x[0-9a-f]+', '', repr(parameter.default))}"


def _options(parameter: inspect.Parameter, of: Any) -> str:
    """The keywords that ``**options: Unpack[Options]`` stands for."""
    match = re.fullmatch(r"Unpack\[([\w.]+)\]", str(parameter.annotation))
    if match is None:
        return ""
    init = of.__init__ if inspect.isclass(of) else of
    options = inspect.unwrap(init).__globals__[match[1]]
    return f"{{{', '.join(sorted(options.__annotations__))}}}"


def _read(path: Path, module: str) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (names,) = (ast.literal_eval(node.value) for node in tree.body if _is_all(node))
    for name in sorted(names):
        found = next((node for node in tree.body if getattr(node, "name", None) == name), None)
        if isinstance(found, ast.ClassDef):
            inits = [node for node in found.body if getattr(node, "name", None) == "__init__"]
            yield f"{module}.{name}({_arguments(inits[0]) if inits else ''})"
            for node in found.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    yield f"{module}.{name}.{node.name}({_arguments(node)})"
        elif isinstance(found, ast.FunctionDef):
            yield f"{module}.{name}({_arguments(found)})"
        else:
            yield f"{module}.{name}"


def _is_all(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Assign, ast.AnnAssign)) and "__all__" in ast.unparse(node).partition("=")[0]


def _arguments(node: Any) -> str:
    for each in ast.walk(node.args):
        if isinstance(each, ast.arg):
            each.annotation = None
    return ast.unparse(node.args)


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
