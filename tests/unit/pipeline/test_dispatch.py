import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest

from ai_task_processor.domain.errors import (
    BreakerOpen,
    JournalError,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
    RateLimited,
    TaskApiUnavailable,
)
from ai_task_processor.domain.events import BatchCrashed, BatchSettled, BatchSplit, ClaimLost, TaskSettled
from ai_task_processor.domain.outcome import Failed, Outcome, Succeeded
from ai_task_processor.domain.ports import Processor, Receipt
from ai_task_processor.domain.task import Task
from ai_task_processor.domain.work import Batch, Rejection, Work
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.batching import LINGER
from ai_task_processor.pipeline.dispatch import Dispatch, DispatchSettings
from tests.fakes.flow import Echo, OneWindow, Recorder, ScriptedReporter, task
from tests.fakes.time import ManualClock


class House:
    """Dispatch with its neighbours."""

    def __init__(
        self,
        processor: Processor,
        *,
        limiter: OneWindow | None = None,
        most: Callable[[str], int] | None = None,
        **settings: object,
    ) -> None:
        self.processor = processor
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.reporter = ScriptedReporter()
        self.seen = Recorder()
        known = {"batch_size": 8, "max_attempts": 4}
        self.dispatch = Dispatch(
            DispatchSettings(**(known | settings)),  # type: ignore[arg-type]  # facts are keywords of DispatchSettings
            journal=self.journal,
            processors={"echo": processor},
            limiter=limiter or OneWindow(),
            reporter=self.reporter,
            clock=self.clock,
            observer=self.seen,
            randomness=random.Random(1),
            most=most,
        )

    @property
    def performed(self) -> list[tuple[str, ...]]:
        assert isinstance(self.processor, Echo)
        return self.processor.performed

    async def hold(self, *tasks: Task) -> None:
        await self.journal.accept(tasks, await self.journal.mark())

    async def drain(self, steps: int = 200) -> None:
        for _ in range(steps):
            rest = await self.dispatch.step()
            if math.isinf(rest):
                return
            self.clock.advance(rest)
        raise AssertionError("dispatch does not come to rest")

    async def outcomes(self) -> dict[str, Outcome]:
        return {entry.task_id: entry.outcome for entry in await self.journal.unreported(1_000)}


def numbered(count: int) -> list[Task]:
    return [task(f"t{number}", created_at=float(number)) for number in range(count)]


async def test_due_tasks_are_performed_in_batches_and_settled() -> None:
    echo = Echo()
    house = House(echo)
    await house.hold(*numbered(20))
    await house.drain()
    assert [len(ids) for ids in echo.performed] == [8, 8, 4]
    outcomes = await house.outcomes()
    assert len(outcomes) == 20
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes.values())
    assert sum(event.succeeded for event in house.seen.of(BatchSettled)) == 20


async def test_unusable_content_and_unknown_types_fail_with_words_for_the_author() -> None:
    house = House(Echo())
    await house.hold(task("empty", content=""), task("strange", type="vision"))
    await house.drain()
    outcomes = await house.outcomes()
    assert outcomes["empty"] == Failed("content is empty")
    assert outcomes["strange"] == Failed("type 'vision' is not known here; known types: echo")


async def test_one_bad_input_fails_alone_in_few_extra_requests() -> None:
    def refuse_poison(ids: Sequence[str]) -> None:
        if "t5" in ids:
            raise ProviderRejected("no such luck")

    echo = Echo(refuse_poison)
    house = House(echo, batch_size=64)
    await house.hold(*numbered(64))
    await house.drain()
    outcomes = await house.outcomes()
    assert [task_id for task_id, outcome in outcomes.items() if isinstance(outcome, Failed)] == ["t5"]
    assert len(echo.performed) <= 1 + 2 * math.log2(64)
    assert len(house.seen.of(BatchSplit)) == 6


