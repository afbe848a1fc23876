"""The short form of ``python -m tests.chaos``: the real process, killed ten times."""

from tests.chaos.run import chaos


async def test_ten_kills_lose_nothing_and_pay_for_nothing_twice() -> None:
    report = await chaos(kills=10, seed=1, hurry=True)
    records = report.records
    assert report.breaches == [], f"python -m tests.chaos --kills 10 --hurry --seed {report.seed}\n{report.figures}"
    assert [end.how for end in records.ends].count("killed") == 10
    assert any(sending.charged_at is not None and sending.fault for sending in records.sendings)
    assert any(sending.delivered_at is not None for sending in records.sendings)
    assert any(patch.fault for patch in records.patches)
    assert any("reported" in end.rows.values() for end in records.ends)
