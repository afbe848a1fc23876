"""How many tokens a text can have, as far as that can be said without the model's own tokenizer."""

_PLAIN = b"abcdefghijklmnopqrstuvwxyz "
_CONTINUED = bytes(range(0x80, 0xC0))
_TWO = bytes([*range(0xCD, 0xD0), *range(0xD4, 0xD8), *range(0xDC, 0xE0), *range(0xE3, 0xEE)])
_THREE = bytes([0xE0, 0xE1, 0xE2, 0xEE, 0xEF])
_FOUR = bytes(range(0xF0, 0xF8))

_CLASSES = ((_PLAIN, -1), (_CONTINUED, -2), (_TWO, 2), (_THREE, 4), (_FOUR, 6))
"""Bytes of UTF-8, and how many half tokens their character may have more than the two of all others."""

_ADDED = 2
"""Tokens that a model puts around a text."""

LEAST_TOKENS = _ADDED + 1
"""No text is estimated to have less."""


def most_tokens(text: str) -> int:
    """More tokens than a text will have in all likelihood; about twice as many as English prose has.

    Half a token for a small Latin letter or a space; one for every other ASCII character, accented Latin, Cyrillic and
    Arabic letter; two for Greek, Hebrew, Chinese, Japanese and Korean; three or four for rarer scripts and emoji. A
    tokenizer that falls back to bytes gives more than this only to small letters and spaces without any words in them.
    """
    data = text.encode()
    size = len(data)
    if size == len(text):  # as nearly all are
        halves = size + len(data.translate(None, _PLAIN))
    else:
        halves = 2 * size + sum(more * (size - len(data.translate(None, kind))) for kind, more in _CLASSES)
    return (halves + 1) // 2 + _ADDED
