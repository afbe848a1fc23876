import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.ops.status.chart import HEIGHT, ceiling, chart, table
from ai_task_processor.ops.status.facts import Minute

MINUTES = (Minute(),) * 57 + (Minute(succeeded=30), Minute(succeeded=1_000, failed=1), Minute(failed=7, deferred=9))


def bars(minutes: tuple[Minute, ...]) -> list[tuple[str, float, float, float]]:
    """Kind, left edge, upper edge and height of every bar."""
    found = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="7" height="([\d.]+)"', chart(minutes))
    return [(kind, float(x), float(y), float(height)) for kind, x, y, height in found]


def test_bars_stand_where_and_as_high_as_their_minutes_were() -> None:
    drawn = bars(MINUTES)
    assert [(kind, x) for kind, x, _, _ in drawn] == [
        ("succeeded", 571.5),
        ("succeeded", 581.5),
        ("failed", 581.5),
        ("failed", 591.5),
    ]
    small, large, failure, _ = drawn
    assert large[3] == pytest.approx(1_001 / 2_000 * 98, abs=0.1)
    assert small[3] == pytest.approx(30 / 2_000 * 98, abs=0.6)
    assert failure[3] == 2.0, "a single failure is to be seen"
    assert failure[2] + failure[3] == pytest.approx(large[2], abs=0.1), "failures stand on what succeeded"


@given(st.lists(st.builds(Minute, st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=60))
def test_no_bar_leaves_the_drawing(minutes: list[Minute]) -> None:
    for kind, x, y, height in bars(tuple(minutes)):
        assert 0 <= x < len(minutes) * 10
        assert y >= -0.1, kind
        assert y + height <= HEIGHT + 0.1


@given(st.integers(0, 10**12))
def test_the_scale_holds_the_most_and_has_a_whole_half(most: int) -> None:
    top = ceiling(most)
    assert max(most, 2) <= top <= max(5 * most, 2)
    assert top % 2 == 0


def test_it_says_what_it_shows() -> None:
    assert "1,038 in all, 8 of them failed, and at most 1,001 in one minute." in chart(MINUTES)
    assert "<title>1 minute ago: 1,000 succeeded, 1 failed</title>" in chart(MINUTES)
    assert "<title>This minute: 0 succeeded, 7 failed</title>" in chart(MINUTES)


def test_the_table_has_the_same_in_six_rows() -> None:
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>', table(MINUTES))
    assert rows[0] == ("0 to 10", "1,030", "8", "9")
    assert [row[0] for row in rows[1:]] == ["10 to 20", "20 to 30", "30 to 40", "40 to 50", "50 to 60"]
    assert {row[1:] for row in rows[1:]} == {("0", "0", "0")}
