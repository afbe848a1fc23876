"""Replicas that share a journal: each holds what it claimed for as long as it lives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from ai_task_processor.domain.outcome import Deferred, Succeeded, Vector
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.lease import Lease
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import open_storage
from ai_task_processor.storage.postgres import database_time
from tests.fakes.postgres import Database
from tests.fakes.time import BEGINNING, ManualClock

OURS = Succeeded(Vector(b"\x00\x00\x80\x3f"), model="ours")
THEIRS = Succeeded(Vector(b"\x00\x00\x00\x40"), model="theirs")


def task(task_id: str) -> Task:
    return Task(task_id, "text_embedding", "text", BEGINNING, batch_key="k")


class Replica:
    """One process among several: its journal and its lease."""

    def __init__(self, journal: SqlJournal, lease: Lease) -> None:
        self.journal = journal
        self.lease = lease

    async def claims(self, limit: int = 9) -> list[str]:
        return [each.id for each in await self.journal.claim(limit)]

    async def delivers(self) -> list[str]:
        return [entry.task_id for entry in await self.journal.unreported(9)]


class Site:
    """Where replicas run."""

    def __init__(self, database: Database, stack: AsyncExitStack) -> None:
        self.database = database
        self.clock = ManualClock()
        self._stack = stack

    async def replica(self, name: str) -> Replica:
        storage = await self._stack.enter_async_context(open_storage(self.database.url))
        lease = Lease(storage, seconds=60, time=database_time, replica=name)
        replica = Replica(SqlJournal(storage, self.clock, lease), lease)
        await replica.journal.reopen()
        return replica

    def lapse(self, *names: str) -> None:
        """Let leases run out, as if their replicas had been silent for a minute."""
        for name in names:
            self.database.execute(f"UPDATE replicas SET leased_until = 0 WHERE id = '{name}'")  # noqa: S608  # our own names


@pytest.fixture
async def site(postgres: Database, postgres_url: str) -> AsyncIterator[Site]:
    assert postgres_url == postgres.url
    async with AsyncExitStack() as stack:
        yield Site(postgres, stack)


async def test_no_two_replicas_claim_one_task(site: Site) -> None:
    replicas = [await site.replica(name) for name in "abc"]
    await replicas[0].journal.accept([task(f"{number:03}") for number in range(120)], 0)
    claims = await asyncio.gather(*(replica.claims(7) for replica in replicas for _ in range(6)))
    claimed = [task_id for claim in claims for task_id in claim]
    assert len(claimed) == len(set(claimed)) == 120
    assert await replicas[1].claims() == []


async def test_what_a_replica_has_just_settled_it_delivers_without_reading_it_back(site: Site) -> None:
    replica = await site.replica("one")
    await replica.journal.accept([task("a"), task("b")], 0)
    await replica.claims()
    await replica.journal.settle({"a": OURS, "b": OURS})
    site.database.execute("UPDATE tasks SET result = NULL")
    assert [entry.outcome for entry in await replica.journal.unreported(9)] == [OURS, OURS]


async def test_what_a_dead_replica_held_comes_back_after_its_lease(site: Site) -> None:
    dead, living = await site.replica("dead"), await site.replica("living")
    await dead.journal.accept([task("claimed"), task("settled")], 0)
    await dead.claims()
    await dead.journal.settle({"settled": OURS})
    assert await dead.delivers() == ["settled"]
    await living.lease.renew()
    assert (await living.claims(), await living.delivers()) == ([], [])
    site.lapse("dead")
    await living.lease.renew()
    assert (await living.claims(), await living.delivers()) == (["claimed"], ["settled"])


async def test_a_late_replica_settles_nothing_over_the_new_owner(site: Site) -> None:
    late, other = await site.replica("late"), await site.replica("other")
    await late.journal.accept([task("a"), task("b"), task("c")], 0)
    await late.claims()
    site.lapse("late")
    await other.lease.renew()
    assert await other.claims() == ["a", "b", "c"]
    await late.journal.settle({"a": OURS, "b": Deferred(BEGINNING + 60, "limit")})
    await late.journal.release(["c"])
    await late.journal.mark_reported(["a"])
    await late.journal.park("a", "refused")
    assert await other.journal.backlog() == Backlog(claimed=3)
    await other.journal.settle({"a": THEIRS})
    await late.journal.postpone(["a"], BEGINNING + 60)
    await late.journal.mark_reported(["a"])
    assert [entry.outcome for entry in await other.journal.unreported(9)] == [THEIRS]
    await late.lease.renew()
    await other.journal.release(["b", "c"])
    assert await late.claims() == ["b", "c"]


async def test_a_replica_that_stops_keeps_nobody_waiting(site: Site) -> None:
    leaving, staying = await site.replica("leaving"), await site.replica("staying")
    await leaving.journal.accept([task("a"), task("b")], 0)
    await leaving.claims()
    await leaving.journal.settle({"b": OURS})
    await leaving.lease.leave()
    assert await staying.claims() == ["a"]
    await staying.lease.renew()
    assert await staying.delivers() == ["b"]


async def test_after_an_outage_of_the_database_nobody_takes_what_others_still_do(site: Site) -> None:
    first, second = await site.replica("first"), await site.replica("second")
    await first.journal.accept([task("a")], 0)
    assert await first.claims() == ["a"]
    site.lapse("first", "second")
    await second.lease.renew()
    assert await second.claims() == []
    await first.lease.renew()
    await second.lease.renew()
    await first.journal.settle({"a": OURS})
    assert await first.delivers() == ["a"]


async def test_after_an_outage_all_have_a_whole_lease_to_come_back(site: Site) -> None:
    """However often one of them has renewed before another can reach the database again."""
    quick, slow = await site.replica("quick"), await site.replica("slow")
    await slow.journal.accept([task("a")], 0)
    assert await slow.claims() == ["a"]
    site.lapse("quick", "slow")
    for _ in range(5):
        await quick.lease.renew()
    assert await quick.claims() == []
    await slow.journal.settle({"a": OURS})
    assert await slow.delivers() == ["a"]


async def test_after_an_outage_and_a_lease_the_dead_are_dead(site: Site) -> None:
    living, dead = await site.replica("living"), await site.replica("dead")
    await dead.journal.accept([task("a")], 0)
    await dead.claims()
    site.lapse("living", "dead")
    living.lease._seconds = 0.05
    await living.lease.renew()
    async with asyncio.timeout(5):
        while await living.claims() != ["a"]:
            await asyncio.sleep(0.01)
            await living.lease.renew()


async def test_one_replica_polls_and_another_takes_over(site: Site) -> None:
    replicas = {name: await site.replica(name) for name in ("first", "second", "third")}

    async def polling() -> list[str]:
        return [name for name, replica in replicas.items() if await replica.lease.mine()]

    assert await polling() == ["first"]
    site.lapse("first")
    assert await polling() == ["second"]
    await replicas["first"].lease.renew()
    assert len(await polling()) == 1
    for name in await polling():
        await replicas[name].lease.leave()
    assert len(await polling()) == 1


async def test_a_turn_that_is_passed_on_goes_round(site: Site) -> None:
    replicas = {name: await site.replica(name) for name in ("first", "second", "third")}

    async def polling() -> list[str]:
        return [name for name, replica in replicas.items() if await replica.lease.mine()]

    held = []
    for _ in range(7):
        held += await polling()
        await replicas[held[-1]].lease.pass_on()
    assert held == ["first", "second", "third"] * 2 + ["first"]
    await replicas["first"].lease.pass_on()  # whose turn it is not: those before it stay before it
    assert await polling() == ["second"]
    site.lapse("second", "third")
    assert await polling() == ["first"]
    await replicas["second"].lease.leave()
    await replicas["third"].lease.leave()
    await replicas["first"].lease.pass_on()
    assert await polling() == ["first"]


async def test_a_turn_goes_on_also_while_the_clock_is_behind(site: Site) -> None:
    """Where the database was moved to a machine whose clock is late."""
    first, second = await site.replica("first"), await site.replica("second")
    site.database.execute("UPDATE replicas SET joined_at = joined_at + 3600, leased_until = leased_until + 3600")
    await first.lease.pass_on()
    assert (await first.lease.mine(), await second.lease.mine()) == (False, True)


async def test_a_report_by_one_replica_makes_a_later_mark_for_all(site: Site) -> None:
    one, other = await site.replica("one"), await site.replica("other")
    await one.journal.accept([task("a")], 0)
    await one.claims()
    await one.journal.settle({"a": OURS})
    before = await other.journal.mark()
    await one.journal.mark_reported(["a"])
    assert await other.journal.accept([task("a")], before) == ()
    assert await other.journal.accept([task("a")], await other.journal.mark()) == ("a",)


async def test_two_that_accept_one_page_keep_each_task_once(site: Site) -> None:
    replicas = [await site.replica(name) for name in "abcd"]
    page = [task(f"{number:03}") for number in range(300)]
    for _ in range(3):
        kept = await asyncio.gather(*(replica.journal.accept(page, 0) for replica in replicas))
        assert sorted(task_id for ids in kept for task_id in ids) == [each.id for each in page]
        site.database.execute("DELETE FROM tasks")


async def test_an_outcome_whose_report_is_on_its_way_is_not_handed_out(site: Site) -> None:
    replica = await site.replica("one")
    for _ in range(10):
        await replica.journal.accept([task(name) for name in "abcdef"], 0)
        ids = await replica.claims()
        await replica.journal.settle(dict.fromkeys(ids, OURS))
        handed = await replica.delivers()
        others = (replica.delivers() for _ in range(3))
        _, *more = await asyncio.gather(replica.journal.mark_reported(handed), *others)
        assert more == [[], [], []]
        assert await replica.journal.backlog() == Backlog()
        site.clock.advance(1)
        await replica.journal.forget(site.clock.now())


async def test_keeps_its_lease_until_it_is_cancelled(site: Site) -> None:
    replica = await site.replica("one")
    replica.lease._seconds = 0.06
    site.lapse("one")
    async with asyncio.timeout(5):
        keeping = asyncio.create_task(replica.lease.keep())
        while not await replica.lease.mine():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
        keeping.cancel()
