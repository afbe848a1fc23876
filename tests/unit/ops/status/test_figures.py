import pytest

from ai_task_processor.ops.status.figures import (
    ago,
    clock_time,
    count,
    duration,
    iso,
    money,
    plain,
    plural,
    short_count,
)
from tests.fakes.time import BEGINNING


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (99_999, "99.9k"),
        (123_456, "123k"),
        (999_999, "999k"),
        (1_000_000, "1M"),
        (48_204_000_000, "48.2G"),
        (7e15, "7,000T"),
    ],
)
def test_a_large_number_takes_little_room_and_is_never_more_than_it_is(number: float, shown: str) -> None:
    assert short_count(number) == shown


def test_numbers_have_their_thousands_apart() -> None:
    assert (count(1_234_567), plural(1, "task"), plural(2_000, "task")) == ("1,234,567", "1 task", "2,000 tasks")


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        (0, "$0.00"),
        (1_204.5, "$1,204.50"),
        (0.1, "$0.10"),
        (0.0421, "$0.042"),
        (0.00042, "$0.00042"),
        (2e-8, "less than $0.000001"),
    ],
)
def test_a_small_sum_is_not_nothing(dollars: float, shown: str) -> None:
    assert money(dollars) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (100, "1 min 40 s"),
        (600, "10 min"),
        (642, "10 min"),
        (3_600, "1 h"),
        (11_520, "3 h 12 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (3 * 86_400 + 4 * 3_600, "3 d 4 h"),
        (40 * 86_400 + 4 * 3_600, "40 d"),
    ],
)
def test_a_duration_has_the_units_that_matter(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-3, "just now"), (0.2, "just now"), (12, "12 s ago"), (100, "1 min ago"), (2e5, "2 d ago")]
)
def test_what_is_past_has_one_unit(seconds: float, shown: str) -> None:
    assert ago(BEGINNING - seconds, BEGINNING) == shown


def test_moments_are_in_utc() -> None:
    assert iso(BEGINNING) == "2023-11-14T22:13:20Z"
    assert clock_time(BEGINNING) == "2023-11-14 22:13:20 UTC"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("  two\nlines\t", "two lines"),
        ("\x1b[31mred\x1b[0m \x07", "[31mred [0m"),
        ("left \u202eright", "left right"),
        ("x" * 20, "xxxxxxxxx…"),
        ("naïve 漢字", "naïve 漢字"),
    ],
)
def test_what_servers_say_moves_no_cursor(said: str, shown: str) -> None:
    assert plain(said, 10 if said.startswith("xx") else 100) == shown
