"""A run: the real daemon is killed again and again while both servers do their worst, then everything is checked."""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from ai_task_processor.settings import Settings
from tests.chaos.invariants import breaches, longest_commit, minutes, paid_again
from tests.chaos.offers import Offers
from tests.chaos.process import GRACE, PATIENCE, Life, command, rows_of, secrets, unfinished_count, unfinished_rows
from tests.chaos.records import End, Limit, Records
from tests.chaos.servers import API_TIMEOUT, PROVIDER_TIMEOUT, ChaosProvider, ChaosTaskApi, Moments, Weather
from tests.fakes.openai_server import API_KEY
from tests.fakes.task_api_server import CLIENT_ID, CLIENT_SECRET

FEED = 4.5
"""New tasks in a second, on average."""

MOST_PENDING = 80
"""Pending tasks at the Task API above which no new ones come: a slow machine gets less to do."""

FIRST_LIMIT, LIMIT_GROWTH = 12, 5
"""RATE_LIMIT_PER_MINUTE of the first process, and how much it grows with each second of the first minute: so it binds
now and then from the beginning, and never for long."""

LAST_LIMIT = FIRST_LIMIT + 60 * LIMIT_GROWTH

RESETS = 0.04
"""How many new tasks come with one that somebody has set back to pending."""

SHARES = (0.0, 0.15, 0.25, 0.25, 0.4, 0.8)
"""How much of the traffic goes wrong during the life of a process: one of these."""

SPANS = {
    "start": (0.0, 1.2),
    "any": (0.0, 1.8),
    "fetch": (0.0, 0.03),
    "embed": (0.0, 0.08),
    "answered": (0.0, 0.02),
    "patch": (0.0, 0.03),
}
"""When to kill: so many seconds after the start of the process, or after the servers see such a request."""

WEIGHTS = {"start": 3, "any": 5, "fetch": 1, "embed": 4, "answered": 4, "patch": 4}

LONGEST_LIFE = 2.0
"""Seconds that are waited for the moment to kill; after that the kill comes whatever happens."""

STOPS = 0.1
"""The share of processes that are stopped (SIGTERM) and not killed."""

SECONDS_PER_KILL = 10.0
DRAIN_SECONDS = 150.0
"""Bounds of the run, and of its end when nothing goes wrong any more."""

GLANCE = 0.05
"""Seconds between looks into the state file, which tells nobody that it has changed."""

SECOND_OWNERS = 0.25
"""The share of the lives without a special plan beside which another process is started on the same state file."""

HURRY = 0.4
"""By how much lives are shorter in a hurry."""

SECRETLY = "confidential"


@dataclass
class Report:
    """What a run came to."""

    seed: int
    records: Records
    breaches: list[str]
    kills: int = 0
    seconds: float = 0.0
    figures: dict[str, object] = field(default_factory=dict)


Tell = Callable[[str], None]


async def chaos(*, kills: int, seed: int, hurry: bool = False, tell: Tell = lambda _line: None) -> Report:
    """Kill the daemon ``kills`` times; the report has every breach of an invariant.

    With ``hurry`` an operator ends all waits at the end; without, the daemon is left alone until it has finished.

    ``seed`` decides tasks, faults and plans; what they meet depends on how fast this machine is at that moment, so a
    run cannot be repeated exactly.
    """
    async with Chaos(seed, tell, hurry=hurry) as run, asyncio.timeout(kills * SECONDS_PER_KILL + DRAIN_SECONDS + 60):
        return await run.run(kills)


