import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.providers.refusals import MESSAGE_LIMIT, says_too_long, told, too_long


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "This model's maximum context length is 8192 tokens, however you requested 10004 tokens (10004 in it)",
            "The text is too long: it has 10004 tokens; m takes at most 8192.",
        ),
        (
            "This model's maximum context length is 512 tokens. However, your request has 600 input tokens.",
            "The text is too long: it has 600 tokens; m takes at most 512.",
        ),
        ("Invalid 'input[3]': maximum context length is 8192 tokens.", "it has about 5 tokens; m takes at most 8192."),
        (
            "input (701 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
            "it has 701 tokens; m takes at most 512.",
        ),
        (
            "input (701 tokens) is larger than the max context size (512 tokens). skipping",
            "it has 701 tokens; m takes at most 512.",
        ),
        (
            "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
            "it has 600 tokens; m takes at most 512.",
        ),
        ("the input length exceeds the context length", "it has about 5 tokens; m takes fewer."),
        ("the input exceeds maximum context length", "it has about 5 tokens; m takes fewer."),
    ],
)
def test_too_long(message: str, sentence: str) -> None:
    assert says_too_long(message)
    assert sentence in str(too_long(message, ["twelve bytes"], "m"))


def test_a_known_model_s_limit_is_filled_in() -> None:
    error = too_long("the input length exceeds the context length", ["a" * 9000], "nomic-embed-text:latest")
    assert "at most 2048" in str(error)
    assert (error.measured, error.allowed) == (3001, 2048)


@pytest.mark.parametrize("message", ["Requested 350000 tokens, max 300000 tokens per request", "invalid input", ""])
def test_other_refusals_are_not_about_length(message: str) -> None:
    assert not says_too_long(message)


@pytest.mark.parametrize(
    ("message", "texts", "words"),
    [
        ("invalid input", ["a text"], "invalid input"),
        ("line\n  and  line", [], "line and line"),
        ("x" * 1000, [], "x" * MESSAGE_LIMIT + "…"),
        ("this has the word is in it", ["is"], "this has the word is in it"),
    ],
)
def test_told(message: str, texts: list[str], words: str) -> None:
    assert told(message, texts) == words


@given(
    text=st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1).filter(str.strip), before=st.text(max_size=5)
)
def test_a_quoted_text_is_never_told(text: str, before: str) -> None:
    assert (
        told(f"{before}'{' '.join(text.split())}'", [text]) == "it gave a reason that repeats the text, left out here"
    )
