"""What a GGUF file says about its model: the single values at its beginning, without the lists and the weights."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

Fact: TypeAlias = str | int | float | bool

_MAGIC = b"GGUF"
_VERSIONS = frozenset({2, 3})
_LONGEST_STRING = 1_048_576
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class NotGguf(ValueError):
    """The file is something else, or not all of it is there."""


def gguf_facts(path: Path) -> Mapping[str, Fact]:
    """The single values by their keys; raises NotGguf or OSError."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC or _scalar(file, "<I") not in _VERSIONS:
            raise NotGguf(f"{path} does not begin as a GGUF file of version 2 or 3 does")
        _scalar(file, "<Q")  # how many weights there are
        facts = (_fact(file) for _ in range(int(_scalar(file, "<Q"))))
        return {key: value for key, value in facts if value is not None}


def _fact(file: BinaryIO) -> tuple[str, Fact | None]:
    """A key and its value; None for a list."""
    key, kind = _string(file), int(_scalar(file, "<I"))
    if kind == _ARRAY:
        _skip_array(file)
        return key, None
    return key, _value(file, kind)


def _value(file: BinaryIO, kind: int) -> Fact:
    if kind == _STRING:
        return _string(file)
    if kind not in _SCALARS:
        raise NotGguf(f"it has a value of the unknown kind {kind}")
    return _scalar(file, _SCALARS[kind])


def _skip_array(file: BinaryIO) -> None:
    kind, count = int(_scalar(file, "<I")), int(_scalar(file, "<Q"))
    if kind in _SCALARS:
        file.seek(count * struct.calcsize(_SCALARS[kind]), 1)
        return
    for _ in range(count):
        _value(file, kind)


def _string(file: BinaryIO) -> str:
    length = int(_scalar(file, "<Q"))
    if length > _LONGEST_STRING:
        raise NotGguf(f"it has a string of {length} bytes")
    return _exactly(file, length).decode(errors="replace")


def _scalar(file: BinaryIO, layout: str) -> int | float | bool:
    (value,) = struct.unpack(layout, _exactly(file, struct.calcsize(layout)))
    return value  # type: ignore[no-any-return]  # one of the three, by the layouts above


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise NotGguf("it ends too early")
    return data
