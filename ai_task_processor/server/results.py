"""A result as a client sends it, understood: how it is kept, and whether it is an embedding."""

from collections.abc import Mapping

import numpy as np
import orjson

from ai_task_processor.domain.errors import TaskProcessorError
from ai_task_processor.server.tasks import Answer

NUMBER_TYPES = frozenset({int, float})  # JSON has no other numbers, and bool, a kind of int to Python, is none


class TooDeep(TaskProcessorError):
    """A value is nested deeper than can be written as JSON again."""


def answer_of(result: object) -> Answer:
    """The result as it is kept: float32 bytes where these give back every number exactly, JSON otherwise.

    Raises TooDeep.
    """
    vector = _float32(result) if isinstance(result, list) else None
    return Answer(json=as_json(result)) if vector is None else Answer(vector=vector)


def embedding_fault(result: object) -> str | None:
    """Why ``result`` is no embedding, None where it is one: a list of numbers, or an object with an ``embedding``."""
    if isinstance(result, list):
        return _vector_fault("result", result)
    if isinstance(result, Mapping) and "embedding" in result:
        return _detailed_fault(result)
    return 'result: an embedding is a list of numbers, or an object with a list of numbers as its "embedding"'


def as_json(value: object) -> str:
    """``value`` as JSON, always written in the same way. Raises TooDeep."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError as error:
        raise TooDeep("is nested too deeply") from error


def _float32(numbers: list[object]) -> bytes | None:
    if not numbers or not _only_numbers(numbers):
        return None
    with np.errstate(over="ignore"):
        vector = np.array(numbers, dtype="<f4")
    exact = orjson.loads(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)) == numbers
    return vector.tobytes() if exact else None


def _detailed_fault(result: Mapping[str, object]) -> str | None:
    embedding = result["embedding"]
    fault = _vector_fault("result.embedding", embedding)
    if fault or not isinstance(embedding, list):
        return fault
    dimensions = result.get("dimensions", len(embedding))
    if dimensions != len(embedding):
        return f"result.dimensions: must be {len(embedding)}, the number of numbers in the embedding"
    return None


def _vector_fault(name: str, vector: object) -> str | None:
    if not isinstance(vector, list):
        return f"{name}: must be a list of numbers"
    if not vector:
        return f"{name}: is empty; an embedding has at least one number"
    if not _only_numbers(vector):
        return f"{name}: must hold nothing but numbers; the one at index {_first_other(vector)} is none"
    return None


def _only_numbers(values: list[object]) -> bool:
    return set(map(type, values)) <= NUMBER_TYPES


def _first_other(values: list[object]) -> int:
    return next(index for index, value in enumerate(values) if type(value) not in NUMBER_TYPES)
