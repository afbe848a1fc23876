"""The demonstration's texts: those that ship with the package, those of a file, and which of them are alike."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import numpy as np
import orjson
from numpy.typing import NDArray

from ai_task_processor.domain.errors import ConfigurationError

COLUMNS = ("text", "claim", "content")
"""Names by which the column of the texts is found in the first row of a CSV file."""

Numbered = tuple[int, str]
"""The number of a line, counted from 1, and the text on it."""


def shipped_claims() -> list[str]:
    """Some hundred short claims, true and false alike, on a dozen subjects."""
    file = resources.files("ai_task_processor.demo").joinpath("claims.txt")
    return [text for _, text in _lines(file.read_text(encoding="utf-8"))]


def read_texts(path: Path) -> list[str]:
    """The texts of a file, in order and without the blank ones.

    ``.txt`` holds one text a line. ``.csv`` holds them in the column named text, claim or content; where the first row
    names no such column it is a row like all others, and the texts are in the first column. ``.jsonl`` holds one JSON
    value a line: a string, or an object with ``text``, ``content`` or ``content.text``. UTF-8, with or without a byte
    order mark. Raises ConfigurationError, which names the file and the line.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise _fault(path, f"must be one of {', '.join(_READERS)}")
    try:
        texts = [text for _, text in read(_decoded(path))]
    except _LineFault as fault:
        raise _fault(path, str(fault), fault.line) from fault
    if not texts:
        raise _fault(path, "holds no text")
    return texts


def nearest(vectors: NDArray[np.float32], index: int, count: int) -> list[tuple[int, float]]:
    """The rows of ``vectors`` most like the row ``index``, the most alike first, with the cosine of their angle.

    At most ``count`` of them, never the row itself.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[lengths == 0] = 1  # a vector of zeros is like nothing
    cosines = (vectors @ vectors[index]) / (lengths * lengths[index])
    cosines[index] = -np.inf
    order = np.argsort(-cosines, kind="stable")[: min(count, len(vectors) - 1)]
    return [(int(other), float(cosines[other])) for other in order]


class _LineFault(ValueError):
    """A line that cannot be used."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _fault(path, f"cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _LineFault(line, "is not UTF-8; save the file as UTF-8") from error


def _lines(content: str) -> Iterator[Numbered]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _cells(content: str) -> Iterator[Numbered]:
    rows = csv.reader(io.StringIO(content, newline=""), strict=True)
    column: int | None = None
    try:
        for row in rows:
            if column is None:
                column, is_header = _column(row)
                if is_header:
                    continue
            if any(cell.strip() for cell in row):
                yield from _cell(rows.line_num, row, column)
    except csv.Error as error:
        raise _LineFault(rows.line_num, f"is not CSV: {error}") from error


def _column(first: Sequence[str]) -> tuple[int, bool]:
    """Which column holds the texts, and whether the first row is there to say so."""
    names = [name.strip().lower() for name in first]
    named = [index for index, name in enumerate(names) if name in COLUMNS]
    return (named[0], True) if named else (0, False)


def _cell(line: int, row: Sequence[str], column: int) -> Iterator[Numbered]:
    if len(row) <= column:
        raise _LineFault(line, f"has {len(row)} columns; the text should be in column {column + 1}")
    if row[column].strip():
        yield line, row[column].strip()


def _values(content: str) -> Iterator[Numbered]:
    for number, line in _lines(content):
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _LineFault(number, f"is not JSON: {error.msg}") from error
        text = _text(value)
        if text is None:
            raise _LineFault(number, 'must be a string, or an object with "text" or "content"')
        if text.strip():
            yield number, text.strip()


def _text(value: object) -> str | None:
    if isinstance(value, Mapping):
        return _text(value.get("text", value.get("content")))
    return value if isinstance(value, str) else None


_READERS: Mapping[str, Callable[[str], Iterator[Numbered]]] = MappingProxyType(
    {".txt": _lines, ".csv": _cells, ".jsonl": _values}
)


def _fault(path: Path, message: str, line: int | None = None) -> ConfigurationError:
    place = str(path) if line is None else f"{path}, line {line},"
    return ConfigurationError([f"{place} {message}"])
