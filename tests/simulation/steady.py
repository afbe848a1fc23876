"""Worlds in which nothing goes wrong: more to do than a limit lets through, or nothing to do."""

import random
from collections.abc import Sequence

from ai_task_processor.domain.amount import Unit
from tests.simulation.faults import CALM, Weather
from tests.simulation.scenario import GOOD, MODEL, Api, Ends, Engine, Planned, Replicas, Scenario, basic_settings
from tests.simulation.spending import Note

ALL_WELL = Ends(deaths=0, mean=1.0)
TOKENS = 17
"""What each text is estimated to have, and has."""

QUICK = Weather(latency=(0.005, 0.02))


def busy(count: int, *, replicas: int = 0, **settings: object) -> Scenario:
    """So many tasks at once, of about the same size."""
    tasks = tuple(_task(number) for number in range(count))
    return _scenario(tasks, replicas=replicas, **settings)


def idle(seconds: float, *, replicas: int = 0, deaths: int = 0) -> Scenario:
    """A task at the end of a time in which each replica may die now and then."""
    ends = Ends(deaths=deaths, mean=seconds / (deaths + 1), gracefully=0.5, at_points=0.0, downtime=10.0)
    return _scenario((_task(0, at=seconds),), replicas=replicas, healed=seconds, ends=ends)


def usable(notes: Sequence[Note], unit: Unit, limit: int, count: int, *, rolling: bool) -> float:
    """Which part of a limit of a minute ``count`` tasks have used, from when it was used up for the first time.

    Taken where it is largest, in the second half: between two bursts of a window all is used that could be.
    """
    sent = [note for note in notes if note.admits][:count]
    first = sent[0].at if rolling else sent[0].at // 60 * 60
    taken, parts = 0, [0.0]
    for note in sent:
        taken += note.amount.of(unit)
        if note.at > (first + sent[-1].at) / 2:
            parts.append((taken - limit) / limit * 60 / (note.at - first))
    return max(parts)


def _scenario(
    tasks: tuple[Planned, ...],
    *,
    replicas: int,
    healed: float = 0.0,
    ends: Ends = ALL_WELL,
    **settings: object,
) -> Scenario:
    chance = random.Random("steady")
    return Scenario(
        seed=1,
        healed=healed,
        settings=basic_settings()
        | {"polling_interval_seconds": 30, "delivery_concurrency": 2, "concurrency_limit": 2, "batch_size": 4}
        | settings,
        tasks=tasks,
        api=Api(fetch=QUICK, patch=QUICK, token=QUICK),
        engines={"openai": Engine(Weather(latency=(0.1, 0.2)))},
        ends=ends,
        replicas=_in_peace(replicas, chance) if replicas else None,
    )


def _in_peace(count: int, chance: random.Random) -> Replicas:
    return Replicas(tuple(chance.uniform(-1, 1) for _ in range(count)), CALM, ((),) * count)


def _task(number: int, at: float = 0.0) -> Planned:
    text = f"steady text number {number:05}"
    content = {"text": text, "model": MODEL, "dimensions": 4}
    entry = {"_id": f"s{number}", "type": "text_embedding", "content": content, "correlationId": f"c{number}"}
    return Planned(at, GOOD, f"s{number}", entry, text, 4)
