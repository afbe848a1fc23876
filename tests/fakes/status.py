"""Statuses as a daemon might have them: well, in trouble, just started, paused."""

import math
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from msgspec.structs import replace

from ai_task_processor.domain.ports import Backlog
from ai_task_processor.ops.health import Check, Health, HealthSettings
from ai_task_processor.ops.http import OpsServer
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.status.facts import Breaker, Failure, Minute, ParkedTask, Refusal, Status, Window
from ai_task_processor.ops.status.lookout import Readings
from tests.fakes.time import BEGINNING, ManualClock

DAY = 86_400.0
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> & \"quoted\" 'too'"

CHECKS = {
    "running": Check(ok=True, detail="all services run"),
    "token": Check(ok=True, detail="held"),
    "task_api": Check(ok=True, detail="answers"),
    "models": Check(ok=True, detail="all that must be prepared are there"),
    "provider": Check(ok=True, detail="openai: usable"),
    "state": Check(ok=True, detail="writable"),
}


def _minutes() -> tuple[Minute, ...]:
    chance = random.Random(4)
    waves = [max(0, round(60 + 40 * math.sin(place / 9) + chance.gauss(0, 12))) for place in range(60)]
    settled = [0 if 22 <= place < 27 else number for place, number in enumerate(waves)]
    return tuple(
        Minute(number, chance.choice([0, 0, 0, 1, 3]) if number else 0, 0, 120 * number, 2.4e-6 * number)
        for number in settled
    )


WELL = Status(
    service="ai-task-processor",
    version="1.2.3",
    host="processor-7c9f4d",
    mode="openai",
    phase="running",
    paused=False,
    alive=True,
    at=BEGINNING,
    uptime=3 * DAY + 4 * 3_600 + 120,
    polled_at=BEGINNING - 4,
    checks=CHECKS,
    in_flight=64,
    backlog=Backlog(ready=1_204, deferred=31, claimed=64, unreported=5, oldest_unreported=BEGINNING - 3),
    minutes=_minutes(),
    total=Minute(183_402, 211, 1_204, 22_008_240, 44.02),
    limits_strategy="rolling",
    windows=(
        Window("tasks", "minute", 58, 120, 62, BEGINNING + 12),
        Window("tasks", "day", 93_120, 100_000, 6_880, BEGINNING + 7_200),
        Window("tokens", "day", 8_400_000, 50_000_000, 41_600_000, BEGINNING + 10_860),
        Window("cost", "month", 44.02, 200, 155.98, BEGINNING + 9 * DAY),
    ),
    breakers=(Breaker("task_api", "closed", BEGINNING - 3 * DAY), Breaker("openai", "closed", BEGINNING - 7_200)),
    refusals=(),
    failures=(),
    parked=(),
)

TROUBLED = replace(
    WELL,
    in_flight=0,
    backlog=Backlog(ready=48_204, deferred=31, unreported=5, parked=23, oldest_unreported=BEGINNING - 1_800),
    windows=(Window("tasks", "minute", 120, 120, 0, BEGINNING + 12), *WELL.windows[1:]),
    breakers=(WELL.breakers[0], Breaker("openai", "open", BEGINNING - 42, f"openai answered 503: {HOSTILE}")),
    failures=(
        Failure("68b89107952364b0aad89c1d", "text_embedding", BEGINNING - 100, "content.text is empty."),
        Failure("68b89107952364b0aad89c2e", "text_embedding", BEGINNING - 4_000, HOSTILE),
        Failure("x" * 120, "text_embedding", BEGINNING - 2 * DAY, "y" * 300),
    ),
    parked=(
        ParkedTask("68b89107952364b0aad89aaa", "text_embedding", BEGINNING - 3_600, "answered 413: too large"),
        ParkedTask("68b89107952364b0aad89bbb", "text_embedding", None, HOSTILE),
    ),
)

_REFUSED = "credentials refused: invalid_client; check OAUTH2_CLIENT_ID, OAUTH2_CLIENT_SECRET and OAUTH2_SCOPE"
FRESH = replace(
    WELL,
    mode="local",
    uptime=42.0,
    polled_at=None,
    checks=CHECKS | {"token": Check(ok=False, detail=_REFUSED), "task_api": Check(ok=False, detail="not polled yet")},
    in_flight=0,
    backlog=Backlog(),
    minutes=(Minute(),) * 60,
    total=Minute(),
    windows=(),
    breakers=(Breaker("task_api", "closed", BEGINNING - 42), Breaker("local", "closed", BEGINNING - 42)),
)

PAUSED = replace(
    WELL,
    paused=True,
    in_flight=0,
    refusals=(Refusal("openai", BEGINNING + 240, "insufficient_quota: You exceeded your current quota"),),
    backlog=None,
)

SAMPLES: Mapping[str, Status] = {"well": WELL, "troubled": TROUBLED, "fresh": FRESH, "paused": PAUSED}


class Showing:
    """A lookout that sees what a test wants it to see."""

    def __init__(self, status: Status) -> None:
        self.shown = status
        self.readings = Readings(self._backlog, self._parked, dict)

    async def status(self) -> Status:
        return self.shown

    async def _backlog(self) -> Backlog:
        return self.shown.backlog or Backlog()

    async def _parked(self, limit: int) -> tuple[ParkedTask, ...]:
        return self.shown.parked[:limit]


@asynccontextmanager
async def showing(status: Status, port: int = 0) -> AsyncIterator[tuple[OpsServer, Showing]]:
    """A server whose routes show ``status``."""
    clock, lookout = ManualClock(), Showing(status)
    about = HealthSettings("s", "v", 1, 1, limits_enabled=True, limits_strategy="rolling", providers=("mock",))
    health = Health(about, clock=clock, storage=lambda: None)
    metrics = Metrics("v", clock=clock)
    async with OpsServer("127.0.0.1", port, health=health, metrics=metrics, lookout=lookout, clock=clock) as server:
        yield server, lookout
