import itertools
import random
from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ai_task_processor.domain.amount import UNLIMITED, USD, Amount
from ai_task_processor.domain.outcome import Failed
from ai_task_processor.domain.ports import WindowUsage
from ai_task_processor.domain.task import Task
from ai_task_processor.domain.work import Rejection, Work
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.batching import batches, fitting
from ai_task_processor.pipeline.dispatch import Dispatch, DispatchSettings
from ai_task_processor.pipeline.planning import Defect
from ai_task_processor.pipeline.rationing import Planned, Rations
from tests.fakes.flow import Echo, OneWindow, Recorder, ScriptedReporter, task
from tests.fakes.time import ManualClock

amounts = st.builds(Amount, st.integers(0, 5), st.integers(0, 50), st.integers(0, 50))


class Tokens(OneWindow):
    """A limiter with ``left`` of ``limit`` tokens, and as many trillionths of a dollar."""

    def __init__(self, left: int, limit: int = 100) -> None:
        super().__init__()
        self.left, self.limit = left, limit

    def headroom(self) -> Amount:
        return replace(UNLIMITED, tokens=self.left, cost=self.left)

    def opens_at(self, least: Amount = UNLIMITED) -> float | None:
        return None if least.within(self.headroom()) else 40.0

    def usage(self) -> Mapping[str, WindowUsage]:
        return {
            "minute": WindowUsage(0, 1, 1, None),
            "tokens_per_minute": WindowUsage(self.limit - self.left, self.limit, self.left, None, "tokens"),
            "cost_per_day": WindowUsage(self.limit - self.left, self.limit, self.left, None, "cost"),
        }


def planned(name: str, size: int = 0, cost: int = 0, key: str = "echo m") -> Planned:
    one = task(name, batch_key=key)
    return one, Work(one, "m", None, size=size, cost=cost)


def test_the_first_that_fit_together_go() -> None:
    rations = Rations(Tokens(left=60))
    plans = [planned("1", 30), planned("2", 30), planned("3", 1)]
    assert rations.fitting(plans) == plans[:2]
    assert rations.waiting() == {}


def test_a_kind_waits_for_its_first_task_however_large_that_is() -> None:
    limiter = Tokens(left=60)
    rations = Rations(limiter)
    assert rations.fitting([planned("large", 61), planned("small", 1)]) == []
    assert rations.waiting() == {"echo m": 40.0}
    assert rations.fitting([planned("other", 1, key="echo n")])
    limiter.left = 61
    assert rations.waiting() == {}
    limiter.left = 60
    assert rations.waiting() == {}


def test_money_counts_as_tokens_do() -> None:
    rations = Rations(Tokens(left=60))
    assert len(rations.fitting([planned("1", 1, cost=60), planned("2", 1, cost=1)])) == 1


def test_what_is_no_work_needs_no_room() -> None:
    rations = Rations(Tokens(left=0))
    plans: list[Planned] = [(task("1"), Rejection("no")), (task("2"), Defect("trace")), planned("3", 1)]
    assert rations.fitting(plans) == plans[:2]


@pytest.mark.parametrize(
    ("size", "cost", "named"),
    [(101, 0, "101 tokens; this installation allows 100 tokens per minute"), (1, 101, "cost per day")],
)
def test_what_no_limit_will_ever_let_through_is_refused_in_words(size: int, cost: int, named: str) -> None:
    ((_, refused),) = Rations(Tokens(left=100)).affordable([planned("1", size, cost)])
    assert isinstance(refused, Rejection)
    assert named in refused.reason


def test_what_fits_into_an_empty_window_is_not_refused() -> None:
    plans = [planned("1", 100, 100)]
    assert Rations(Tokens(left=3)).affordable(plans) == plans


@given(st.lists(amounts), amounts)
def test_fitting_is_the_longest_beginning_within_the_room(given_amounts: list[Amount], room: Amount) -> None:
    count = fitting(given_amounts, room)
    assert sum(given_amounts[:count], Amount()).within(room)
    if count < len(given_amounts):
        assert not sum(given_amounts[: count + 1], Amount()).within(room)