async def test_a_refusal_of_every_input_is_not_split() -> None:
    def refuse(_: Sequence[str]) -> None:
        raise ProviderRejected("no such model", every_input=True)

    echo = Echo(refuse)
    house = House(echo)
    await house.hold(*numbered(8))
    await house.drain()
    assert len(echo.performed) == 1
    assert set((await house.outcomes()).values()) == {Failed("no such model")}


async def test_not_now_defers_and_counts_no_attempt() -> None:
    open_until = ManualClock().now() + 30

    class Opening(Echo):
        async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
            if house.clock.now() < open_until:
                raise BreakerOpen("open", until=open_until)
            assert {work.task.attempts for work in batch.works} == {0}
            return await super().perform(batch)

    house = House(Opening())
    await house.hold(*numbered(3))
    assert await house.dispatch.step() == 0
    assert await house.dispatch.step() == pytest.approx(30)
    house.clock.advance(30)
    await house.drain()
    assert len(await house.outcomes()) == 3


async def test_an_outage_of_any_length_fails_nothing() -> None:
    def down(_: Sequence[str]) -> None:
        raise ProviderUnavailable("down")

    house = House(Echo(down))
    await house.hold(*numbered(3))
    for _ in range(500):
        house.clock.advance(await house.dispatch.step())
    assert await house.outcomes() == {}
    assert (await house.journal.backlog()).deferred + (await house.journal.backlog()).ready == 3


async def test_what_alone_keeps_failing_is_isolated_then_failed_and_its_neighbours_succeed() -> None:
    def spoilt(ids: Sequence[str]) -> None:
        if "t3" in ids:
            raise ProviderUnavailable("internal error", own_fault=True)

    house = House(Echo(spoilt), max_attempts=10)
    await house.hold(*numbered(8))
    await house.drain()
    outcomes = await house.outcomes()
    assert outcomes.pop("t3") == Failed("given up after 10 attempts: internal error")
    assert len(outcomes) == 7
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes.values())


async def test_throttling_waits_as_long_as_it_was_told() -> None:
    def throttled(_: Sequence[str]) -> None:
        raise ProviderThrottled("slow down", retry_after=77)

    house = House(Echo(throttled))
    await house.hold(*numbered(1))
    await house.dispatch.step()
    assert await house.dispatch.step() == pytest.approx(77)


async def test_a_defect_of_a_processor_harms_only_its_batch_and_ends() -> None:
    def crash(ids: Sequence[str]) -> None:
        if "t0" in ids:
            raise ZeroDivisionError

    house = House(Echo(crash), batch_size=1)
    await house.hold(*numbered(2))
    await house.drain()
    outcomes = await house.outcomes()
    assert isinstance(outcomes["t1"], Succeeded)
    assert "its log has the details" in getattr(outcomes["t0"], "reason", "")
    assert "ZeroDivisionError" in house.seen.of(BatchCrashed)[0].traceback


async def test_a_defect_in_understanding_a_task_harms_no_other() -> None:
    class Clumsy(Echo):
        def plan(self, task: Task) -> Work | Rejection:
            if task.id == "t0":
                raise ZeroDivisionError
            return super().plan(task)

    house = House(Clumsy(), max_attempts=2)
    await house.hold(*numbered(3))
    await house.drain()
    outcomes = await house.outcomes()
    assert "its log has the details" in getattr(outcomes.pop("t0"), "reason", "")
    assert len(outcomes) == 2
    assert "ZeroDivisionError" in house.seen.of(BatchCrashed)[0].traceback


async def test_a_task_without_an_outcome_counts_as_a_defect() -> None:
    class Forgetful(Echo):
        async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
            await super().perform(batch)
            return {}

    house = House(Forgetful(), max_attempts=1)
    await house.hold(*numbered(1))
    await house.drain()
    assert [event.status for event in house.seen.of(TaskSettled)] == ["failed"]


async def test_an_error_of_the_journal_stops_everything() -> None:
    def fail(_: Sequence[str]) -> None:
        raise JournalError("disk full")

    house = House(Echo(fail))
    await house.hold(*numbered(1))
    with pytest.raises(JournalError):
        await house.dispatch.step()


