from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.limits.tally import Tally
from ai_task_processor.limits.windows import BUCKETS, LENGTHS, Fixed, Strategy, WindowName, period_of, window_of
from tests.fakes.time import BEGINNING

UTC = ZoneInfo("UTC")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo"]
NAMES: list[WindowName] = list(LENGTHS)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("name", "zone", "time", "start", "end"),
    [
        ("minute", "UTC", "2024-02-29T12:34:56.7", "2024-02-29T12:34", "2024-02-29T12:35"),
        ("hour", "UTC", "2024-02-29T12:34:56", "2024-02-29T12:00", "2024-02-29T13:00"),
        ("hour", "Asia/Kolkata", "2024-02-29T12:34:56", "2024-02-29T12:00", "2024-02-29T13:00"),
        ("day", "UTC", "2024-02-29T00:00:00", "2024-02-29T00:00", "2024-03-01T00:00"),
        ("day", "America/New_York", "2024-02-29T23:59:59.999999", "2024-02-29T00:00", "2024-03-01T00:00"),
        ("week", "UTC", "2024-03-03T23:59:59", "2024-02-26T00:00", "2024-03-04T00:00"),
        ("week", "UTC", "2024-03-04T00:00:00", "2024-03-04T00:00", "2024-03-11T00:00"),
        ("month", "UTC", "2024-02-29T12:00:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("month", "UTC", "2023-12-31T23:59:59", "2023-12-01T00:00", "2024-01-01T00:00"),
        ("month", "Europe/Berlin", "2024-03-31T12:00:00", "2024-03-01T00:00", "2024-04-01T00:00"),
    ],
)
def test_calendar_periods(name: WindowName, zone: str, time: str, start: str, end: str) -> None:
    assert period_of(name, at(time, zone), ZoneInfo(zone)) == (at(start, zone), at(end, zone))


@pytest.mark.parametrize(
    ("zone", "time", "hours"),
    [
        ("Europe/Berlin", "2024-03-31T12:00", 23),
        ("Europe/Berlin", "2024-10-27T12:00", 25),
        ("Europe/Berlin", "2024-06-01T12:00", 24),
        ("America/Sao_Paulo", "2018-11-04T12:00", 23),  # midnight itself is skipped
        ("America/Sao_Paulo", "2018-02-17T12:00", 25),  # the hour before midnight comes twice
        ("Australia/Lord_Howe", "2024-04-07T12:00", 24.5),
    ],
)
def test_a_local_day_is_as_long_as_it_is(zone: str, time: str, hours: float) -> None:
    start, end = period_of("day", at(time, zone), ZoneInfo(zone))
    assert end - start == hours * 3_600


def test_a_date_that_the_clocks_show_twice_is_in_one_day() -> None:
    """In St John's of 2010 the clocks went back at 00:01, so that the seventh of November began twice."""
    zone = ZoneInfo("America/St_Johns")
    first = at("2010-11-07T00:00:30", "America/St_Johns")
    assert {period_of("day", first + seconds, zone) for seconds in range(0, 7_200, 60)} == {
        (at("2010-11-07T00:00", "America/St_Johns"), at("2010-11-08T00:00", "America/St_Johns"))
    }


TIMES = st.floats(min_value=0, max_value=4_000_000_000)


@given(name=st.sampled_from(NAMES), zone=st.sampled_from([*ZONES, "America/St_Johns", "Pacific/Apia"]), time=TIMES)
def test_a_period_holds_its_times_and_the_next_begins_where_it_ends(name: WindowName, zone: str, time: float) -> None:
    there = ZoneInfo(zone)
    start, end = period_of(name, time, there)
    assert start <= time < end
    assert period_of(name, start, there) == (start, end)
    following = period_of(name, end, there)
    assert following[0] == end or (name == "hour" and zone == "Australia/Lord_Howe" and following[0] < end)


@given(
    name=st.sampled_from(NAMES), zone=st.sampled_from(ZONES), time=TIMES, strategy=st.sampled_from(["rolling", "fixed"])
)
def test_a_bucket_counts_from_its_admission_until_it_says(
    name: WindowName, zone: str, time: float, strategy: Strategy
) -> None:
    window = window_of(name, strategy, ZoneInfo(zone))
    end = window.bucket_end(time)
    assert time < end <= time + LENGTHS[name] / BUCKETS + 1e-6
    assert end > window.horizon(time)
    frees_at = window.frees_at(end)
    assert end <= window.horizon(frees_at)
    if strategy == "rolling":
        assert end > window.horizon(time + LENGTHS[name])
    else:
        assert end > window.horizon(max(time, Fixed(name, ZoneInfo(zone)).period(time)[1] - 1e-3))


# --- Histories --------------------------------------------------------------------------------------------------------

LIMIT = 7
STEPS = st.lists(
    st.tuples(
        st.one_of(
            st.floats(0, 1), st.floats(0, 90), st.sampled_from([0.0, 0.46875, 30.0, 59.999, 60.0, 60.469, 3_600.0])
        ),
        st.integers(1, LIMIT),
    ),
    max_size=80,
)


