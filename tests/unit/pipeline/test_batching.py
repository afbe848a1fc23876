import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ai_task_processor.domain.work import Work
from ai_task_processor.pipeline.batching import LINGER, batches, halves, linger
from tests.fakes.flow import task

works = st.lists(
    st.builds(
        lambda number, kind, key, attempts: Work(task(str(number), type=kind, attempts=attempts), key, None),
        st.integers(0, 10_000),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["x", "y"]),
        st.integers(0, 12),
    ),
    unique_by=lambda work: work.task.id,
)


@given(works, st.integers(1, 64))
def test_batches_hold_every_work_once_with_its_like_and_in_bounds(given_works: list[Work], size: int) -> None:
    made = batches(given_works, size)
    assert sorted(work.task.id for batch in made for work in batch.works) == sorted(w.task.id for w in given_works)
    for batch in made:
        assert batch.works
        assert {(work.task.type, work.key) for work in batch.works} == {(batch.type, batch.key)}
        attempts = {work.task.attempts for work in batch.works}
        assert len(attempts) == 1
        assert len(batch.works) <= max(1, size >> attempts.pop())


@given(works)
def test_the_order_within_a_batch_is_the_order_given(given_works: list[Work]) -> None:
    position = {work.task.id: index for index, work in enumerate(given_works)}
    for batch in batches(given_works, 8):
        places = [position[work.task.id] for work in batch.works]
        assert places == sorted(places)


def test_what_failed_six_times_travels_alone() -> None:
    tired = [Work(task(str(number), attempts=6), "k", None) for number in range(5)]
    assert [len(batch.works) for batch in batches(tired, 64)] == [1] * 5


@given(st.integers(2, 100))
def test_halves_are_both_smaller_and_make_the_whole(count: int) -> None:
    [batch] = batches([Work(task(str(number)), "k", None) for number in range(count)], count)
    first, second = halves(batch)
    assert first.works + second.works == batch.works
    assert second.works
    assert replace(batch, works=()) == replace(first, works=()) == replace(second, works=())


@pytest.mark.parametrize(
    ("count", "in_flight", "waited", "seconds"),
    [
        (3, 0, 0.0, 0.0),  # nobody waits for an idle provider
        (3, 1, 0.0, LINGER),
        (3, 5, LINGER / 2, LINGER / 2),
        (3, 1, LINGER, 0.0),
        (3, 1, LINGER - 1e-7, 0.0),  # or it would be asked again and again in the same moment
        (3, 1, 9.0, 0.0),
        (8, 1, 0.0, 0.0),  # full
        (9, 1, 0.0, 0.0),
    ],
)
def test_who_waits_for_company(count: int, in_flight: int, waited: float, seconds: float) -> None:
    assert linger(count, 8, in_flight=in_flight, waited=waited) == pytest.approx(seconds)