class Chaos:
    """One run with its servers, its folder and its process; nothing of them is left behind."""

    def __init__(self, seed: int, tell: Tell, *, hurry: bool) -> None:
        self._seed = seed
        self._hurry = hurry
        self._pace = HURRY if hurry else 1.0
        self._tell = tell
        self._chance = random.Random(seed)
        self._offers = Offers(random.Random(seed + 1), marker=f"{SECRETLY}-{seed}")
        self._records = Records()
        self._moments = Moments()
        self._weather = Weather(random.Random(seed + 2))
        self._api = ChaosTaskApi(self._weather, self._records, self._moments)
        self._provider = ChaosProvider(self._weather, self._records, self._moments)
        self._began = time.monotonic()
        self._breaches: list[str] = []
        self._counts = Counter[str]()
        self._lives = 0
        self._life: Life | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="chaos-")))
        await self._stack.enter_async_context(self._api)
        await self._stack.enter_async_context(self._provider)
        self._stack.push_async_callback(self._bury)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, kills: int) -> Report:
        self._offer(10)
        feeder = asyncio.create_task(self._feed(), name="feeder")
        try:
            await self._live_and_die(kills)
        finally:
            feeder.cancel()
        await self._calm_down()
        self._judge()
        return self._report(kills)

    # --- Tasks --------------------------------------------------------------------------------------------------------

    def _offer(self, count: int) -> None:
        self._api.add(*(self._offers.make().document for _ in range(count)))

    async def _feed(self) -> None:
        while True:
            count = self._chance.randint(1, 4)
            await asyncio.sleep(count / FEED * self._chance.uniform(0.5, 1.5))
            if self._api.states()["pending"] < MOST_PENDING:
                self._offer(count)
            if self._chance.random() < RESETS * count:
                self._reset_one()

    def _reset_one(self) -> None:
        """Set a task back to pending whose end everybody had agreed on."""
        ends = self._records.ends
        rows = ends[-1].rows if ends else {}
        agreed = [task_id for task_id, state in rows.items() if state == "reported"]
        agreed = [task_id for task_id in agreed if self._api.tasks[task_id]["state"] != "pending"]
        if agreed:
            task_id = self._chance.choice(agreed)
            self._api.tasks[task_id].update(state="pending", result=None)
            self._records.resets.setdefault(task_id, []).append(time.monotonic())

    # --- Lives --------------------------------------------------------------------------------------------------------

    async def _live_and_die(self, kills: int) -> None:
        killed = 0
        while killed < kills:
            self._weather.share = self._chance.choice(SHARES)
            self._api.ignore_limit = self._chance.random() < 0.2
            life = await self._be_born(self._limit())
            if self._chance.random() < STOPS:
                await asyncio.sleep(self._chance.uniform(0.4, 3.0) * self._pace)
                await self._stop(life, twice=self._chance.random() < 0.25)
            else:
                killed += 1
                await self._kill(life, self._plan(), f"{killed}/{kills}")
            await self._bury()

    def _plan(self) -> str:
        return self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]

    async def _be_born(self, limit: int) -> Life:
        self._lives += 1
        self._records.limits.append(Limit(time.monotonic(), limit))
        self._life = await Life.start(self._lives, self._folder, self._environment(limit))
        return self._life

    def _limit(self) -> int:
        return FIRST_LIMIT + math.floor(LIMIT_GROWTH * min(60.0, time.monotonic() - self._began))

    async def _kill(self, life: Life, plan: str, number: str) -> None:
        await self._wait(life, plan)
        busy = self._doing(life)
        code = await life.kill()
        self._note_end(life, "killed", code)
        self._counts[f"kills while {busy}"] += 1
        self._progress(life, f"kill {number}", f"planned for {plan}, while {busy}")

    async def _wait(self, life: Life, plan: str) -> None:
        if plan == "any" and self._chance.random() < SECOND_OWNERS:
            await self._start_second_owner(life)
            return
        if plan != "start":
            await self._happens("token", within=PATIENCE)
        if plan not in {"start", "any"}:
            await self._happens(plan, within=LONGEST_LIFE * self._pace, times=self._chance.choice((1, 1, 2, 3, 6)))
        await asyncio.sleep(self._chance.uniform(*SPANS[plan]) * self._pace)

    async def _happens(self, what: str, *, within: float, times: int = 1) -> bool:
        """Wait until the servers have seen it; False where that takes too long."""
        try:
            async with asyncio.timeout(within):
                for _ in range(times):
                    await self._moments.wait_for(what)
        except TimeoutError:
            return False
        return True

    async def _stop(self, life: Life, *, twice: bool) -> None:
        busy = self._doing(life)
        asked = time.monotonic()
        life.ask_to_stop()
        code = await life.ended(self._chance.uniform(0.01, 0.2)) if twice else None
        if twice and code is None:
            life.ask_to_stop()
        code = await life.ended(PATIENCE)
        took = time.monotonic() - asked
        if code is None or took > GRACE + 3.0:
            self._breaches.append(f"process {life.number} took {took:.1f} s to stop, with {GRACE} s of grace")
            code = await life.kill() if code is None else code
        cut = twice or took > GRACE - 0.2
        unborn = code == -15 and not life.output and took < 0.2
        how = "unborn" if unborn else "cut" if cut else "stopped"
        self._note_end(life, how, code)
        self._counts[f"stops ({how})"] += 1
        self._progress(life, f"stop{' twice' if twice else ''}", f"while {busy}, in {took:.2f} s")

    async def _start_second_owner(self, life: Life) -> None:
        """Start another process on the state file that ``life`` owns, which must be refused."""
        if not await self._happens("fetch", within=PATIENCE):
            return
        environment = self._environment(self._records.limits[-1].count)
        second = await Life.start(9000 + life.number, self._folder, environment)
        try:
            code = await second.ended(PATIENCE)
        finally:
            await second.kill()
        if life.alive and (code != 74 or "is in use by process" not in second.output):
            self._breaches.append(f"a second process on the same state file ended with {code} instead of 74")
        self._look_for_secrets(second)
        self._counts["second processes refused"] += 1

    async def _bury(self) -> None:
        """See that the process has ended, and let go of what waited for it."""
        if self._life is not None:
            await self._life.kill()
            self._life = None
        self._api.release()
        self._provider.release()

    def _doing(self, life: Life) -> str:
        """What a process does right now, as far as one sees from outside."""
        doing = "+".join(name for name in ("token", "fetch", "embed", "patch") if self._moments.running[name])
        if doing:
            return doing
        return "idle or committing" if _ready(life) else "starting"

    def _note_end(self, life: Life, how: str, code: int) -> None:
        at = time.monotonic()
        rows = rows_of(self._folder / "state.db")
        reported = {task_id: self._has_end(task_id) for task_id, state in rows.items() if state == "reported"}
        self._records.ends.append(End(life.number, life.began, at, how, code, rows, reported, _ready(life)))
        self._look_for_secrets(life)

    def _has_end(self, task_id: str) -> bool:
        was_reset = task_id in self._records.resets
        return was_reset or self._api.tasks[task_id]["state"] in {"succeeded", "failed"}

    def _look_for_secrets(self, life: Life) -> None:
        output = life.output
        self._counts["bytes of output"] += len(output)
        for secret in (*secrets(len(self._api.token_requests)), SECRETLY):
            if secret in output:
                self._breaches.append(f"the output of process {life.number} has a secret or a text: {secret[:12]}…")
        if "Traceback" in output:
            place = output.index("Traceback")
            self._breaches.append(f"process {life.number} crashed or met a defect: {output[place:][:1500]}")
        if '"Rate limit reached' in output or "limit_reached" in output:
            self._counts["lives in which the limit was reached"] += 1

    def _progress(self, life: Life, what: str, how: str) -> None:
        done = sum(count for state, count in self._api.states().items() if state != "pending")
        lived = time.monotonic() - life.began
        self._tell(f"{what}: {how}; lived {lived:.2f} s; {done} of {len(self._api.tasks)} tasks done")

    # --- The end ------------------------------------------------------------------------------------------------------

    async def _calm_down(self) -> None:
        """Nothing goes wrong any more: one last process must bring everything to its end."""
        self._weather.share = 0.0
        self._api.ignore_limit = False
        environment = self._environment(LAST_LIMIT)
        if self._hurry:
            await self._end_all_waits(environment)
        life = await self._be_born(LAST_LIMIT)
        self._tell("calm: waiting for the last process to finish everything")
        began = time.monotonic()
        if not await self._is_finished(life, within=DRAIN_SECONDS * self._pace):
            self._breaches.append(f"not everything was finished {time.monotonic() - began:.0f} s after all was well")
        self._counts["seconds until all was finished"] = round(time.monotonic() - began)
        await self._stop(life, twice=False)
        for row in await unfinished_rows(self._folder, environment):
            self._breaches.append(f"stuck: {row['id']} is {row['state']} ({row['reason']})")

    async def _is_finished(self, life: Life, *, within: float) -> bool:
        """Wait until nothing is pending, and the journal knows it too; False where that takes too long."""
        with contextlib.suppress(TimeoutError, AssertionError):
            async with asyncio.timeout(within):
                await self._api.until(lambda: not self._api.states()["pending"] or not life.alive, within=within)
                while life.alive and unfinished_count(self._folder / "state.db"):  # noqa: ASYNC110  # a file
                    await asyncio.sleep(GLANCE)
        return not self._api.states()["pending"] and not unfinished_count(self._folder / "state.db")

    async def _end_all_waits(self, environment: Mapping[str, str]) -> None:
        """Do what an operator does who does not want to wait for what was deferred."""
        rows = await unfinished_rows(self._folder, environment)
        waiting = [str(row["id"]) for row in rows if row["not_before"]]
        if waiting:
            await command("journal", "retry", *waiting, folder=self._folder, environment=environment)
        self._counts["waits ended by an operator"] = len(waiting)

    def _judge(self) -> None:
        self._breaches += breaches(self._records, self._offers.all, remembers=remembers())
        for task_id, task in self._api.tasks.items():
            if task["state"] not in {"succeeded", "failed"}:
                self._breaches.append(f"{task_id}: is {task['state']} at the Task API")

    def _report(self, kills: int) -> Report:
        records = self._records
        charges = [sending for sending in records.sendings if sending.charged_at is not None]
        peak = max(minutes(records), key=lambda minute: minute[1] / minute[2], default=None)
        failed = self._api.states()["failed"]
        figures: dict[str, object] = {
            "tasks": f"{len(self._api.tasks)}: {self._api.states()['succeeded']} succeeded, {failed} failed",
            "tasks set back to pending": sum(map(len, records.resets.values())),
            "processes": f"{self._lives}, with {kills} kills",
            **dict(sorted(self._counts.items())),
            "requests to the provider": f"{len(records.sendings)}, {len(charges)} of them charged",
            "texts charged": sum(len(sending.payments) for sending in charges),
            "texts paid for again": paid_again(records, self._offers.all, remembers=remembers()),
            "charged requests whose answer was lost": sum(sending.delivered_at is None for sending in charges),
            "longest time from an answer to the kill that lost it": f"{longest_commit(records):.3f} s",
            "PATCHes": f"{len(records.patches)} for {len({patch.task_id for patch in records.patches})} tasks",
            "fullest minute": f"{peak[1]} of {peak[2]} texts" if peak else "none",
            "faults": ", ".join(f"{count} {name}" for name, count in sorted(self._weather.faults.items())),
        }
        seconds = time.monotonic() - self._began
        return Report(self._seed, records, self._breaches, kills, seconds, figures)

    def _environment(self, limit: int) -> dict[str, str]:
        settings: dict[str, object] = {
            "api_base_url": self._api.url,
            "oauth2_token_url": self._api.token_url,
            "oauth2_client_id": CLIENT_ID,
            "oauth2_client_secret": CLIENT_SECRET,
            "request_timeout": API_TIMEOUT,
            "polling_interval_seconds": 0.2,
            "delivery_concurrency": 8,
            "processing_mode": "openai",
            "openai_api_key": API_KEY,
            "openai_base_url": self._provider.url,
            "openai_timeout": PROVIDER_TIMEOUT,
            "concurrency_limit": 3,
            "batch_size": 8,
            "max_retries": 2,
            "retry_backoff_factor": 1,
            "circuit_breaker_threshold": 3,
            "circuit_breaker_recovery_seconds": 0.3,
            "shutdown_grace_seconds": GRACE,
            "state_url": f"sqlite:///{self._folder / 'state.db'}",
            "rate_limit_per_minute": limit,
            "metrics_port": 0,
            "log_level": "DEBUG",
            "log_format": "json",
        }
        return {name.upper(): str(value) for name, value in settings.items()}


def _ready(life: Life) -> bool:
    return '"All services started' in life.output


def remembers() -> bool:
    """Whether this version of the daemon answers repeated texts from a cache."""
    return "embedding_cache_mb" in Settings.model_fields
