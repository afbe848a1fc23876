import itertools

from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.ops.repetition import MOST_CONDITIONS, Lasted, Repetition
from tests.fakes.time import ManualClock


def test_the_first_is_told_then_one_a_minute_with_how_many() -> None:
    clock = ManualClock()
    repetition = Repetition(clock)
    told = []
    for _ in range(13):
        told.append(repetition.met("down", every=60))
        clock.advance(10)
    assert told == [1, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 6]


def test_the_end_says_how_long_and_how_often_and_only_once() -> None:
    clock = ManualClock()
    repetition = Repetition(clock)
    repetition.met("down", every=60)
    clock.advance(100)
    repetition.met("down", every=60)
    assert repetition.over("down") == Lasted(times=2, seconds=100)
    assert repetition.over("down") is None
    assert repetition.met("down", every=60) == 1


def test_conditions_do_not_mix() -> None:
    repetition = Repetition(ManualClock())
    assert [repetition.met(key, every=60) for key in ("a", "b", "a")] == [1, 1, 0]


def test_only_so_many_are_remembered_and_the_one_told_longest_ago_goes() -> None:
    clock = ManualClock()
    repetition = Repetition(clock)
    for number in range(MOST_CONDITIONS + 1):
        repetition.met(number, every=60)
        clock.advance(0.001)
    assert repetition.over(0) is None
    assert repetition.over(1) is not None


@given(st.lists(st.floats(min_value=0, max_value=200), min_size=1))
def test_every_meeting_is_told_of_or_still_untold_and_never_too_soon(pauses: list[float]) -> None:
    clock = ManualClock()
    repetition = Repetition(clock)
    told = []
    for pause in pauses:
        clock.advance(pause)
        times = repetition.met("x", every=60)
        if times:
            told.append((clock.monotonic(), times))
    assert sum(times for _, times in told) <= len(pauses)
    assert all(later[0] - earlier[0] >= 60 for earlier, later in itertools.pairwise(told))
    assert told[0][1] == 1
