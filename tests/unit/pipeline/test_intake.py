import random
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.errors import AuthenticationFailed, BreakerOpen, TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.events import EntryUnusable, Polled, PollFailed, TypeUnknown
from ai_task_processor.domain.outcome import Deferred, Succeeded
from ai_task_processor.domain.ports import Processor
from ai_task_processor.domain.task import Page, Task
from ai_task_processor.domain.work import Rejection, Work
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.intake import WISHED_PACE, Intake, IntakeSettings
from tests.fakes.flow import VECTOR, Echo, OneWindow, Recorder, ScriptedSource, page, task
from tests.fakes.time import ManualClock


class House:
    """Intake with its neighbours."""

    def __init__(self, *answers: Page | Exception, limiter: OneWindow | None = None, **settings: object) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.source = ScriptedSource(*answers)
        self.seen = Recorder()
        self.limiter = limiter or OneWindow()
        processors: Mapping[str, Processor] = {"echo": Echo()}
        known = {"interval": 30.0, "fetch_limit": 10, "hold_limit": 200}
        self.intake = Intake(
            IntakeSettings(**(known | settings)),  # type: ignore[arg-type]  # facts are keywords of IntakeSettings
            source=self.source,
            journal=self.journal,
            processors=processors,
            limiter=self.limiter,
            clock=self.clock,
            observer=self.seen,
            randomness=random.Random(1),
        )

    async def polls(self, steps: int) -> list[int]:
        """Step, letting the rests pass; answer the limits that were asked for."""
        for _ in range(steps):
            self.clock.advance(await self.intake.step())
        return self.source.limits


def tasks(count: int, first: int = 0) -> Page:
    return page(*(task(f"t{number:05}", created_at=float(number)) for number in range(first, first + count)))


async def test_an_idle_poll_rests_about_the_interval() -> None:
    house = House()
    assert 27 <= await house.intake.step() <= 33
    assert house.source.limits == [10]
    assert await house.intake.step() > 26
    assert house.source.limits == [10]


async def test_a_full_page_is_followed_at_once_while_we_run_dry() -> None:
    house = House(tasks(10), tasks(20))
    await house.intake.step()
    await house.journal.claim(10)
    await house.intake.step()
    assert house.source.limits == [10, 20]
    assert (await house.journal.backlog()).ready == 10


async def test_a_page_that_is_not_full_is_not_followed_at_once() -> None:
    house = House(tasks(3))
    await house.intake.step()
    assert 26 < await house.intake.step() <= 33


async def test_a_wish_to_poll_cuts_the_rest_short() -> None:
    house = House(tasks(0), tasks(2))
    rest = await house.intake.step()
    assert rest > 26
    house.intake.poll_now()
    assert 0 < await house.intake.step() <= WISHED_PACE
    house.clock.advance(WISHED_PACE)
    await house.intake.step()
    assert (await house.journal.backlog()).ready == 2
    assert await house.intake.step() > 26, "one wish is one poll"


async def test_a_wish_while_a_poll_is_on_its_way_is_not_lost() -> None:
    class Wishing(ScriptedSource):
        async def listed(self, limit: int) -> Page:
            if len(self.limits) == 1:
                house.intake.poll_now()  # the page may have been made before the task was
            return await super().listed(limit)

    house = House()
    house.source = house.intake._source = Wishing(tasks(0), tasks(2))
    await house.intake.step()
    house.clock.advance(WISHED_PACE)
    await house.intake.step()
    assert (await house.journal.backlog()).ready == 2


async def test_a_wish_does_not_shorten_the_pause_of_an_api_that_fails() -> None:
    house = House(TaskApiUnavailable("busy", retry_after=50), tasks(2))
    await house.intake.step()
    house.intake.poll_now()
    assert await house.intake.step() == pytest.approx(50)
    assert len(house.source.limits) == 1


async def test_a_task_that_we_hold_is_not_taken_twice() -> None:
    house = House(tasks(3), tasks(3))
    await house.polls(3)
    assert [event.accepted for event in house.seen.of(Polled)] == [3, 0]


async def test_the_limit_grows_by_everything_that_comes_back() -> None:
    house = House(tasks(10), limiter=OneWindow())
    await house.intake.step()
    ids = [held.id for held in await house.journal.claim(10)]
    await house.journal.settle({ids[0]: Deferred(until=house.clock.now() + 9_999, reason="later")})
    await house.polls(1)
    assert house.source.limits == [10, 20]


def claimed(count: int, *, first: int = 0, strangers: int = 0) -> Page:
    """A page of tasks that are ours alone, with some of a type that nobody here knows."""
    ours = [task(f"c{number}") for number in range(first, first + count)]
    return replace(
        page(*ours, *(task(f"s{first + number}", type="vision") for number in range(strangers))), claimed=True
    )


