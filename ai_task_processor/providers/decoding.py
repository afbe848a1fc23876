"""Vectors out of a provider's JSON: base64 or lists of numbers become float32 bytes, without a step between."""

import binascii

import numpy as np
import pybase64

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.outcome import FLOAT32_BYTES


def vector(embedding: object) -> bytes:
    """One embedding as float32, little-endian.

    Raises ProviderUnavailable for what is neither a list of numbers nor base64 of float32 numbers. Numbers that no
    float32 can hold become infinite, for the checks to find.
    """
    if isinstance(embedding, str):
        return _from_base64(embedding)
    if isinstance(embedding, list):
        return _from_numbers(embedding)
    raise ProviderUnavailable(f"the answer cannot be read: an embedding is {type(embedding).__name__}")


def _from_base64(embedding: str) -> bytes:
    try:
        data = pybase64.b64decode(embedding, validate=True)  # a twentieth of what the standard library takes
    except (binascii.Error, ValueError) as error:
        raise ProviderUnavailable("the answer cannot be read: an embedding is not base64") from error
    if len(data) % FLOAT32_BYTES:
        raise ProviderUnavailable("the answer cannot be read: an embedding is not a row of float32 numbers")
    return data


def _from_numbers(embedding: list[object]) -> bytes:
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(embedding, dtype="<f4")
    except (TypeError, ValueError, OverflowError) as error:
        raise ProviderUnavailable("the answer cannot be read: an embedding has something else than numbers") from error
    if numbers.ndim != 1:
        raise ProviderUnavailable("the answer cannot be read: an embedding is not one row of numbers")
    return numbers.tobytes()
