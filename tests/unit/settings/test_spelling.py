import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.spelling import misspelt

KNOWN = {"RATE_LIMIT_PER_MINUTE", "RATE_LIMIT_PER_MONTH", "COST_LIMIT_PER_DAY", "OPENAI_API_KEY", "LONG"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RATE_LIMIT_PER_MINUT", "RATE_LIMIT_PER_MINUTE"),
        ("RATE_LIMITS_PER_MINUTE", "RATE_LIMIT_PER_MINUTE"),
        ("RATE_LIMIT_PER_MNIUTE", "RATE_LIMIT_PER_MINUTE"),
        ("COST_LIMIT_PER_DAX", "COST_LIMIT_PER_DAY"),
        ("0PENAI_API_KEY", "OPENAI_API_KEY"),
        ("RATE_LIMIT_PER_WEEK", ""),
        ("OPENAI_API_KEY_OF_ANOTHER", ""),
        ("OPENAI_API_KEY", ""),
        ("LON", ""),
        ("PATH", ""),
        ("", ""),
    ],
)
def test_slips(name: str, meant: str) -> None:
    assert misspelt({name}, KNOWN) == ({name: meant} if meant else {})


@given(st.sampled_from(sorted(KNOWN - {"LONG"})), st.integers(0, 40), st.sampled_from(string.ascii_uppercase))
def test_one_slip_is_always_found(name: str, place: int, letter: str) -> None:
    place %= len(name)
    before, here, after = name[:place], name[place], name[place + 1 :]
    slips = {
        before + after,
        before + letter + here + after,
        before + letter + after,
        before + after[:1] + here + after[1:],
    }
    assert misspelt(slips, KNOWN) == dict.fromkeys(slips - KNOWN, name)
