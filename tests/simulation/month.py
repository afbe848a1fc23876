"""A month without an operator: a trickle of tasks, an outage every day, limits in every window, a death every week."""

import random

from tests.simulation.faults import API_OUTAGES, PROVIDER_OUTAGES, Outage, Weather
from tests.simulation.scenario import (
    GOOD,
    MALFORMED,
    MODEL,
    POISON,
    Api,
    Ends,
    Engine,
    Planned,
    Scenario,
    basic_settings,
)

DAY = 86_400.0
DAYS = 30
EVERY = 1_800.0
"""Seconds between two tasks."""


def month(seed: int = 1) -> Scenario:
    """Thirty days and what comes after them."""
    chance = random.Random(f"month {seed}")
    return Scenario(
        seed=seed,
        healed=DAYS * DAY,
        settings=basic_settings()
        | {
            "polling_interval_seconds": 300,
            "delivery_concurrency": 2,
            "concurrency_limit": 2,
            "batch_size": 16,
            "rate_limit_strategy": "fixed",
            "rate_limit_per_minute": 10,
            "rate_limit_per_hour": 60,
            "rate_limit_per_day": 200,
            "rate_limit_per_week": 1_000,
            "rate_limit_per_month": 3_000,
        },
        tasks=tuple(_task(chance, number) for number in range(int(DAYS * DAY / EVERY))),
        api=Api(
            fetch=Weather(outages=_daily(chance, API_OUTAGES), latency=(0.01, 0.2)),
            patch=Weather(outages=_daily(chance, API_OUTAGES), latency=(0.01, 0.2)),
            token=Weather(latency=(0.01, 0.2)),
            callback_throws=0.02,
            touches=tuple((chance.uniform(0, DAYS * DAY), "set back") for _ in range(DAYS)),
        ),
        engines={"openai": Engine(Weather(outages=_daily(chance, PROVIDER_OUTAGES), latency=(0.1, 2.0)))},
        ends=Ends(deaths=4, mean=7 * DAY, gracefully=0.5, at_points=0.0),
        jumps=((10.5 * DAY, -1.0), (20.5 * DAY, 1.0)),
    )


def _daily(chance: random.Random, faults: tuple[str, ...]) -> tuple[Outage, ...]:
    """One outage on each day, from some minutes up to some hours long."""
    begins = [day * DAY + chance.uniform(0, DAY / 2) for day in range(DAYS)]
    return tuple(Outage(begin, begin + chance.uniform(300, 4 * 3_600), chance.choice(faults)) for begin in begins)


def _task(chance: random.Random, number: int) -> Planned:
    kind = chance.choices((GOOD, POISON, MALFORMED), (96, 2, 2))[0]
    text = f"{kind} text of month {number}" if kind != MALFORMED else ""
    content = {"text": text, "model": MODEL, "dimensions": 4}
    entry = {"_id": f"m{number}", "type": "text_embedding", "content": content, "correlationId": f"c{number}"}
    return Planned(number * EVERY, kind, f"m{number}", entry, text, 4)