def admitted(
    window_name: WindowName, strategy: Strategy, zone: ZoneInfo, steps: list[tuple[float, int]]
) -> list[float]:
    """Take what fits at every step; answers the moments of all admissions."""
    tally, time, moments = Tally(window_of(window_name, strategy, zone), LIMIT), BEGINNING, []
    for rest, count in steps:
        time += rest
        tally.expire(time)
        if tally.room >= count:
            tally.add(time, count)
            moments += [time] * count
    return moments


@given(steps=STEPS)
def test_no_interval_of_a_rolling_window_holds_more_than_the_limit(steps: list[tuple[float, int]]) -> None:
    moments = admitted("minute", "rolling", UTC, steps)
    for first in moments:
        assert sum(first <= moment < first + 60 for moment in moments) <= LIMIT


@given(steps=STEPS, zone=st.sampled_from(ZONES))
def test_no_calendar_period_holds_more_than_the_limit(steps: list[tuple[float, int]], zone: str) -> None:
    moments = admitted("minute", "fixed", ZoneInfo(zone), steps)
    for start in {period_of("minute", moment, ZoneInfo(zone))[0] for moment in moments}:
        assert sum(start <= moment < start + 60 for moment in moments) <= LIMIT


def test_an_hour_around_a_change_of_the_clocks_by_half_an_hour_is_never_exceeded() -> None:
    zone = ZoneInfo("Australia/Lord_Howe")
    change = at("2024-04-06T15:00")
    tally, moments = Tally(window_of("hour", "fixed", zone), LIMIT), []
    for minute in range(-180, 180):
        tally.expire(change + minute * 60)
        while tally.room:
            tally.add(change + minute * 60, 1)
            moments.append(change + minute * 60)
    periods = {period_of("hour", change + minute * 60, zone) for minute in range(-180, 180)}
    assert {change - 3_600, change - 1_800, change + 1_800} <= {start for start, _ in periods}
    for start, end in periods:
        assert sum(start <= moment < end for moment in moments) <= LIMIT


@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [1, 20, 1_000])
def test_a_steady_load_can_use_at_least_98_percent(name: WindowName, strategy: Strategy, limit: int) -> None:
    """The load comes back whenever it is told to, and else at a steady pace of twice the limit."""
    length, rounds = LENGTHS[name], 60 if limit == 1 else 4
    tally, taken = Tally(window_of(name, strategy, UTC), limit), 0
    begin, _ = period_of(name, BEGINNING, UTC)
    end = begin
    for _ in range(rounds):
        end = period_of(name, end, UTC)[1] if strategy == "fixed" else end + length
    time, pace = begin, length / limit / 2
    while time < end:
        tally.expire(time)
        if tally.room:
            tally.add(time, 1)
            taken += 1
            time += pace
        else:
            opening = tally.fits_at(1)
            assert opening is not None
            assert opening > time
            time = opening
    assert taken >= 0.98 * limit * rounds


@given(steps=STEPS)
def test_storage_stays_bounded(steps: list[tuple[float, int]]) -> None:
    tally, time = Tally(window_of("minute", "rolling", UTC), 10**9), BEGINNING
    for rest, count in steps * 5:
        time += rest / 20
        tally.expire(time)
        tally.add(time, count)
        assert len(tally.buckets()) <= BUCKETS + 3
        assert sum(held for _, held in tally.buckets()) == tally.used


# --- Tally ------------------------------------------------------------------------------------------------------------


def test_says_when_a_number_fits() -> None:
    tally = Tally(window_of("minute", "fixed", UTC), 10)
    start = at("2024-01-01T00:00")
    tally.add(start + 5, 4)
    tally.add(start + 30, 4)
    assert (tally.room, tally.fits_at(2), tally.fits_at(3)) == (2, None, start + 60)
    rolling = Tally(window_of("minute", "rolling", UTC), 10, tally.buckets())
    assert rolling.fits_at(2) is None
    assert rolling.fits_at(3) == rolling.fits_at(6) == rolling.frees_at() == pytest.approx(start + 65, abs=0.5)
    assert rolling.fits_at(7) == rolling.fits_at(10) == rolling.fits_at(500) == pytest.approx(start + 90, abs=0.5)


def test_a_lowered_limit_opens_only_when_enough_has_left() -> None:
    tally = Tally(window_of("minute", "rolling", UTC), 2, [(100.0, 5), (110.0, 5), (120.0, 1)])
    assert (tally.used, tally.room) == (11, 0)
    assert tally.fits_at(1) == pytest.approx(170, abs=0.01)


def test_giving_back_what_does_not_count_any_more_changes_nothing() -> None:
    tally = Tally(window_of("minute", "rolling", UTC), 10)
    gone = tally.add(0, 4)
    tally.expire(100)
    kept = tally.add(100, 3)
    tally.remove(gone, 4)
    assert tally.used == 3
    tally.remove(kept, 3)
    assert (tally.used, tally.frees_at(), tally.fits_at(10)) == (0, None, None)


def test_an_admission_at_an_earlier_time_counts_no_shorter() -> None:
    tally = Tally(window_of("minute", "rolling", UTC), 10)
    later = tally.add(50, 1)
    assert tally.add(10, 1) == later
