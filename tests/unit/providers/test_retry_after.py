import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.providers.retry_after import retry_after

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"Retry-After": "20"}, 20.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"retry-after-ms": "250", "Retry-After": "20"}, 0.25),
        ({"retry-after-ms": "soon", "Retry-After": "20"}, 20.0),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "7.66s", "Retry-After": "2"}, 2.0),
        ({"x-ratelimit-reset-tokens": "later"}, None),
        ({"x-ratelimit-reset-tokens": ""}, None),
    ],
)
def test_waits(headers: dict[str, str], wait: float | None) -> None:
    assert retry_after(httpx2.Headers(headers), now=NOW) == pytest.approx(wait)


names = st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "x-ratelimit-reset-requests"])


@given(st.dictionaries(names, st.text(st.characters(min_codepoint=32, max_codepoint=126))))
def test_any_header_is_a_wait_or_none(headers: dict[str, str]) -> None:
    wait = retry_after(headers, now=NOW)
    assert wait is None or wait >= 0