async def test_only_so_many_are_claimed_as_there_is_room_for() -> None:
    house = House(claimed(10), claimed(2, first=10))
    await house.intake.step()
    await house.intake.step()
    assert house.source.new == [10], "what waits here, nobody else can do"
    await house.journal.claim(7)
    await house.intake.step()
    assert house.source.new == [10, 7]
    assert (await house.journal.backlog()).ready == 5


async def test_what_we_hold_does_not_come_back_where_it_was_claimed() -> None:
    house = House(claimed(10), claimed(3, first=10))
    await house.intake.step()
    await house.journal.claim(10)
    await house.intake.step()
    assert await house.intake.step() > 26, "the second page was not full"
    assert [event.accepted for event in house.seen.of(Polled)] == [10, 3]


async def test_claimed_tasks_of_other_types_do_not_starve_the_queue() -> None:
    house = House(claimed(0, strangers=10), claimed(0, first=10, strangers=10), claimed(4))
    for _ in range(3):
        await house.intake.step()
    assert house.source.new == [10, 10, 10]
    assert (await house.journal.backlog()).ready == 4


async def test_a_claim_that_is_refused_for_its_size_is_made_smaller() -> None:
    house = House(claimed(1), TaskApiRejected("limit is too large"), claimed(2, first=1))
    while len(house.source.new) < 3:
        await house.polls(1)
    assert house.source.new == [10, 9, 4]


async def test_no_number_of_entries_left_alone_starves_the_queue() -> None:
    strangers = [task(f"s{number}", type="vision", created_at=0.0) for number in range(25)]
    late = task("late", created_at=99.0)

    class Honest(ScriptedSource):
        async def listed(self, limit: int) -> Page:
            return page(*[*strangers, late][:limit])

    house = House()
    house.source = house.intake._source = Honest()
    for _ in range(4):
        await house.intake.step()
    assert (await house.journal.backlog()).ready == 1
    assert house.source.limits == [10, 20, 30]
    assert house.seen.of(TypeUnknown)[-1].count == 25


async def test_entries_without_id_are_told_and_counted() -> None:
    house = House(page(task("a"), listed=3, unusable=["no id", "no id"]))
    await house.polls(2)
    assert house.seen.of(EntryUnusable) == [EntryUnusable(count=2, reason="no id")]
    assert house.source.limits == [10]
    house.clock.advance(30)
    await house.polls(2)
    assert house.source.limits[1] == 13


async def test_unknown_types_are_accepted_where_they_are_to_be_failed() -> None:
    house = House(page(task("a", type="vision")), keep_unknown=True)
    await house.intake.step()
    assert (await house.journal.backlog()).ready == 1


async def test_a_server_that_ignores_the_limit_is_asked_again_only_when_we_run_out() -> None:
    house = House(tasks(500), tasks(500))
    await house.intake.step()
    assert (await house.journal.backlog()).ready == 200
    assert await house.intake.step() >= 30
    assert house.source.limits == [10]
    taken = [held.id for held in await house.journal.claim(200)]
    await house.journal.mark_reported(taken)
    await house.intake.step()
    assert len(house.source.limits) == 2


async def test_a_server_that_ignores_the_limit_is_not_asked_again_for_what_waits_for_delivery() -> None:
    house = House(tasks(500), tasks(500), fetch_limit=10)
    await house.intake.step()
    taken = [held.id for held in await house.journal.claim(200)]
    await house.journal.settle(dict.fromkeys(taken, Succeeded(VECTOR, "m", "p", 1)))
    assert 0 < await house.intake.step() <= 1, "it looks again soon, into the journal only"
    assert len(house.source.limits) == 1
    await house.journal.mark_reported(taken[:189])
    await house.intake.step()
    assert len(house.source.limits) == 1
    await house.journal.mark_reported(taken[189:190])
    await house.intake.step()
    assert len(house.source.limits) == 2


async def test_outcomes_that_cannot_be_delivered_do_not_keep_from_polling() -> None:
    house = House(tasks(500), tasks(500), fetch_limit=10)
    await house.intake.step()
    taken = [held.id for held in await house.journal.claim(200)]
    await house.journal.settle(dict.fromkeys(taken, Succeeded(VECTOR, "m", "p", 1)))
    house.clock.advance(33)
    await house.intake.step()
    assert len(house.source.limits) == 1
    house.clock.advance(33)
    await house.intake.step()
    assert len(house.source.limits) == 2


async def test_what_is_wanted_of_a_page_is_bounded_by_what_can_be_held_and_is_held() -> None:
    house = House(tasks(500), tasks(500))
    await house.intake.step()
    taken = [held.id for held in await house.journal.claim(200)]
    later = Deferred(until=house.clock.now() + 9_999, reason="later")
    await house.journal.settle(dict.fromkeys(taken, later))
    await house.intake.step()
    assert house.source.most == [200, 400]
    assert (await house.journal.backlog()).ready == 200, "those behind what is deferred were found"


