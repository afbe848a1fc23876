"""How contents and outcomes are kept in a row."""

import json
import zlib
from typing import Any, TypeAlias, cast

import orjson

from ai_task_processor.domain.outcome import FLOAT32_BYTES, Failed, Settled, Succeeded, Vector
from ai_task_processor.domain.task import JsonValue

Columns: TypeAlias = dict[str, str | int | bytes | None]
"""Values for the columns ``state, outcome, result, model, provider, tokens, dimensions, error``."""

VECTOR = "vector"
JSON = "json"
FAILED = "failed"
DAMAGED = "damaged"

_WORTH_A_TRY = 512
_USEFUL = 0.8
_DEFLATED = b"\x78"  # no JSON text begins with it


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
    match outcome:
        case Failed(reason):
            return _columns(FAILED, FAILED, error=storable(reason))
        case Succeeded(Vector(data)):
            return _success(VECTOR, data, outcome) | {"dimensions": len(data) // FLOAT32_BYTES}
        case Succeeded(result):
            return _success(JSON, encoded(cast("JsonValue", result)), outcome)


def outcome_of(columns: Any) -> Settled:  # noqa: ANN401  a database row has its columns as attributes
    """The outcome that a row holds; raises Damaged."""
    if columns.outcome == FAILED:
        return Failed(columns.error or "")
    if columns.outcome == VECTOR:
        return _succeeded(Vector(_vector(columns.result, columns.dimensions)), columns)
    if columns.outcome == JSON:
        return _succeeded(decoded(columns.result), columns)
    raise Damaged(f"its outcome is of the unknown kind {columns.outcome!r}")


def storable(text: str) -> str:
    """A text that any database takes: half characters and NULs, as broken input may hold, are replaced."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def _json(value: JsonValue) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half of a surrogate pair, or a number beyond 64 bits: the standard library writes these
        return _lenient_json(value)


def _lenient_json(value: JsonValue) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        return b"null"


def _value(text: bytes) -> JsonValue:
    try:
        return cast("JsonValue", orjson.loads(text))
    except orjson.JSONDecodeError:
        return cast("JsonValue", json.loads(text))


def _columns(state: str, outcome: str, **values: str | int | bytes | None) -> Columns:
    nothing = dict.fromkeys(("result", "model", "provider", "tokens", "dimensions", "error"))
    return nothing | {"state": state, "outcome": outcome} | values


def _success(outcome: str, result: bytes, answer: Succeeded) -> Columns:
    return _columns(
        "succeeded", outcome, result=result, model=answer.model, provider=answer.provider, tokens=answer.tokens
    )


def _succeeded(result: Vector | JsonValue, columns: Any) -> Succeeded:  # noqa: ANN401  see outcome_of
    return Succeeded(result, columns.model or "", columns.provider or "", columns.tokens or 0)


def _vector(data: bytes | None, dimensions: int | None) -> bytes:
    if data is None or dimensions is None:
        raise Damaged("its vector is missing")
    if len(data) != dimensions * FLOAT32_BYTES:
        raise Damaged(f"its vector has {len(data)} bytes where {dimensions} numbers were stored")
    return data
