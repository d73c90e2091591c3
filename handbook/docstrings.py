"""Docstrings as Markdown: what they borrow from reStructuredText (roles, ``.. math::``) said in its words."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from griffe import Extension, Function, Object

from holdfast.penalties.quadratic import QuadraticPenalty
from holdfast.penalties.resources import Resources, check_resources

__all__ = ["Markdown", "to_markdown"]

_ROLE = re.compile(r":(?:py:)?(?P<role>class|func|meth|mod|attr|data|exc):`(?P<short>~?\.?)(?P<target>[^`<>]+)`")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_OPTIONS = re.compile(r"^( +)\*\*options:[^\n]*\n(?:\1 +[^\n]*\n)*", re.MULTILINE)
_SOURCE = re.compile(r"^( *)Source: ((?:[^\n]+\n)+)", re.MULTILINE)  # a paragraph; a section to griffe
_INLINE = re.compile(r":math:`([^`]+)`")
_MATH = re.compile(
    r"^(?P<indent> *)\.\. math::(?P<first>[^\n]*)\n(?P<rest>(?:(?P=indent) +\S[^\n]*\n|[ ]*\n(?=(?P=indent) +\S))*)",
    re.MULTILINE,
)


def to_markdown(text: str) -> str:
    """A docstring's text in Markdown; equations become ``$$ … $$`` and ``$ … $``."""
    text = _EXAMPLE.sub(r"\1Examples:", text)  # the section whose doctests are shown as code
    text = _SOURCE.sub(lambda found: f"{found[1]}**Source.** {' '.join(found[2].split())}\n", text)
    text = _INLINE.sub(r"$\1$", _MATH.sub(_equation, text + "\n"))
    return _ROLE.sub(_named, text).removesuffix("\n")


def _equation(found: re.Match[str]) -> str:
    lines = [found["first"], *found["rest"].splitlines()]
    tex = " ".join(line.strip() for line in lines if line.strip())
    return f"{found['indent']}$$\n{found['indent']}{tex}\n{found['indent']}$$\n"


def _named(found: re.Match[str]) -> str:
    target = found["target"].removesuffix("()")
    shown = target.rsplit(".", 1)[-1] if found["short"] else target
    return f"`{shown}()`" if found["role"] in ("func", "meth") else f"`{shown}`"


def spelled_out(text: str) -> str:
    """A docstring in which ``**options`` gives way to the further keywords of penalties, each with what it does."""
    said = inspect.cleandoc(Resources.__doc__ or "").partition("Attributes:\n")[2]
    return _OPTIONS.sub(lambda found: textwrap.indent(textwrap.dedent(said).rstrip(), found[1]) + "\n", text)


def left_out() -> dict[str, Any]:
    """What each keyword of ``**options`` is where it is not given."""
    found = dict(zip(Resources.__annotations__, check_resources({}), strict=True))
    taken = inspect.signature(QuadraticPenalty.__init__).parameters.values()
    return found | {each.name: each.default for each in taken if each.default is not inspect.Parameter.empty}


class Markdown(Extension):
    """Rewrites the docstring of everything that is documented, before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(spelled_out(obj.docstring.value))

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        """Called by griffe for each function, after `unpack_typeddict` put the fields in the place of ``**options``."""
        drawn = [each for each in func.parameters if each.default == "..."]
        for each in drawn:
            if f'setdefault("{each.name}"' not in func.source:  # its own: the docstring says which
                each.default = repr(left_out()[each.name])
        if drawn and func.docstring is not None and not func.docstring.value:
            func.docstring = None  # a list of names without a word about them, which the class's own has