async def test_a_limit_below_the_batch_size_still_lets_work_through() -> None:
    echo = Echo()
    house = House(echo, limiter=OneWindow(room=3))
    await house.hold(*numbered(6))
    await house.drain()
    assert [len(ids) for ids in echo.performed] == [3, 3]


async def test_a_closed_window_lets_dispatch_rest_until_it_opens() -> None:
    house = House(Echo(), limiter=OneWindow(room=0, opens_at=ManualClock().now() + 40))
    await house.hold(*numbered(1))
    assert await house.dispatch.step() == pytest.approx(40)
    assert (await house.journal.backlog()).ready == 1


async def test_with_announcing_only_what_is_ours_is_performed() -> None:
    echo = Echo()
    house = House(echo, announce=True)
    house.reporter.answers = {"t0": [Receipt.CONFLICT], "t1": [TaskApiUnavailable("down")]}
    await house.hold(*numbered(3))
    await house.drain()
    assert echo.performed == [("t2",), ("t1",)]
    assert house.reporter.announced == ["t0", "t1", "t2", "t1"]
    assert [event.task_id for event in house.seen.of(ClaimLost)] == ["t0"]
    assert set(await house.outcomes()) == {"t1", "t2"}


async def test_while_a_kind_cannot_be_done_no_more_of_it_is_claimed_and_others_are() -> None:
    open_until = ManualClock().now() + 300

    class Opening(Echo):
        async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
            outcomes = await super().perform(batch)
            if batch.key == "down" and house.clock.now() < open_until:
                raise BreakerOpen("open", until=open_until)
            return outcomes

    echo = Opening()
    house = House(echo)
    down = [task(f"d{number}", content="down", batch_key="down", created_at=0.0) for number in range(40)]
    well = [task(f"w{number}", content="well", batch_key="well", created_at=1.0) for number in range(10)]
    await house.hold(*down, *well)
    while (rest := await house.dispatch.step()) == 0:
        pass
    assert rest == pytest.approx(300)
    assert [len(ids) for ids in echo.performed] == [8, 8, 2]
    assert (await house.journal.backlog()).ready == 32
    house.clock.advance(rest)
    await house.drain()
    assert len(await house.outcomes()) == 50


async def test_a_neighbour_of_what_keeps_failing_is_not_failed_however_few_attempts_there_are() -> None:
    def spoilt(ids: Sequence[str]) -> None:
        if "t3" in ids:
            raise ProviderUnavailable("internal error", own_fault=True)

    house = House(Echo(spoilt), max_attempts=1)
    await house.hold(*numbered(8))
    await house.drain()
    outcomes = await house.outcomes()
    assert isinstance(outcomes.pop("t3"), Failed)
    assert len(outcomes) == 7
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes.values())


async def test_also_what_fails_by_itself_waits_as_long_as_the_provider_wishes() -> None:
    def busy(_: Sequence[str]) -> None:
        raise ProviderUnavailable("busy", own_fault=True, retry_after=77)

    house = House(Echo(busy))
    await house.hold(*numbered(1))
    await house.dispatch.step()
    assert await house.dispatch.step() == pytest.approx(77)


async def test_a_refused_batch_whose_halves_must_wait_is_not_joined_again() -> None:
    """Or a limit that has room for one batch at a time would let one refused input stop everything for ever."""
    asked = 0

    def refuse_or_wait(ids: Sequence[str]) -> None:
        nonlocal asked
        asked += 1
        if asked % 2 == 0:
            raise RateLimited("no room", until=house.clock.now() + 60)
        if "t5" in ids:
            raise ProviderRejected("refused")

    house = House(Echo(refuse_or_wait))
    await house.hold(*numbered(8))
    await house.drain()
    outcomes = await house.outcomes()
    assert outcomes.pop("t5") == Failed("refused")
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes.values())
    assert len(outcomes) == 7


