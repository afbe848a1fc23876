import asyncio
import math
import random
from collections.abc import Sequence

import pytest

from ai_task_processor.domain.errors import AuthenticationFailed, BreakerOpen, TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.events import DeliveryHalted, Parked, Reported, ReportPostponed
from ai_task_processor.domain.outcome import Failed, Succeeded
from ai_task_processor.domain.ports import Entry, Receipt, Verdict
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.delivery import CHUNK, Delivery
from tests.fakes.flow import VECTOR, Recorder, ScriptedReporter, task
from tests.fakes.time import ManualClock


class House:
    """Delivery with its neighbours."""

    def __init__(self, reporter: ScriptedReporter | None = None) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.reporter = reporter or ScriptedReporter()
        self.seen = Recorder()
        self.delivery = Delivery(
            journal=self.journal,
            reporter=self.reporter,
            clock=self.clock,
            observer=self.seen,
            randomness=random.Random(1),
        )

    async def settled(self, *task_ids: str) -> None:
        await self.journal.accept([task(task_id) for task_id in task_ids], await self.journal.mark())
        await self.journal.claim(len(task_ids))
        await self.journal.settle(dict.fromkeys(task_ids, Succeeded(VECTOR)))

    async def drain(self) -> None:
        while not math.isinf(rest := await self.delivery.step()):
            self.clock.advance(rest)


async def test_every_outcome_is_delivered_once() -> None:
    house = House()
    await house.settled("a", "b", "c")
    await house.drain()
    assert sorted(entry.task_id for entry in house.reporter.reported) == ["a", "b", "c"]
    assert (await house.journal.backlog()).unreported == 0


async def test_lanes_share_the_work_and_write_acknowledgements_together() -> None:
    house = House()
    ids = [f"t{number}" for number in range(40)]
    await house.settled(*ids)
    writes: list[int] = []
    mark = house.journal.mark_reported

    async def counted(task_ids: list[str]) -> None:
        writes.append(len(task_ids))
        await asyncio.sleep(0)
        await mark(task_ids)

    house.journal.mark_reported = counted  # type: ignore[method-assign, assignment]  # counted, then done as ever
    await asyncio.gather(*(house.drain() for _ in range(8)))
    assert sorted(entry.task_id for entry in house.reporter.reported) == sorted(ids)
    assert sum(writes) == 40
    assert len(writes) < 40


async def test_no_lane_waits_for_an_acknowledgement_to_be_written_down() -> None:
    house = House()
    ids = [f"t{number}" for number in range(10)]
    await house.settled(*ids)
    mark, gate = house.journal.mark_reported, asyncio.Event()

    async def slow(task_ids: list[str]) -> None:
        await gate.wait()
        await mark(task_ids)

    house.journal.mark_reported = slow  # type: ignore[method-assign, assignment]  # done as ever, later
    writer = asyncio.create_task(house.delivery.step())
    await asyncio.sleep(0)
    for _ in ids[1:]:
        assert await house.delivery.step() == 0
    assert len(house.reporter.reported) == 10
    resting = asyncio.create_task(house.delivery.step())
    await asyncio.sleep(0)
    assert not resting.done(), "a lane went to rest before everything was written down"
    assert house.seen.of(Reported) == []
    gate.set()
    assert await writer == 0
    assert await resting == math.inf
    assert sorted(event.task_id for event in house.seen.of(Reported)) == ids
    assert (await house.journal.backlog()).unreported == 0


async def test_acknowledgements_that_wait_to_be_written_down_are_bounded() -> None:
    house = House()
    ids = [f"t{number:03}" for number in range(3 * CHUNK)]
    await house.settled(*ids)
    gate = asyncio.Event()

    async def stuck(_task_ids: list[str]) -> None:
        await gate.wait()

    house.journal.mark_reported = stuck  # type: ignore[method-assign, assignment]  # for ever
    lanes = [asyncio.create_task(house.drain()) for _ in range(8)]
    for _ in range(10 * len(ids)):
        await asyncio.sleep(0)
    assert CHUNK < len(house.reporter.reported) < CHUNK + 10
    for lane in lanes:
        lane.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)


async def test_lanes_that_find_nothing_look_together() -> None:
    house = House()
    looks = 0
    unreported = house.journal.unreported

    async def counted(limit: int) -> tuple[Entry, ...]:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return await unreported(limit)

    house.journal.unreported = counted  # type: ignore[method-assign]  # counted, then done as ever
    assert set(await asyncio.gather(*(house.delivery.step() for _ in range(32)))) == {math.inf}
    assert looks == 2
    await house.settled("a")
    assert sorted(await asyncio.gather(*(house.delivery.step() for _ in range(32)))) == [0.0] + [math.inf] * 31


