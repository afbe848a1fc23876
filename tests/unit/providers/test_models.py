import pytest

from ai_task_processor.providers.models import canonical, estimated_tokens, gives, known, same_model


@pytest.mark.parametrize(
    ("model", "dimensions", "max_tokens"),
    [
        ("text-embedding-3-small", 1536, 8192),
        ("text-embedding-3-large", 3072, 8192),
        ("text-embedding-ada-002", 1536, 8192),
        ("nomic-embed-text", 768, 2048),
        ("nomic-embed-text:latest", 768, 2048),
        ("mxbai-embed-large", 1024, 512),
        ("all-minilm", 384, 256),
        ("bge-m3", 1024, 8192),
    ],
)
def test_known(model: str, dimensions: int, max_tokens: int) -> None:
    facts = known(model)
    assert facts is not None
    assert (facts.dimensions, facts.max_tokens) == (dimensions, max_tokens)


@pytest.mark.parametrize("model", ["nomic", "nomic-embed-text:v9", "", ":latest"])
def test_strangers(model: str) -> None:
    assert known(model) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("nomic-embed-text", "nomic-embed-text:latest", True),
        ("nomic-embed-text:latest", "nomic-embed-text:latest", True),
        ("nomic-embed-text:v1.5", "nomic-embed-text", False),
        ("a:latest", "b:latest", False),
    ],
)
def test_same_model(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a column of the table
    assert same_model(one, other) is same
    assert (canonical(one) == canonical(other)) is same


@pytest.mark.parametrize(
    ("model", "dimensions", "can"),
    [
        ("text-embedding-3-small", 1536, True),
        ("text-embedding-3-small", 768, True),
        ("text-embedding-3-small", 1537, False),
        ("text-embedding-ada-002", 1536, True),
        ("text-embedding-ada-002", 768, False),
        ("stranger", 12345, True),
    ],
)
def test_gives(model: str, dimensions: int, can: bool) -> None:  # noqa: FBT001 - a column of the table
    assert gives(model, dimensions) is can


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("The quick brown fox jumps over the lazy dog.", 10, 20),
        ("こんにちは世界", 5, 12),
        ("a", 1, 1),
    ],
)
def test_estimates_are_of_the_right_order(text: str, least: int, most: int) -> None:
    assert least <= estimated_tokens(text) <= most
