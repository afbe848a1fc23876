import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.tokens import most_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 2),
        ("a", 3),
        ("the quick brown fox", 12),
        ("1234", 6),
        ("ABC", 5),
        ("{}[]", 6),
        ("é", 3),
        ("привет", 8),
        ("καλημέρα", 18),
        ("你好", 6),
        ("안녕", 6),
        ("สวัสดี", 20),
        ("👩‍👩‍👧", 20),
    ],
)
def test_examples(text: str, tokens: int) -> None:
    assert most_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "counted"),
    # As OpenAI's tokenizer of these models (cl100k_base) counts them.
    [("Hello, world!", 4), ("tiktoken is great!", 6), ("antidisestablishmentarianism", 6), ("2 + 2 = 4", 7)],
)
def test_known_counts_are_below(text: str, counted: int) -> None:
    assert counted <= most_tokens(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_never_more_than_a_token_for_each_byte(text: str) -> None:
    assert len(text) / 2 <= most_tokens(text) <= len(text.encode()) + 3


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_longer_text_has_no_fewer(one: str, more: str) -> None:
    assert most_tokens(one) <= most_tokens(one + more)
