"""Whether an answer can be believed: as many vectors as texts, finite, not all zero, of the right length."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.outcome import FLOAT32_BYTES
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.models import known

Usual: TypeAlias = Callable[[str], int | None]
"""Knows how many dimensions a model's vectors have where none are asked for; None where it does not."""


def usual_length(model: str) -> int | None:
    """The usual number of dimensions of a well-known model."""
    facts = known(model)
    return facts.dimensions if facts else None


def check_embeddings(answer: Embeddings, *, inputs: int, dimensions: int | None, usual: Usual = usual_length) -> None:
    """Raise ProviderUnavailable with what is wrong, unless ``answer`` fits ``inputs`` texts and what was asked.

    ``dimensions`` None means the ``usual`` length of the model that answered; where that is not known, only equal
    lengths are asked.
    """
    fault = (
        _wrong_count(answer, inputs)
        or _uneven(answer)
        or _wrong_length(answer, dimensions or usual(answer.model))
        or _wrong_numbers(answer)
    )
    if fault:
        raise ProviderUnavailable(f"the answer of {answer.provider} is not believed: {fault}")


def _wrong_count(answer: Embeddings, inputs: int) -> str | None:
    count = len(answer.vectors)
    return None if count == inputs else f"{count} vectors for {inputs} texts"


def _uneven(answer: Embeddings) -> str | None:
    return "its vectors have different lengths" if len(set(map(len, answer.vectors))) > 1 else None


def _wrong_length(answer: Embeddings, wanted: int | None) -> str | None:
    dimensions, rest = divmod(len(answer.vectors[0]), FLOAT32_BYTES)
    if dimensions == 0 or rest:
        return "a vector is not a row of float32 numbers"
    if wanted is not None and dimensions != wanted:
        return f"{answer.model} gave {dimensions} dimensions instead of {wanted}"
    return None


def _wrong_numbers(answer: Embeddings) -> str | None:
    numbers = np.frombuffer(b"".join(answer.vectors), dtype="<f4").reshape(len(answer.vectors), -1)
    if not np.isfinite(numbers).all():
        return "a vector has numbers that are not finite"
    if not numbers.any(axis=1).all():
        return "a vector is all zeros"
    return None
