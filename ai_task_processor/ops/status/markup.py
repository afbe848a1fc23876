"""HTML that cannot be forgotten to be escaped."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import TypeAlias


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Inside: TypeAlias = "str | Iterable[Inside] | None"
Value: TypeAlias = str | float | bool | None

_VOID = frozenset({"circle", "line", "link", "meta", "path", "rect"})
"""Elements with nothing inside; in a drawing, an HTML parser must be told so."""


def tag(name: str, *inside: Inside, **attributes: Value) -> Markup:
    """An element; whatever is in it or in its attributes and is no :class:`Markup` is escaped.

    An underscore in an attribute's name stands for a hyphen, but at its end for nothing (``class_``). An attribute that
    is True has no value, one that is False or None is left out.
    """
    opening = f"<{name}{''.join(_attributes(attributes))}"
    return Markup(f"{opening}/>" if name in _VOID else f"{opening}>{join(inside)}</{name}>")


def join(inside: Inside) -> Markup:
    """One after the other, each escaped where it is no :class:`Markup`."""
    if inside is None:
        return Markup()
    if isinstance(inside, Markup):
        return inside
    if isinstance(inside, str):
        return Markup(escape(inside))
    return Markup("".join(join(one) for one in inside))


def _attributes(attributes: Mapping[str, Value]) -> Iterator[str]:
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            yield f" {name}"
        elif value is not None and value is not False:
            yield f' {name}="{escape(str(value))}"'