async def test_more_lanes_than_outcomes_at_once_leave_none_behind() -> None:
    house = House()
    ids = [f"t{number:03}" for number in range(2 * CHUNK + 5)]
    await house.settled(*ids)
    rests = await asyncio.gather(*(house.delivery.step() for _ in range(3 * CHUNK)))
    assert rests.count(0.0) == len(ids)
    assert sorted(entry.task_id for entry in house.reporter.reported) == ids


@pytest.mark.parametrize("receipt", [Receipt.GONE, Receipt.CONFLICT])
async def test_a_task_that_is_gone_or_finished_elsewhere_is_done(receipt: Receipt) -> None:
    house = House()
    await house.settled("a")
    house.reporter.answers["a"] = [receipt]
    await house.drain()
    assert [event.receipt for event in house.seen.of(Reported)] == [receipt.value]
    assert (await house.journal.backlog()).unreported == 0


async def test_a_refused_outcome_is_parked_and_blocks_nothing() -> None:
    house = House()
    await house.settled("a", "b")
    house.reporter.answers["a"] = [TaskApiRejected("result too long")]
    await house.drain()
    assert [event.reason for event in house.seen.of(Parked)] == ["result too long"]
    assert [event.task_id for event in house.seen.of(Reported)] == ["b"]
    assert (await house.journal.backlog()).parked == 1


async def test_an_outcome_that_is_not_taken_is_kept_and_sent_again_ever_more_seldom() -> None:
    house = House()
    await house.settled("a", "b")
    house.reporter.answers["a"] = [TaskApiUnavailable("callback failed")] * 30
    began = house.clock.now()
    await house.drain()
    assert [entry.task_id for entry in house.reporter.reported].count("a") == 31
    assert house.seen.of(Reported)[0].task_id == "b"
    assert len({entry.outcome for entry in house.reporter.reported}) == 1
    postponed = house.seen.of(ReportPostponed)
    assert postponed[0].until - began <= 1
    assert house.clock.now() - began > 3_600


async def test_the_wish_of_the_api_to_wait_holds_for_all() -> None:
    house = House()
    await house.settled("a", "b")
    house.reporter.answers["a"] = [TaskApiUnavailable("busy", retry_after=50)]
    assert await house.delivery.step() == 0
    assert await house.delivery.step() == pytest.approx(50)
    await house.drain()
    assert [entry.task_id for entry in house.reporter.reported] == ["a", "b", "a"]


async def test_while_a_breaker_is_open_delivery_rests_with_the_outcome_in_hand() -> None:
    house = House()
    await house.settled("a")
    house.reporter.answers["a"] = [BreakerOpen("open", until=house.clock.now() + 12)]
    await house.delivery.step()
    assert await house.delivery.step() == pytest.approx(12)
    await house.drain()
    assert [entry.task_id for entry in house.reporter.reported] == ["a", "a"]
    assert len(house.seen.of(DeliveryHalted)) == 1


async def test_after_a_halt_one_lane_tries_before_all_of_them_do() -> None:
    class Slow(ScriptedReporter):
        async def report(self, entries: Sequence[Entry]) -> Sequence[Verdict]:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                await asyncio.sleep(0)
                return await super().report(entries)
            finally:
                at_once -= 1

    at_once = most = 0
    house = House(Slow())
    ids = [f"t{number}" for number in range(20)]
    await house.settled(*ids)
    until = house.clock.now() + 60
    house.reporter.answers["t0"] = [BreakerOpen("open", until=until), BreakerOpen("open", until=until + 60)]
    await house.delivery.step()
    for _ in range(2):
        house.clock.advance(60)
        most = 0
        rests = await asyncio.gather(*(house.delivery.step() for _ in range(8)))
        assert most == 1
        assert sorted(rests) == [0.0] + [1.0] * 7
    await asyncio.gather(*(house.delivery.step() for _ in range(8)))
    assert most > 1


async def test_without_a_token_delivery_rests_and_no_outcome_waits_longer_for_it() -> None:
    house = House()
    await house.settled("a", "b")
    house.reporter.answers["a"] = [TaskApiUnavailable("no token", retry_after=60, keyless=True)] * 60
    began = house.clock.now()
    await house.drain()
    assert house.clock.now() - began == pytest.approx(3_600)
    assert house.seen.of(ReportPostponed) == []
    assert len(house.seen.of(Reported)) == 2


