"""Four daemons on one PostgreSQL: killed one after the other, their database restarted, and nothing is lost or doubled.

``REPLICA_TASKS=20000 pytest -s tests/flow/test_replicas.py`` (``make replicas``) is the same with more of everything.
"""

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.daemon import finished, right_vector
from tests.fakes.fleet import Fleet, Life, Tasks, fleet, task_server
from tests.fakes.postgres import Cluster, Database, cluster, database

TASKS = int(os.environ.get("REPLICA_TASKS", "1000"))
REPLICAS = 4
BATCH = 16
LANES = 5
LIMIT = TASKS * 9 // 10
PATIENCE = 60 + TASKS / 50
GLANCE = 0.05
THOROUGH = TASKS >= 20_000
PART = 4
"""How many times less one alone has to do when its polls are counted: it takes that much longer."""
MORE = 1.2 if THOROUGH else 1.5
"""How many times as often as one all of them may poll; in the short form few polls are a coarse measure."""

STARTED, SETTLED = "Processing text embedding task", "Task processing completed"
CALLED, POLLED = "Provider request", "Found pending tasks"
LOST = "State database cannot be used, tried again"

WAITING = "SELECT coalesce(string_agg(id, ' '), '') FROM tasks WHERE state = 'due' AND not_before > 0"
IN_HAND = "SELECT count(*) FROM tasks WHERE state IN ('claimed', 'succeeded', 'failed')"
UNFINISHED = "SELECT string_agg(state || ': ' || coalesce(reason, ''), '; ') FROM tasks WHERE state <> 'reported'"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as own:
        yield own


