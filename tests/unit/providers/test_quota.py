import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.quota import Allowance, Quota
from ai_task_processor.providers.quota import quota

FULL = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-limit-tokens": "160000",
    "x-ratelimit-remaining-tokens": "159976",
    "x-ratelimit-reset-tokens": "2s",
}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (FULL, Quota(Allowance(4999, 5000, 0.012), Allowance(159976, 160000, 2.0))),
        ({"X-RateLimit-Remaining-Requests": "0"}, Quota(requests=Allowance(0))),
        (
            {"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "1m0s"},
            Quota(None, Allowance(7, None, 60)),
        ),
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-limit-tokens": "0"}, Quota(None, Allowance(7))),
        ({"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-limit-tokens": "-1"}, None),
        ({"x-ratelimit-remaining-requests": "many"}, None),
        ({"x-ratelimit-limit-requests": "60"}, None),
        ({}, None),
    ],
)
def test_reads_the_figures(headers: dict[str, str], expected: Quota | None) -> None:
    assert quota(httpx2.Headers(headers)) == expected


@given(st.dictionaries(st.sampled_from(sorted(FULL)), st.text(st.characters(min_codepoint=32, max_codepoint=126))))
def test_any_header_is_a_figure_or_none(headers: dict[str, str]) -> None:
    found = quota(headers)
    for allowance in (found.requests, found.tokens) if found else ():
        assert allowance is None or allowance.remaining >= 0
