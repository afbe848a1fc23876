"""Takes a long JSON array apart into portions, so that reading it never blocks for more than a few milliseconds."""

import json
import re
from collections.abc import Iterator, Sequence

import orjson

from ai_task_processor.domain.errors import TaskApiUnavailable
from ai_task_processor.task_api.requests import Body

PORTION = 128 * 1024
"""Bytes after which a portion may end."""

LONGEST_TAIL = 64
"""Bytes at the end in which the last bracket is looked for; after more white space it is found the slow way."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_WHITE_SPACE = re.compile(rb"\s*")
_BETWEEN_OBJECTS = re.compile(rb"\}\s*,(?=\s*\{)")
_STRUCTURE = re.compile(rb'"(?:[^"\\]+|\\.)*+"|[\[\]{},"]', re.DOTALL)
_WRAPPERS = ("data", "items", "tasks")


def portions(body: Body, *, size: int = PORTION) -> Iterator[Sequence[object]]:
    """The elements of the array in ``body``, about ``size`` bytes at a time; one that is no valid JSON comes as None.

    An object that holds the array as ``data``, ``items`` or ``tasks`` is taken for the array, but in one piece.
    Raises TaskApiUnavailable for anything else, as soon as that is seen.
    """
    start = _after_white_space(body)
    if body.startswith(b"{", start):
        yield _wrapped(body[start:])
        return
    if not body.startswith(b"[", start):
        raise _not_a_list("it does not begin as one")
    position: int | None = start + 1
    while position is not None:
        elements, position = _guessed(body, position, size) or _scanned(body, position, size)
        yield elements


def _after_white_space(body: Body) -> int:
    """Where the text begins; the body is not copied for it, for it may be long."""
    found = _WHITE_SPACE.match(body, len(BYTE_ORDER_MARK) if body.startswith(BYTE_ORDER_MARK) else 0)
    return found.end() if found else 0


def _wrapped(body: Body) -> Sequence[object]:
    whole = _element(body)
    if isinstance(whole, dict):
        for name in _WRAPPERS:
            if isinstance(whole.get(name), list):
                return list(whole[name])
    raise _not_a_list("it is an object")


def _guessed(body: Body, start: int, size: int) -> tuple[Sequence[object], int | None] | None:
    """The portion up to what looks like the end of an element; None if it was not, or if an element is broken.

    This proves itself: what stands between the beginning of an element and a comma is, put in brackets, valid JSON
    only if the comma separates elements of this very array.
    """
    boundary = _BETWEEN_OBJECTS.search(body, start + size)
    end = _last_bracket(body) if boundary is None else boundary.start() + 1
    if end is None:
        return None
    try:
        elements = orjson.loads(b"".join((b"[", memoryview(body)[start:end], b"]")))
    except orjson.JSONDecodeError:
        return None
    return elements, None if boundary is None else boundary.end()


def _last_bracket(body: Body) -> int | None:
    """Where the array ends; None where something else stands there."""
    tail = body[-LONGEST_TAIL:].rstrip()
    return max(0, len(body) - LONGEST_TAIL) + len(tail) - 1 if tail.endswith(b"]") else None


def _scanned(body: Body, start: int, size: int) -> tuple[Sequence[object], int | None]:
    """The portion whose elements are found one by one, by counting brackets outside of strings."""
    elements: list[object] = []
    depth, begin = 0, start
    for token in _STRUCTURE.finditer(body, start):
        sign = token[0][:1]
        if sign in b"[{":
            depth += 1
        elif sign == b"," and depth == 0:
            elements.append(_element(body[begin : token.start()]))
            begin = token.end()
            if begin - start >= size:
                return elements, begin
        elif sign in b"]}":
            depth -= 1
            if depth < 0:
                elements.append(_element(body[begin : token.start()]))
                return elements, None
        elif token[0] == b'"':
            break
    raise _not_a_list("it breaks off")


def _element(raw: Body) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _mended(raw)


def _mended(raw: Body) -> object:
    """Read what a strict reader refuses: half an emoji (JavaScript cuts so), NaN, bytes that are no text."""
    try:
        value = json.loads(raw.decode("utf-8", "replace"), parse_constant=lambda _: None)
        text = json.dumps(value, ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        return None


def _not_a_list(why: str) -> TaskApiUnavailable:
    return TaskApiUnavailable(f"the answer is not a list of tasks: {why}")