async def test_a_long_page_without_anything_new_is_fetched_the_less_often_the_longer_it_takes() -> None:
    class Slow(ScriptedSource):
        async def listed(self, limit: int) -> Page:
            house.clock.advance(4)
            return await super().listed(limit)

    house = House(interval=1.0)
    house.source = house.intake._source = Slow(*3 * [tasks(50)])
    await house.intake.step()
    await house.journal.claim(50)
    house.clock.advance(2)
    assert 36 <= await house.intake.step() <= 44


async def test_what_is_kept_of_a_large_page_is_the_oldest() -> None:
    house = House(tasks(500))
    await house.intake.step()
    assert [held.id for held in await house.journal.claim(500)] == [f"t{number:05}" for number in range(200)]


async def test_a_stale_page_does_not_bring_a_finished_task_back() -> None:
    house = House()

    class Racing(ScriptedSource):
        async def listed(self, _limit: int) -> Page:
            if len(self.limits) == 2:
                await house.journal.claim(1)
                await house.journal.mark_reported(["t00000"])
            return tasks(1)

    house.source = house.intake._source = Racing()
    await house.polls(6)
    assert [event.accepted for event in house.seen.of(Polled)][:3] == [1, 0, 1]


@pytest.mark.parametrize("error", [TaskApiUnavailable("down"), AuthenticationFailed("who?")])
async def test_failures_are_told_and_the_rests_grow(error: Exception) -> None:
    house = House(*[error] * 12)
    rests = []
    for _ in range(12):
        rests.append(await house.intake.step())
        house.clock.advance(rests[-1])
    assert len(house.seen.of(PollFailed)) == 12
    assert rests[0] <= 1
    assert max(rests) <= 60
    assert rests[-1] >= 15


async def test_the_wish_of_the_api_is_obeyed() -> None:
    house = House(TaskApiUnavailable("busy", retry_after=20), interval=100.0)
    assert await house.intake.step() == 20
    house = House(BreakerOpen("open", until=ManualClock().now() + 12))
    assert await house.intake.step() == 12


async def test_nothing_is_fetched_while_a_limit_leaves_no_room() -> None:
    limiter = OneWindow(room=0, opens_at=ManualClock().now() + 17)
    house = House(tasks(3), limiter=limiter)
    assert await house.intake.step() == 17
    assert house.source.limits == []


async def test_no_more_is_asked_for_than_a_limit_lets_through() -> None:
    house = House(tasks(4), limiter=OneWindow(room=4))
    await house.polls(2)
    assert house.source.limits == [4]


@pytest.mark.parametrize(
    ("room", "asked_for"),
    [(Amount(9, 900, 9_000), 9), (Amount(9, 20, 9_000), 6), (Amount(9, 900, 500), 5), (Amount(99, 900, 9_000), 10)],
)
async def test_every_task_takes_something_of_each_limit(room: Amount, asked_for: int) -> None:
    class Budgets(OneWindow):
        def headroom(self) -> Amount:
            return room

    house = House(tasks(4), limiter=Budgets(), least=Amount(tasks=1, tokens=3, cost=100))
    await house.polls(1)
    assert house.source.limits == [asked_for]


async def test_a_full_house_is_not_filled_further() -> None:
    house = House(*[tasks(10, first=10 * number) for number in range(30)])
    for _ in range(40):
        house.clock.advance(await house.intake.step())
    assert (await house.journal.backlog()).ready == 200


async def test_a_limit_that_the_api_refuses_is_halved_until_it_is_taken_then_the_largest_is_found() -> None:
    house = House(TaskApiRejected("limit must not be greater than 3"), TaskApiRejected("the same"), tasks(2), tasks(4))
    await house.polls(4)
    assert house.source.limits == [10, 5, 2, 3]
    assert (await house.journal.backlog()).ready == 4


async def test_a_limit_approaches_the_largest_that_the_api_takes() -> None:
    refusal = TaskApiRejected("limit must not be greater than 5")
    house = House(refusal, tasks(5), refusal, refusal, tasks(2))
    await house.polls(5)
    assert house.source.limits == [10, 5, 7, 6, 5]


async def test_a_limit_that_is_refused_although_it_was_granted_once_is_looked_for_anew() -> None:
    house = House(TaskApiRejected("too much"), tasks(5), *[TaskApiRejected("now less")] * 4)
    await house.polls(6)
    assert house.source.limits == [10, 5, 7, 6, 5, 2]


async def test_a_task_that_a_processor_stumbles_over_is_accepted_like_any_other() -> None:
    class Clumsy(Echo):
        def plan(self, task: Task) -> Work | Rejection:
            raise ZeroDivisionError(task.id)

    house = House(tasks(2))
    house.intake._processors = {"echo": Clumsy()}
    await house.intake.step()
    assert (await house.journal.backlog()).ready == 2
