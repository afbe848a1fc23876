import random
from collections.abc import Generator, Iterable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.task import Task, urgency
from ai_task_processor.task_api.shortlist import STRIDE, Shortlist

T = TypeVar("T")


def task(number: int, age: int) -> Task:
    return Task(id=f"t{number}", type="text_embedding", content=None, created_at=float(age), priority=age % 3)


def done(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


def chosen(tasks: Iterable[Task], most: int | None, *, every: int = 100) -> tuple[list[Task], int]:
    """What a shortlist makes of them, and how many it held at most."""
    held, kept = 0, Shortlist(most)
    for place, one in enumerate(tasks):
        kept.offer(one)
        if place % every == 0:
            done(kept.settle())
        held = max(held, len(kept))
    return done(kept.taken()), held


@given(st.lists(st.integers(0, 50), max_size=60), st.none() | st.integers(0, 70))
def test_they_are_the_most_urgent_in_their_order(ages: list[int], most: int | None) -> None:
    tasks = [task(number, age) for number, age in enumerate(ages)]
    assert chosen(tasks, most)[0] == sorted(tasks, key=urgency)[:most]


@pytest.mark.parametrize("order", ["old first", "young first", "shuffled"])
def test_no_list_is_too_long_for_it(order: str) -> None:
    ages = list(range(50_000))
    if order == "young first":
        ages.reverse()
    if order == "shuffled":
        random.Random(1).shuffle(ages)
    tasks = [task(age, age) for age in ages]
    taken, held = chosen(tasks, 500)
    assert taken == sorted(tasks, key=urgency)[:500]
    assert held <= 500 + STRIDE + 100, "each is offered to an array of 500, and to those since the last look"


def test_each_id_is_kept_once_and_the_first_of_its_entries_counts() -> None:
    again = Task(id="t1", type="other", content=None, created_at=0.0)
    taken, _ = chosen([task(1, 5), again, task(2, 1)], 10)
    assert taken == sorted([task(1, 5), task(2, 1)], key=urgency)
