"""How contents and outcomes are kept in a row."""

import json
import zlib
from typing import TypeAlias, cast

import numpy as np
import orjson

from ai_task_processor.domain.outcome import FLOAT32_BYTES, Failed, Settled, Succeeded, Vector
from ai_task_processor.domain.task import JsonValue

Columns: TypeAlias = dict[str, str | int | bytes | None]
"""Values for the columns ``state, outcome, result, model, provider, tokens, dimensions, error``."""

VECTOR = "vector"
JSON = "json"
FAILED = "failed"
DAMAGED = "damaged"

_NOTHING: Columns = dict.fromkeys(("result", "model", "provider", "tokens", "dimensions", "error"))
_WORTH_A_TRY = 512
_USEFUL = 0.8
_DEFLATED = b"\x78"  # no JSON text begins with it
_LENIENT = b" "  # any JSON text may begin with it; here it says who wrote it


class Damaged(Exception):
    """What a row holds cannot be read; the message says what is wrong with it."""


def encoded(value: JsonValue) -> bytes:
    """JSON as compact bytes, deflated where that saves at least a fifth.

    What no JSON text can hold (nothing that came as one) is kept as null: its processor will refuse it.
    """
    text = _json(value)
    if len(text) <= _WORTH_A_TRY:
        return text
    deflated = zlib.compress(text, 1)
    return deflated if len(deflated) < len(text) * _USEFUL else text


def decoded(stored: bytes | None) -> JsonValue:
    """The value that :func:`encoded` was given; raises Damaged."""
    if stored is None:
        raise Damaged("it is missing")
    try:
        return _value(zlib.decompress(stored) if stored.startswith(_DEFLATED) else stored)
    except (zlib.error, ValueError, RecursionError) as error:
        raise Damaged(str(error)) from error


def outcome_columns(outcome: Settled) -> Columns:
    """What a settled outcome writes into its row."""
    if isinstance(outcome, Failed):
        return _NOTHING | {"state": "failed", "outcome": FAILED, "error": storable(outcome.reason)}
    columns = _NOTHING | {
        "state": "succeeded",
        "model": storable(outcome.model),
        "provider": storable(outcome.provider),
        "tokens": outcome.tokens,
    }
    if isinstance(outcome.result, Vector):
        data = outcome.result.data
        return columns | {"outcome": VECTOR, "result": data, "dimensions": len(data) // FLOAT32_BYTES}
    return columns | {"outcome": JSON, "result": encoded(outcome.result)}


def outcome_of(
    kind: str | None,
    result: bytes | None,
    error: str | None,
    model: str | None,
    provider: str | None,
    tokens: int | None,
    dimensions: int | None,
) -> Settled:
    """The outcome that a row holds, from its columns in the order of the query; raises Damaged."""
    if kind == VECTOR:
        return Succeeded(Vector(_vector(result, dimensions)), model or "", provider or "", tokens or 0)
    if kind == JSON:
        return Succeeded(decoded(result), model or "", provider or "", tokens or 0)
    if kind == FAILED:
        return Failed(error or "")
    raise Damaged(f"its outcome is of the unknown kind {kind!r}")


def vector_numbers(stored: bytes) -> list[float]:
    """The numbers of a stored vector; raises Damaged."""
    if len(stored) % FLOAT32_BYTES:
        raise Damaged(f"its vector has {len(stored)} bytes")
    return cast("list[float]", np.frombuffer(stored, "<f4").tolist())


def storable(text: str) -> str:
    """A text that any database takes: half characters and NULs, as broken input may hold, are replaced."""
    if "\0" not in text and text.isascii():
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def _json(value: JsonValue) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half of a surrogate pair, or a number beyond 64 bits: the standard library writes these
        return _lenient_json(value)


def _lenient_json(value: JsonValue) -> bytes:
    try:
        return _LENIENT + json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        return b"null"


def _value(text: bytes) -> JsonValue:
    return cast("JsonValue", json.loads(text) if text.startswith(_LENIENT) else orjson.loads(text))


def _vector(data: bytes | None, dimensions: int | None) -> bytes:
    if data is None or dimensions is None:
        raise Damaged("its vector is missing")
    if len(data) != dimensions * FLOAT32_BYTES:
        raise Damaged(f"its vector has {len(data)} bytes where {dimensions} numbers were stored")
    return data
