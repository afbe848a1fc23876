from hypothesis import example, given
from hypothesis import strategies as st

from ai_task_processor.providers.cache import KEY_BYTES, Kept, cache_key, packed, unpacked

KEY = b"k" * KEY_BYTES
NAMES = st.text("abc:/ ", max_size=4)
REQUESTS = st.tuples(NAMES, NAMES, st.none() | st.integers(1, 9_999), st.text(max_size=6))


@given(one=REQUESTS, other=REQUESTS)
@example(one=("e", "m", None, "\0x"), other=("e", "m", None, "x"))
@example(one=("e", "m", 12, "3"), other=("e", "m", 1, "23"))
@example(one=("e", "m1", 2, "t"), other=("e", "m", 12, "t"))
@example(one=("openai u", "m", None, "t"), other=("mock ", "m", None, "t"))
def test_keys_are_equal_only_for_equal_requests(
    one: tuple[str, str, int | None, str], other: tuple[str, str, int | None, str]
) -> None:
    same = one[0] == other[0] and one[1].removesuffix(":latest") == other[1].removesuffix(":latest")
    assert (cache_key(*one) == cache_key(*other)) == (same and one[2:] == other[2:])


def test_both_spellings_of_a_model_are_one() -> None:
    assert cache_key("ollama", "m:latest", None, "t") == cache_key("ollama", "m", None, "t")


def test_a_key_of_any_text_has_one_length() -> None:
    assert {len(cache_key("e", "m", 1, text)) for text in ("", "a" * 99_999, "\ud800", "😀")} == {KEY_BYTES}


@given(vector=st.binary(max_size=40), model=st.text(st.characters(codec="utf-8"), max_size=9))
def test_what_is_packed_is_unpacked(vector: bytes, model: str) -> None:
    assert unpacked(KEY, packed(KEY, Kept(vector, model))) == Kept(vector, model)


@given(vector=st.binary(min_size=4, max_size=12), data=st.data())
def test_no_change_of_one_byte_goes_unseen(vector: bytes, data: st.DataObject) -> None:
    entry = bytearray(packed(KEY, Kept(vector, "model")))
    entry[data.draw(st.integers(0, len(entry) - 1))] ^= data.draw(st.integers(1, 255))
    assert unpacked(KEY, bytes(entry)) is None


@given(entry=st.binary(max_size=30))
@example(b"")
@example(bytes(4))
@example(bytes(6))
def test_what_was_never_packed_is_nothing(entry: bytes) -> None:
    assert unpacked(KEY, entry) is None


def test_a_piece_of_an_entry_is_nothing() -> None:
    whole = packed(KEY, Kept(bytes(8), "model"))
    assert all(unpacked(KEY, whole[:length]) is None for length in range(len(whole)))
    assert unpacked(KEY, whole + b"\0") is None


def test_an_entry_under_another_s_key_is_nothing() -> None:
    assert unpacked(b"o" * KEY_BYTES, packed(KEY, Kept(bytes(8), "model"))) is None
