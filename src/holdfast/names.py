"""Canonical names: the same parameter has the same name, whatever wraps the model."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from holdfast.errors import ConfigurationError
from holdfast.parts import Rows, rows_of
from holdfast.sharding import reshard
from holdfast.wrappers import canonical_name, unwrapped

__all__ = [
    "Select",
    "canonical_buffers",
    "canonical_modules",
    "canonical_parameters",
    "named",
    "owners",
    "selected",
    "selected_rows",
    "unwrap",
]

Select: TypeAlias = "str | Iterable[str] | Callable[[str, nn.Parameter], bool] | None"


def unwrap(module: nn.Module) -> nn.Module:
    """Strip what third parties wrap around a model from its outside: see :mod:`holdfast.wrappers`.

    Example:
        >>> import torch
        >>> plain = torch.nn.Linear(2, 2)
        >>> unwrap(torch.nn.DataParallel(plain)) is plain
        True
    """
    found = unwrapped(module)
    assert isinstance(found, nn.Module)
    return found


def canonical_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, outermost first, by canonical name (wrappers in mid-path leave no trace).

    Args:
        model: any module, wrapped or not.

    Yields:
        ``(name, module)``; the root's name is ``""``.
    """
    seen: set[int] = set()

    def walk(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        module = unwrap(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield prefix, module
        for name, child in module._modules.items():
            if child is not None:
                yield from walk(f"{prefix}.{name}" if prefix else name, child)

    yield from walk("", model)


def _tensor_name(prefix: str, module: nn.Module, name: str) -> str:
    """A module's own parameter or buffer; one that is parametrised goes by the name that it has without."""
    full = f"{prefix}.{name}" if prefix else name
    return canonical_name(full) if isinstance(module, ParametrizationList) else full


def canonical_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter once, by canonical name; a shared parameter goes by the first of its names.

    What ``torch.nn.utils.parametrize`` computes a weight from goes by the weight's own name; where it is computed from
    several, these are ``weight.original0`` and so on.

    Args:
        model: any module, wrapped or not.

    Returns:
        name -> live parameter, trainable or not, in the order of registration.

    Example:
        >>> import torch
        >>> list(canonical_parameters(torch.nn.DataParallel(torch.nn.Linear(2, 2))))
        ['weight', 'bias']
    """
    reshard(model)
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in canonical_modules(model):
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                found[_tensor_name(prefix, module, name)] = parameter
    return found


def owners(model: nn.Module) -> dict[str, str]:
    """The module that each parameter belongs to, by canonical names: of a shared one, that of its first name.

    A parametrised weight belongs to the layer that computes with it.

    Args:
        model: any module, wrapped or not.

    Returns:
        parameter -> module, in the order of registration.

    Example:
        >>> import torch
        >>> owners(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2, bias=False)))
        {'0.weight': '0', '0.bias': '0', '2.weight': '2'}
    """
    found: dict[str, str] = {}
    live = canonical_parameters(model)
    for prefix, module in canonical_modules(model):
        parametrised = isinstance(module, ParametrizationList)
        owner = prefix.rpartition(".")[0].rpartition(".")[0] if parametrised else prefix  # of layer.parametrizations.w
        for name in module._parameters:
            full = _tensor_name(prefix, module, name)
            if full in live:
                found.setdefault(full, owner)
    return found


def canonical_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Every buffer that a module saves, by canonical name.

    Args:
        model: any module, wrapped or not.

    Returns:
        name -> live buffer, in the order of registration.

    Example:
        >>> import torch
        >>> list(canonical_buffers(torch.nn.BatchNorm1d(2)))
        ['running_mean', 'running_var', 'num_batches_tracked']
    """
    return {
        _tensor_name(prefix, module, name): buffer
        for prefix, module in canonical_modules(model)
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }


def _as_predicate(select: Select) -> Callable[[str, nn.Parameter], bool]:
    if select is None:
        return lambda name, parameter: True
    if callable(select):
        return select
    patterns = [_split(pattern)[0] for pattern in _patterns(select)]
    return lambda name, parameter: any(_matches(name, pattern) for pattern in patterns)