@given(st.lists(st.integers(0, 50)), st.integers(1, 8), st.integers(1, 100))
def test_batches_keep_to_tokens_and_count_and_lose_nothing(sizes: list[int], size: int, tokens: int) -> None:
    works = [Work(task(str(place)), "m", None, size=tokens_of) for place, tokens_of in enumerate(sizes)]
    made = batches(works, size, tokens=tokens)
    assert [work for batch in made for work in batch.works] == works
    for batch, following in itertools.pairwise(made):
        assert len(batch.works) == size or sum(work.size for work in (*batch.works, following.works[0])) > tokens
    for batch in made:
        assert len(batch.works) == 1 or sum(work.size for work in batch.works) <= tokens
        assert len(batch.works) <= size


class Sized(Echo):
    """A processor for whose tasks the content says how many tokens they have."""

    def plan(self, task: Task) -> Work | Rejection:
        return Work(task, "m", None, size=int(str(task.content)))


async def test_dispatch_gives_back_what_does_not_fit_and_announces_only_the_rest() -> None:
    limiter, journal, echo, reporter = Tokens(left=60), MemoryJournal(ManualClock()), Sized(), ScriptedReporter()
    dispatch = Dispatch(
        DispatchSettings(batch_size=8, max_attempts=3, announce=True),
        journal=journal,
        processors={"echo": echo},
        limiter=limiter,
        reporter=reporter,
        clock=ManualClock(0.0),
        observer=Recorder(),
        randomness=random.Random(1),
    )
    sizes = {"a": 40, "b": 30, "c": 10, "never": 101}
    held = [task(name, content=str(size), created_at=float(at)) for at, (name, size) in enumerate(sizes.items())]
    await journal.accept(held, await journal.mark())
    assert await dispatch.step() == 0
    assert (echo.performed, reporter.announced) == ([("a",)], ["a"])
    limiter.left = 20
    assert await dispatch.step() == 0  # looks, and learns that b must wait
    assert await dispatch.step() == 40
    assert (await journal.backlog()).ready == 3
    limiter.left = 100
    assert await dispatch.step() == 0
    assert echo.performed[1:] == [("b", "c")]
    outcomes = {entry.task_id: entry.outcome for entry in await journal.unreported(9)}
    assert [name for name, outcome in outcomes.items() if isinstance(outcome, Failed)] == ["never"]
    assert len(outcomes) == 4


class Leisurely(MemoryJournal):
    """A journal whose answers take so long that the window has more room when a claim comes back."""

    limiter: Tokens | None = None

    async def claim(self, limit: int, without: Collection[str] = ()) -> tuple[Task, ...]:
        tasks = await super().claim(limit, without)
        if without and self.limiter:
            self.limiter.left = 100
        return tasks


async def test_a_window_that_opens_while_others_are_looked_for_leaves_nobody_waiting_for_ever() -> None:
    limiter, journal, echo = Tokens(left=20), Leisurely(ManualClock()), Sized()
    dispatch = Dispatch(
        DispatchSettings(batch_size=8, max_attempts=3),
        journal=journal,
        processors={"echo": echo},
        limiter=limiter,
        reporter=ScriptedReporter(),
        clock=ManualClock(0.0),
        observer=Recorder(),
        randomness=random.Random(1),
    )
    await journal.accept([task("large", content="30")], await journal.mark())
    assert await dispatch.step() == 0  # looks, and learns that it must wait
    journal.limiter = limiter
    assert await dispatch.step() == 0
    assert await dispatch.step() == 0
    assert echo.performed == [("large",)]


def test_a_dollar_is_told_as_one() -> None:
    class Money(Tokens):
        def usage(self) -> Mapping[str, WindowUsage]:
            return {"cost_per_day": WindowUsage(0, USD, USD, None, "cost")}

    ((_, refused),) = Rations(Money(left=1)).affordable([planned("1", 1, cost=2 * USD)])
    assert refused == Rejection(
        "The text may cost 2.00000000 US dollars; this installation allows a cost per day of 1.00000000. Shorten it."
    )
