"""The short form of ``python -m tests.chaos``: the real process, killed ten times."""

from collections.abc import Iterator

from tests.chaos.records import Records
from tests.chaos.run import chaos

SEEDS = (1, 2, 3)

MET = {
    "a request that was paid for and whose answer was lost",
    "vectors that arrived",
    "a PATCH with a fault",
    "an outcome that was reported",
}
"""What must happen for kills to prove anything; on a loaded machine ten of them may come too soon for some of it."""


async def test_ten_kills_lose_nothing_and_pay_for_nothing_twice() -> None:
    met: set[str] = set()
    for seed in SEEDS:
        report = await chaos(kills=10, seed=seed, hurry=True)
        assert report.breaches == [], f"python -m tests.chaos --kills 10 --hurry --seed {seed}\n{report.figures}"
        assert [end.how for end in report.records.ends].count("killed") == 10
        met |= set(happenings(report.records))
        if met == MET:
            return
    assert met == MET


def happenings(records: Records) -> Iterator[str]:
    if any(sending.charged_at is not None and sending.fault for sending in records.sendings):
        yield "a request that was paid for and whose answer was lost"
    if any(sending.delivered_at is not None for sending in records.sendings):
        yield "vectors that arrived"
    if any(patch.fault for patch in records.patches):
        yield "a PATCH with a fault"
    if any("reported" in end.rows.values() for end in records.ends):
        yield "an outcome that was reported"