async def test_a_task_api_that_wishes_to_wait_hears_no_announcement_before() -> None:
    house = House(Echo(), announce=True)
    house.reporter.answers = {"t0": [TaskApiUnavailable("busy", retry_after=600)]}
    await house.hold(*numbered(3))
    began = house.clock.now()
    await house.dispatch.step()
    assert house.reporter.announced == ["t0"]
    await house.drain()
    assert house.clock.now() == pytest.approx(began + 600)
    assert len(await house.outcomes()) == 3


async def test_a_task_api_that_fails_every_announcement_hears_fewer_and_fewer() -> None:
    house = House(Echo(), announce=True)
    house.reporter.answers = {f"t{number}": [TaskApiUnavailable("500")] * 1_000 for number in range(50)}
    await house.hold(*numbered(50))
    began = house.clock.now()
    while house.clock.now() < began + 3_600:
        house.clock.advance(max(1.0, await house.dispatch.step()))
    assert 60 <= len(house.reporter.announced) <= 140


async def test_after_a_failure_that_left_open_who_is_at_fault_one_place_is_left_to_find_out() -> None:
    failures = iter([ProviderUnavailable("down")])

    def down_once(_: Sequence[str]) -> None:
        for error in failures:
            raise error

    echo = Echo(down_once)
    house = House(echo, limiter=OneWindow(room=3))
    await house.hold(*numbered(6))
    await house.drain()
    assert [len(ids) for ids in echo.performed] == [3, 2, 1, 3]


# --- In company -------------------------------------------------------------------------------------------------------


class Busy(Echo):
    """The first batch is not done before a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
        outcomes = await super().perform(batch)
        if len(self.performed) == 1:
            self.began.set()
            await self.ended.wait()
        return outcomes


class BusyHouse(House):
    """One lane of its dispatch has a batch in flight."""

    async def begin(self) -> None:
        assert isinstance(self.processor, Busy)
        self.busy = self.processor
        await self.hold(task("first"))
        self.lane = asyncio.create_task(self.dispatch.step())
        await self.busy.began.wait()

    async def end(self) -> None:
        self.busy.ended.set()
        await self.lane


@pytest.fixture
async def busy() -> AsyncIterator[BusyHouse]:
    house = BusyHouse(Busy())
    await house.begin()
    yield house
    await house.end()


async def test_a_few_tasks_wait_for_others_while_a_batch_is_in_flight(busy: BusyHouse) -> None:
    await busy.hold(*numbered(2))
    assert await busy.dispatch.step() == pytest.approx(LINGER)
    assert len(busy.performed) == 1
    await busy.hold(*(task(f"late {number}") for number in range(3)))
    busy.clock.advance(LINGER)
    await busy.dispatch.step()
    assert [set(ids) for ids in busy.performed[1:]] == [{"t0", "t1", "late 0", "late 1", "late 2"}]


async def test_they_wait_no_longer_than_the_batch_that_is_in_flight(busy: BusyHouse) -> None:
    await busy.hold(*numbered(2))
    await busy.dispatch.step()
    await busy.end()
    await busy.dispatch.step()
    assert len(busy.performed) == 2


async def test_a_full_batch_and_another_kind_do_not_wait(busy: BusyHouse) -> None:
    await busy.hold(*numbered(2), *(task(f"other {number}", batch_key="other") for number in range(8)))
    await busy.dispatch.step()
    assert [len(ids) for ids in busy.performed] == [1, 8]
    assert await busy.dispatch.step() == pytest.approx(LINGER)


async def test_who_finds_the_provider_idle_does_not_wait() -> None:
    house = House(Echo())
    await house.hold(task("alone"))
    assert await house.dispatch.step() == 0
    assert house.performed == [("alone",)]


async def test_what_is_claimed_is_sent_in_requests_of_the_size_that_is_good_now() -> None:
    house = House(Echo(), most=lambda key: 3 if key == "text" else 100)
    await house.hold(*numbered(8))
    await house.drain()
    assert [len(ids) for ids in house.performed] == [3, 3, 2]
