"""The daemon in simulated worlds: ``SIMULATION_SEEDS`` of them, beginning with the seed ``SIMULATION_FIRST``."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ai_task_processor.domain.amount import USD, Unit
from tests.simulation.month import DAY, DAYS, month
from tests.simulation.scenario import Scenario, drawn
from tests.simulation.steady import TOKENS, busy, idle, usable
from tests.simulation.world import Report, simulate

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "40"))
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))
CHUNKS = 20

ROOT = Path(__file__).parents[2]


def failure(report: Report) -> str:
    """What somebody needs who looks into a seed that failed."""
    violations = "\n".join(report.violations)
    return f"seed {report.seed}:\n{violations}\nSee it again: python -m tests.simulation {report.seed}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_lost_and_nothing_is_paid_twice(chunk: int) -> None:
    failed = []
    for seed in range(FIRST + chunk, FIRST + SEEDS, CHUNKS):
        report = simulate(drawn(seed))
        if report.violations:
            failed.append(failure(report))
    assert not failed, "\n\n".join(failed)


def test_a_seed_decides_everything() -> None:
    for seed in (3, 4):
        assert simulate(drawn(seed)).trace.lines == simulate(drawn(seed)).trace.lines
    assert simulate(drawn(3)).trace.hash != simulate(drawn(4)).trace.hash


def test_a_seed_decides_everything_in_another_process_too() -> None:
    """Where sets of texts have another order and objects other addresses."""
    seeds = [
        next(seed for seed in range(100) if drawn(seed).sql),
        next(seed for seed in range(100) if drawn(seed).replicas),
        7,
    ]
    code = "import sys\nfrom tests.simulation.scenario import drawn\nfrom tests.simulation.world import simulate\n"
    code += "print(*(simulate(drawn(int(seed))).trace.hash for seed in sys.argv[1:]))"
    run = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code, *map(str, seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1234"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [simulate(drawn(seed)).trace.hash for seed in seeds]


def test_the_worlds_are_as_bad_as_they_are_meant_to_be() -> None:
    """A simulation that meets nothing proves nothing."""
    missing = {
        *("kills", "graceful stops", "stops cut short", "reboots", "clock jumps", "limits reached"),
        *("closed: tasks", "closed: tokens", "closed: cost"),
        *("provider: 500 before", "provider: 500 after", "provider: 429", "provider: quota", "provider: refused"),
        *("patch: reset before", "patch: reset after", "patch: hang after", "patch: truncated", "patch: web page"),
        *("patch: 500 after", "patch: late", "patch: 503 with Retry-After", "fetch: truncated", "fetch: 403"),
        *("token: hang before", "token: invalid_client", "touched: set back", "touched: rival", "touched: delete"),
        *("event: BatchSplit", "event: Parked", "event: ClaimLost", "event: DeliveryHalted", "event: TypeUnknown"),
        *("event: CacheAnswered", "event: FellBack", "answers lost in a crash"),
    }
    for seed in range(100):
        missing -= simulate(drawn(seed)).counts.keys()
        if not missing:
            return
    raise AssertionError(f"no world met this: {missing}")


def test_replicas_meet_what_they_are_meant_to_meet() -> None:
    missing = {"claims taken over", "outcomes taken over", "answers lost with a lease", "turns passed on"}
    missing |= {"event: StateLost", "event: StateRegained", "event: TurnElsewhere", "kills", "graceful stops"}
    for scenario in (scenario for scenario in map(drawn, range(1_000)) if scenario.replicas):
        missing -= simulate(scenario).counts.keys()
        if not missing:
            return
    raise AssertionError(f"no replicas met this: {missing}")


@pytest.mark.parametrize("replicas", [0, 3])
@pytest.mark.parametrize(
    ("unit", "limit", "strategy", "settings"),
    [
        ("tasks", 12, "rolling", {"rate_limit_per_minute": 12}),
        ("tokens", 60 * TOKENS, "fixed", {"token_limit_per_minute": 60 * TOKENS}),
        ("cost", 60 * TOKENS * 130_000, "rolling", {"cost_limit_per_minute": 60 * TOKENS * 130_000 / USD}),
    ],
)
def test_a_steady_load_can_use_a_limit(
    unit: Unit, limit: int, strategy: str, settings: dict[str, object], replicas: int
) -> None:
    count = 120 if unit == "tasks" else 300
    report = simulate(busy(count, replicas=replicas, rate_limit_strategy=strategy, **settings))
    assert not report.violations, failure(report)
    assert 0.98 <= usable(report.spending, unit, limit, count, rolling=strategy == "rolling") <= 1


def test_replicas_poll_as_often_as_one() -> None:
    """Also while they die."""

    def polls_an_hour(scenario: Scenario) -> float:
        report = simulate(scenario)
        assert not report.violations, failure(report)
        return report.counts["event: Polled"] / report.simulated * 3_600

    alone = polls_an_hour(idle(1_800))
    assert polls_an_hour(idle(1_800, replicas=3)) <= 1.1 * alone
    assert polls_an_hour(idle(1_800, replicas=2, deaths=2)) <= 1.2 * alone


def test_a_month_without_an_operator_passes_in_seconds() -> None:
    began = time.process_time()
    report = simulate(month())
    assert not report.violations, "\n".join(report.violations)
    assert report.simulated >= DAYS * DAY
    assert report.counts["kills"] + report.counts["graceful stops"] == 4
    assert time.process_time() - began < 60


def test_a_daemon_that_forgets_is_found_out() -> None:
    """The invariants see what they must: here a journal that loses with each death what it had promised to keep."""
    dying = [
        scenario
        for scenario in map(drawn, range(200))
        if scenario.ends.deaths > 1 and not scenario.sql and not scenario.replicas
    ]
    forgetful = (dataclasses.replace(scenario, forgets=True) for scenario in dying)
    assert any(simulate(scenario).violations for scenario in forgetful)