def _patterns(select: str | Iterable[str]) -> list[str]:
    if isinstance(select, str):
        return [select]
    if isinstance(select, Tensor) or not isinstance(select, Iterable):
        raise ConfigurationError(
            f"select is {select!r}; expected parameter names or patterns like 'layer1.*', or a function"
        )
    for pattern in select:
        if not isinstance(pattern, str):
            raise ConfigurationError(f"select holds {pattern!r}; expected parameter names or patterns like 'layer1.*'")
    return list(select)


_ROWS = re.compile(r"(?P<pattern>.+)\[(?P<start>[^\[\]:]*):(?P<stop>[^\[\]]*)\]")


def _split(pattern: str) -> tuple[str, Rows | None]:
    """A pattern and the rows that it ends with: ``"head.weight[:3]"`` is ``"head.weight"`` and the first three."""
    found = _ROWS.fullmatch(pattern)
    if found is None:
        return pattern, None
    start, stop = found["start"].strip(), found["stop"].strip()
    if not all(text == "" or text.isdecimal() for text in (start, stop)) or (stop and int(stop) <= int(start or 0)):
        raise ConfigurationError(
            f"select holds {pattern!r}; expected rows as [START:STOP], counted from 0, of which either may be left out"
        )
    return found["pattern"], (int(start or 0), int(stop) if stop else None)


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a parameter, or the module that it is in."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def _check_all_match(select: Select, names: Iterable[str]) -> None:
    """Refuse a pattern that names nothing beside others that do: it is a slip of the pen, and would go unnoticed."""
    if select is None or callable(select):
        return
    known = list(names)
    for pattern, _ in map(_split, _patterns(select)):
        if not any(_matches(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=3) or known[:5]
            raise ConfigurationError(
                f"select holds {pattern!r}, but the model has no such parameter; it has {', '.join(near)}"
            )


def named(model: nn.Module, select: Select) -> dict[str, nn.Parameter]:
    """The parameters that a selection names, trainable or not.

    Args:
        model: any module, wrapped or not.
        select: as for :func:`selected`.

    Returns:
        name -> live parameter; nothing if it names none.

    Raises:
        ConfigurationError: if a name or pattern fits no parameter beside others that do.
    """
    keep = _as_predicate(select)
    everything = canonical_parameters(model)
    found = {name: p for name, p in everything.items() if keep(name, p)}
    if found:
        _check_all_match(select, everything)
    return found


def selected(model: nn.Module, select: Select) -> dict[str, nn.Parameter]:
    """The trainable parameters that a selection names.

    Args:
        model: any module, wrapped or not.
        select: ``None`` for all; a name, a module's name or a shell pattern (``"encoder.*"``), or several, each with
            rows if need be (``"head.weight[:3]"``: see :func:`selected_rows`); or a function
            ``(name, parameter) -> bool``.

    Returns:
        name -> live trainable parameter.

    Raises:
        ConfigurationError: if nothing is selected, or a name or pattern fits no parameter at all.
    """
    found = {name: p for name, p in named(model, select).items() if p.requires_grad}
    if not found:
        everything = canonical_parameters(model)
        shown = "" if select is None else f" that select={_describe(select)} names"
        names = ", ".join(list(everything)[:5]) or "no parameter at all"
        raise ConfigurationError(f"the model has no trainable parameter{shown}; it has {names}")
    return found


def selected_rows(model: nn.Module, select: Select) -> dict[str, Rows]:
    """Which rows of the parameters a selection names, where it does not name all.

    Args:
        model: any module, wrapped or not.
        select: as for :func:`selected`.

    Returns:
        name -> rows; nothing for a parameter that is selected as a whole.

    Raises:
        ConfigurationError: if a parameter has no such rows, or is named with different ones.
    """
    if select is None or callable(select):
        return {}
    split = [_split(pattern) for pattern in _patterns(select)]
    found: dict[str, Rows] = {}
    if all(rows is None for _, rows in split):
        return found
    for name, p in canonical_parameters(model).items():
        named = {rows for pattern, rows in split if _matches(name, pattern)}
        if len(named) > 1:
            raise ConfigurationError(
                f"select names parameter {name!r} {len(named)} times, with different rows; expected one range of rows"
            )
        for rows in named - {None}:
            assert rows is not None
            rows_of(p, rows)
            found[name] = rows
    return found


def _describe(select: Any) -> str:
    return getattr(select, "__name__", repr(select)) if callable(select) else repr(select)
