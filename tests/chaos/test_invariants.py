"""The judge of the real kills sees each breach, and none where there is none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai_task_processor.providers.mock import mock_vector
from tests.chaos.invariants import breaches, longest_commit, paid_again
from tests.chaos.offers import SMALL, Offer
from tests.chaos.records import End, Limit, Patch, Records, Sending

GOOD = Offer({"_id": "good", "content": {"text": "a text", "model": SMALL, "dimensions": 4}})
BAD = Offer({"_id": "bad", "content": {"text": "", "model": SMALL}}, fault="is empty")
OFFERS = {offer.id: offer for offer in (GOOD, BAD)}

VECTOR = np.frombuffer(mock_vector("a text", SMALL, 4), "<f4").tolist()
RIGHT: dict[str, Any] = {"state": "succeeded", "result": VECTOR}
FAULT: dict[str, Any] = {"state": "failed", "result": None, "error": "content.text is empty"}

KILLED = End(
    1, began=0, at=10, how="killed", code=-9, rows={"good": "claimed", "bad": "reported"}, reported={"bad": True}
)
STOPPED = End(2, began=10, at=20, how="stopped", code=0, rows={"good": "reported", "bad": "reported"})


def a_run() -> Records:
    """Two processes: the first is killed with a batch in flight, which the second one pays for again."""
    return Records(
        sendings=[
            Sending(9.5, (GOOD.payment,), charged_at=9.6, delivered_at=9.7),
            Sending(12, (GOOD.payment,), charged_at=12.1, delivered_at=12.2),
        ],
        patches=[
            Patch(5, "bad", FAULT, acknowledged_at=5.1),
            Patch(13, "good", RIGHT, fault="reset after"),
            Patch(15, "good", RIGHT, acknowledged_at=15.1),
        ],
        limits=[Limit(0, 2), Limit(10, 2)],
        ends=[KILLED, STOPPED],
    )


def found(records: Records, *, remembers: bool = True) -> list[str]:
    return list(breaches(records, OFFERS, remembers=remembers))


def test_what_was_in_flight_at_a_kill_may_be_paid_for_again_and_lost_answers_sent_again() -> None:
    assert found(a_run()) == []
    assert paid_again(a_run(), OFFERS, remembers=True) == 1
    assert longest_commit(a_run()) == pytest.approx(0.3)


def test_a_process_stopped_in_its_start_leaves_what_the_one_before_it_held() -> None:
    records = a_run()
    early = End(2, began=10, at=11, how="stopped", code=0, rows=KILLED.rows, ready=False)
    records.ends = [KILLED, early, replace(STOPPED, life=3, began=11)]
    assert found(records) == []


def test_what_was_lost_may_be_paid_for_again() -> None:
    records = a_run()
    records.sendings[0] = Sending(3, (GOOD.payment,), fault="truncate after", charged_at=3.1)
    assert found(records) == []


def test_a_task_set_back_to_pending_is_done_again_and_paid_for_where_nothing_is_remembered() -> None:
    records = a_run()
    records.resets["good"] = [16.0]
    records.sendings.append(Sending(17, (GOOD.payment,), charged_at=17.1, delivered_at=17.2))
    records.patches.append(Patch(18, "good", RIGHT, acknowledged_at=18.1))
    records.limits[1] = Limit(10, 3)
    assert found(records, remembers=False) == []
    assert any("paid for 2 times" in breach for breach in found(records))


def wrong_vector(records: Records) -> None:
    records.patches[1:] = [replace(patch, body={**RIGHT, "result": VECTOR[::-1]}) for patch in records.patches[1:]]


def nudged_vector(records: Records) -> None:
    nudged = [float(np.nextafter(np.float32(VECTOR[0]), np.float32(2))), *VECTOR[1:]]
    records.patches[1:] = [replace(patch, body={**RIGHT, "result": nudged}) for patch in records.patches[1:]]


def failed_for_no_fault(records: Records) -> None:
    records.patches[1:] = [replace(patch, body=FAULT) for patch in records.patches[1:]]


def other_fault(records: Records) -> None:
    records.patches[0].body = {**FAULT, "error": "given up"}


def never_reported(records: Records) -> None:
    del records.patches[0]


def contradiction(records: Records) -> None:
    records.patches[1].body = {**RIGHT, "model": SMALL}


def not_sent_again(records: Records) -> None:
    records.patches[2] = Patch(15, "good", RIGHT, fault="500 after")


def sent_again_for_no_reason(records: Records) -> None:
    records.patches[1] = Patch(13, "good", RIGHT, acknowledged_at=13.1)


def paid_twice_by_one_process(records: Records) -> None:
    records.sendings[0] = Sending(3, (GOOD.payment,), charged_at=3.1, delivered_at=3.2)


def limit_exceeded(records: Records) -> None:
    records.limits[1] = Limit(10, 1)


def row_vanished(records: Records) -> None:
    records.ends[1] = replace(STOPPED, rows={"good": "reported"})


def row_went_back(records: Records) -> None:
    records.ends[1] = replace(STOPPED, rows={"good": "reported", "bad": "due"})


def reported_but_not_there(records: Records) -> None:
    records.ends[1] = replace(STOPPED, reported={"good": False})


def sent_before_it_was_settled(records: Records) -> None:
    records.patches.insert(1, Patch(9, "good", RIGHT, fault="reset before"))


def paid_for_after_it_was_settled(records: Records) -> None:
    records.ends[0] = replace(KILLED, rows={"good": "succeeded", "bad": "reported"})


def stopped_half_done(records: Records) -> None:
    records.ends[1] = replace(STOPPED, rows={"good": "claimed", "bad": "reported"})


def crashed(records: Records) -> None:
    records.ends[0] = replace(KILLED, code=70)


def stopped_with_an_error(records: Records) -> None:
    records.ends[1] = replace(STOPPED, code=-15)


@pytest.mark.parametrize(
    ("breach", "words"),
    [
        (wrong_vector, "what is not its own"),
        (nudged_vector, "what is not its own"),
        (failed_for_no_fault, "what is not its own"),
        (other_fault, "what is not its own"),
        (never_reported, "never reported"),
        (contradiction, "different PATCHes"),
        (not_sent_again, "not sent again after «500 after»"),
        (sent_again_for_no_reason, "sent again although"),
        (paid_twice_by_one_process, "for no reason"),
        (limit_exceeded, "within a minute"),
        (row_vanished, "had vanished"),
        (row_went_back, "went back"),
        (reported_but_not_there, "does not have it"),
        (sent_before_it_was_settled, "was not settled"),
        (paid_for_after_it_was_settled, "after its outcome was in the journal"),
        (stopped_half_done, "half done"),
        (crashed, "code 70"),
        (stopped_with_an_error, "code -15"),
    ],
)
def test_each_breach_is_seen(breach: Callable[[Records], None], words: str) -> None:
    records = a_run()
    breach(records)
    assert any(words in sentence for sentence in found(records))
