"""What is known of well-known embedding models: usual length, longest input, and whether a vector may be shortened."""

import sys
from collections.abc import Mapping

from msgspec import Struct

LATEST = ":latest"
MAX_REQUEST_TOKENS = 300_000
"""Tokens of all texts together that OpenAI takes in one request."""

BYTES_PER_TOKEN = 3
"""For estimates: English has about four and a half, Chinese and Japanese about three."""


class Model(Struct, frozen=True):
    """``dimensions`` of its vectors, ``max_tokens`` of one input (None: any number).

    ``shortens`` says whether fewer dimensions may be asked for.
    """

    dimensions: int
    max_tokens: int | None
    shortens: bool = False


def known(name: str) -> Model | None:
    """What is known of the model, None for a stranger; ``:latest`` means the name without it."""
    return _MODELS.get(canonical(name))


def gives(name: str, dimensions: int) -> bool:
    """Whether the model can give vectors of this length; a stranger is believed to."""
    facts = known(name)
    return facts is None or dimensions == facts.dimensions or (facts.shortens and dimensions < facts.dimensions)


def canonical(name: str) -> str:
    """The name without ``:latest``: Ollama's two spellings of one model become one."""
    return name.removesuffix(LATEST)


def same_model(one: str, other: str) -> bool:
    """Whether two names mean one model."""
    return canonical(one) == canonical(other)


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, rather too many than too few for European and East Asian languages.

    A third of its UTF-8 bytes. Real tokenizers differ by a factor of two either way on code, emoji and rare scripts.
    """
    return len(text.encode()) // BYTES_PER_TOKEN + 1


def most_read(model: str) -> int:
    """How many tokens of one text the model reads, at most; no bound is known of a stranger."""
    facts = known(model)
    return sys.maxsize if facts is None or facts.max_tokens is None else facts.max_tokens


_MODELS: Mapping[str, Model] = {
    # OpenAI
    "text-embedding-3-small": Model(1536, 8192, shortens=True),
    "text-embedding-3-large": Model(3072, 8192, shortens=True),
    "text-embedding-ada-002": Model(1536, 8192),
    # Ollama's library; its server shortens the vectors of any model, and reads 2,048 tokens of most
    "nomic-embed-text": Model(768, 2048, shortens=True),
    "nomic-embed-text:v1.5": Model(768, 2048, shortens=True),
    "nomic-embed-text-v2-moe": Model(768, 512, shortens=True),
    "mxbai-embed-large": Model(1024, 512, shortens=True),
    "mxbai-embed-large:335m": Model(1024, 512, shortens=True),
    "all-minilm": Model(384, 256, shortens=True),
    "all-minilm:22m": Model(384, 256, shortens=True),
    "all-minilm:33m": Model(384, 256, shortens=True),
    "bge-m3": Model(1024, 8192, shortens=True),
    "bge-m3:567m": Model(1024, 8192, shortens=True),
    "bge-large": Model(1024, 512, shortens=True),
    "paraphrase-multilingual": Model(768, 512, shortens=True),
    "embeddinggemma": Model(768, 2048, shortens=True),
    "embeddinggemma:300m": Model(768, 2048, shortens=True),
    "granite-embedding": Model(384, 512, shortens=True),
    "granite-embedding:30m": Model(384, 512, shortens=True),
    "granite-embedding:278m": Model(768, 512, shortens=True),
    "snowflake-arctic-embed": Model(1024, 512, shortens=True),
    "snowflake-arctic-embed:22m": Model(384, 512, shortens=True),
    "snowflake-arctic-embed:33m": Model(384, 512, shortens=True),
    "snowflake-arctic-embed:110m": Model(768, 512, shortens=True),
    "snowflake-arctic-embed:137m": Model(768, 2048, shortens=True),
    "snowflake-arctic-embed:335m": Model(1024, 512, shortens=True),
    "snowflake-arctic-embed2": Model(1024, 8192, shortens=True),
    "snowflake-arctic-embed2:568m": Model(1024, 8192, shortens=True),
    "qwen3-embedding": Model(4096, 32768, shortens=True),
    "qwen3-embedding:0.6b": Model(1024, 32768, shortens=True),
    "qwen3-embedding:4b": Model(2560, 32768, shortens=True),
    "qwen3-embedding:8b": Model(4096, 32768, shortens=True),
    # In the process
    "wordllama-l2-supercat": Model(256, None, shortens=True),
}