async def test_nothing_is_lost_or_done_twice_whoever_dies(server: Cluster, tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(TASKS)]
    own = Database(server.url)
    async with task_server(tmp_path) as tasks, working(tasks, server.url, tmp_path) as crew:
        await crew.start(REPLICAS)
        await crew.ready()
        ids = await tasks.post(texts)
        kills = await haunted(crew, tasks, server, own)
        polls = crew.count(POLLED)
        admitted = sum(line["inputs"] for life in crew.lives for line in life.process.logged(CALLED))
        in_flight = kills * LANES * BATCH
        assert LIMIT - in_flight - BATCH <= admitted <= LIMIT
        await crew.stop()
        waiting = str(own.value(WAITING)).split()
        if waiting:  # for the hour to end
            await finished("journal", "retry", *waiting, folder=tmp_path, env={"STATE_URL": server.url})
        await crew.start(REPLICAS, rate_limit_per_hour=0)
        await tasks.until("succeeded", TASKS, within=PATIENCE)
        await crew.stop()
        results = await tasks.results()

    made = zip(ids, texts, strict=True)
    assert all(right_vector(results[task_id], text, model="nomic-embed-text") for task_id, text in made)
    assert own.value(UNFINISHED) is None
    assert not begun_again(crew.lives)
    succeeded = Counter(task_id for life in crew.lives for task_id in life.tasks(SETTLED, status="succeeded"))
    assert max(succeeded.values()) == 1
    lines = [line for life in crew.lives for line in life.process.lines]
    assert {line["event"] for line in lines if line["level"] == "error"} <= {LOST}
    print(  # noqa: T201  # shown with pytest -s
        f"{TASKS} tasks, {len(crew.lives)} lives, {kills} kills, {admitted} of {LIMIT} admitted in the hour,",
        f"{crew.count(STARTED) - crew.count(SETTLED)} begun and cut off,",
        f"{polls} polls until the limit",
    )
    if THOROUGH:
        alone = PART * await polls_of_one(server, tmp_path / "one", texts[: TASKS // PART])
        print(f"one alone: {alone} polls for as many tasks; {polls / alone:.2f} times as many by {REPLICAS}")  # noqa: T201  # shown too
        assert polls <= MORE * alone


def working(tasks: Tasks, url: str, folder: Path) -> AbstractAsyncContextManager[Fleet]:
    """A fleet whose work takes a while, and that may do nine tenths of it in an hour."""
    return fleet(
        tasks,
        url,
        folder,
        log_level="debug",
        mock_latency_seconds=0.1,
        batch_size=BATCH,
        concurrency_limit=LANES,
        rate_limit_per_hour=LIMIT,
        lease_seconds=10 if THOROUGH else 5,  # less is over on a busy machine while its replica lives
        claim_lease_seconds=30 if THOROUGH else 15,
    )


async def polls_of_one(server: Cluster, folder: Path, texts: Sequence[str]) -> int:
    """How often a single replica polls that has these to do, in peace."""
    await asyncio.to_thread(folder.mkdir)
    with database(server.url) as own:
        async with task_server(folder) as tasks, working(tasks, own.url, folder) as crew:
            await crew.start()
            await crew.ready()
            await tasks.post(texts)
            await tasks.until("succeeded", len(texts), within=PATIENCE)
            polls = crew.count(POLLED)
            await crew.stop()
    return polls


async def test_four_replicas_poll_as_often_as_one(server: Cluster, tmp_path: Path) -> None:
    """Also while the one that polls is killed: another takes over when its lease has run out."""
    interval, polls, lease = 0.4, 30 if THOROUGH else 5, 1.0
    settings = {"polling_interval_seconds": interval, "lease_seconds": lease, "log_level": "debug"}
    with database(server.url) as own:
        async with task_server(tmp_path) as tasks, fleet(tasks, own.url, tmp_path, **settings) as crew:
            await crew.start()
            await crew.ready()
            alone = await paced(crew, polls)
            await crew.start(REPLICAS - 1)
            await crew.ready()
            together = await paced(crew, polls)
            polling = [bool(life.process.logged(POLLED)) for life in crew.running]
            assert sum(polling) == 1, "the first one"
            await crew.kill(polling.index(True))
            after_a_death = await paced(crew, polls)
            statuses = [await life.process.get("/ready") for life in crew.running]
            await crew.stop()
    assert alone <= MORE * min(together, after_a_death), "as often as one, not as four"
    assert [status for status, _ in statuses] == [200] * (REPLICAS - 1), statuses


async def paced(crew: Fleet, polls: int) -> float:
    """Seconds from a poll to the one after so many more, whoever they are of."""
    before = crew.count(POLLED)
    await crew.until(lambda: crew.count(POLLED) > before)
    began, before = time.monotonic(), crew.count(POLLED)
    await crew.until(lambda: crew.count(POLLED) >= before + polls)
    return time.monotonic() - began


async def test_a_database_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    url = "postgresql://user:hidden@127.0.0.1:1/state"
    async with task_server(tmp_path) as tasks, fleet(tasks, url, tmp_path, metrics_port=port) as crew:
        await crew.start()
        (life,) = crew.running
        await life.process.says(LOST)
        health, _ = await asked(port, "/health")
        ready, body = await asked(port, "/ready")
        assert (health, ready) == (200, 503)
        assert "postgresql://127.0.0.1:1/state cannot be reached" in body
        life.process.send(signal.SIGTERM)
        assert await life.process.ended() == 0
        assert "hidden" not in life.process.text + body


OWNED_BY_ANOTHER = ["CREATE ROLE few LOGIN", "CREATE DATABASE few OWNER postgres"]
READ_ONLY = "ALTER DATABASE few SET default_transaction_read_only ="


@pytest.mark.parametrize(
    ("prepare", "mend", "words"),
    [
        (OWNED_BY_ANOTHER, "ALTER DATABASE few OWNER TO few", "gives us no right"),
        ([*OWNED_BY_ANOTHER, "ALTER DATABASE few OWNER TO few", f"{READ_ONLY} on"], f"{READ_ONLY} off", "is read-only"),
        (["CREATE ROLE few LOGIN"], "CREATE DATABASE few OWNER few", "is not there"),
    ],
    ids=["no rights", "read-only", "no database"],
)
async def test_a_database_that_an_operator_must_mend_is_told_of_and_tried_again(
    server: Cluster, tmp_path: Path, prepare: list[str], mend: str, words: str
) -> None:
    owner, port = Database(server.url), free_port()
    owner.execute(*prepare)
    url = server.url.replace("postgres@", "few:hidden@").replace("/postgres", "/few")
    try:
        async with task_server(tmp_path) as tasks, fleet(tasks, url, tmp_path, metrics_port=port) as crew:
            await crew.start()
            (life,) = crew.running
            await life.process.says(LOST)
            health, _ = await asked(port, "/health")
            ready, body = await asked(port, "/ready")
            assert (health, ready) == (200, 503)
            assert words in body
            await asyncio.to_thread(owner.execute, mend)
            await crew.ready()
            assert "hidden" not in life.process.text + body
            await crew.stop()
    finally:
        owner.execute("DROP DATABASE IF EXISTS few WITH (FORCE)", "DROP ROLE few")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def asked(port: int, route: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{route}") as response:
        return response.status, await response.text()


async def haunted(crew: Fleet, tasks: Tasks, server: Cluster, own: Database) -> int:
    """Kill a replica now and then, and once the database, until the limit leaves nothing to do; answer the kills."""
    chance = random.Random(TASKS)
    kills = done = 0
    broken = False
    async with asyncio.timeout(PATIENCE):
        while done < LIMIT - (kills + 1) * LANES * BATCH or not broken:
            most = max(done, LIMIT - (kills + 1) * LANES * BATCH)  # what is left of it when all that died has counted
            await tasks.until("succeeded", min(most, done + chance.randint(1, LIMIT // 5)), within=PATIENCE)
            await crew.kill(chance.randrange(len(crew.running)))
            kills += 1
            await crew.start()
            if not broken and done > LIMIT // 4:
                await asyncio.to_thread(own.cut_all)
                await asyncio.to_thread(server.restart)
                broken = True
            done = (await tasks.counts())["succeeded"]
        await tasks.until("succeeded", LIMIT - kills * LANES * BATCH - BATCH, within=PATIENCE)
        while await asyncio.to_thread(own.value, IN_HAND):  # noqa: ASYNC110  # others do it
            await asyncio.sleep(GLANCE)
    await crew.ready()
    return kills


def begun_again(lives: list[Life]) -> list[str]:
    """Tasks that were begun more often than kills explain."""
    begun, settled = Counter[str](), Counter[str]()
    for life in lives:
        begun.update(life.tasks(STARTED))
        settled.update(life.tasks(SETTLED))
        if life.killed:  # what was in its hands
            settled.update((Counter(life.tasks(STARTED)) - Counter(life.tasks(SETTLED))).elements())
    return [task_id for task_id in begun if begun[task_id] != settled[task_id]]