async def test_while_nobody_is_let_in_delivery_tries_slowly() -> None:
    house = House()
    ids = [f"t{number}" for number in range(5)]
    await house.settled(*ids)
    refusals = 40
    for task_id in ids:
        house.reporter.answers[task_id] = [AuthenticationFailed("who?")] * (refusals // 5)
    began = house.clock.now()
    await house.drain()
    assert house.clock.now() - began >= 30 * (refusals - 2)
    assert len(house.seen.of(Reported)) == 5
    assert house.seen.of(DeliveryHalted)


async def test_one_task_that_is_not_ours_to_change_holds_up_no_other() -> None:
    house = House()
    await house.settled("a", "b", "c")
    house.reporter.answers["a"] = [AuthenticationFailed("not yours")] * 9
    began = house.clock.now()
    for _ in range(3):
        assert await house.delivery.step() == 0
    assert house.clock.now() == began
    assert [event.task_id for event in house.seen.of(Reported)] == ["b", "c"]
    assert not house.seen.of(DeliveryHalted)
    await house.drain()
    assert (await house.journal.backlog()).unreported == 0


# --- Several at once --------------------------------------------------------------------------------------------------


def many(most: int = 10) -> House:
    house = House()
    house.reporter.most = most
    return house


async def test_several_outcomes_are_delivered_together() -> None:
    house = many()
    await house.settled(*(f"t{number:02}" for number in range(25)))
    await house.drain()
    assert house.reporter.companies == [10, 10, 5]
    assert len(house.seen.of(Reported)) == 25
    assert (await house.journal.backlog()).unreported == 0


async def test_each_outcome_of_several_has_its_own_end() -> None:
    house = many()
    await house.settled(*"abcdefgh")
    house.reporter.answers = {
        "b": [Receipt.GONE],
        "c": [Receipt.CONFLICT],
        "d": [TaskApiRejected("too large")],
        "e": [TaskApiUnavailable("callback failed")],
        "f": [AuthenticationFailed("not yours")],
        "g": [TaskApiUnavailable("nothing said")],
    }
    assert await house.delivery.step() == 0
    assert not math.isinf(await house.delivery.step())
    reported = {event.task_id: event.receipt for event in house.seen.of(Reported)}
    assert reported == {"a": "taken", "b": "gone", "c": "conflict", "h": "taken"}
    assert [event.task_id for event in house.seen.of(Parked)] == ["d"]
    assert [event.task_id for event in house.seen.of(ReportPostponed)] == ["e", "f", "g"]
    assert not house.seen.of(DeliveryHalted)
    await house.drain()
    assert len(house.seen.of(Reported)) == 7
    assert (await house.journal.backlog()).unreported == 0


async def test_what_has_failed_before_travels_alone() -> None:
    """One of them may be what made the request fail: it shall not take the others with it for ever."""
    house = many()
    await house.settled("a", "b", "c")
    poison = [TaskApiUnavailable("500")]
    house.reporter.answers = {task_id: list(poison) for task_id in "abc"}
    await house.delivery.step()
    house.clock.advance(60)
    await house.settled("d", "e")
    await house.drain()
    assert house.reporter.companies == [3, 1, 1, 1, 2]


async def test_a_breaker_keeps_all_of_them_in_hand_and_one_tries_for_all() -> None:
    house = many()
    await house.settled(*"abcde")
    until = house.clock.now() + 12
    house.reporter.answers = {task_id: [BreakerOpen("open", until=until)] for task_id in "abcde"}
    await house.delivery.step()
    assert await house.delivery.step() == pytest.approx(12)
    await house.drain()
    assert [entry.task_id for entry in house.reporter.reported] == [*"abcdeabcde"]
    assert house.reporter.companies == [5, 1, 4]
    assert len(house.seen.of(DeliveryHalted)) == 1
    assert house.seen.of(ReportPostponed) == []


async def test_lanes_share_what_there_is() -> None:
    house = many(4)
    await house.settled(*(f"t{number:02}" for number in range(20)))
    await asyncio.gather(*(house.delivery.step() for _ in range(8)))
    assert sorted(entry.task_id for entry in house.reporter.reported) == [f"t{number:02}" for number in range(20)]
    assert house.reporter.companies == [4] * 5


async def test_a_failure_is_delivered_as_it_is() -> None:
    house = House()
    await house.journal.accept([task("a")], await house.journal.mark())
    await house.journal.claim(1)
    await house.journal.settle({"a": Failed("no text")})
    await house.drain()
    [entry] = house.reporter.reported
    assert isinstance(entry, Entry)
    assert entry.outcome == Failed("no text")
    assert house.seen.of(Reported)[0].status == "failed"
