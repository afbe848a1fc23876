"""What must hold whatever went wrong; each function answers one sentence for each breach. Pure."""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ai_task_processor.providers.guarded import CANARY
from ai_task_processor.providers.neighbours import PROBES
from tests.chaos.offers import Offer, Payment
from tests.chaos.records import End, Patch, Records, Sending

COMMIT_SECONDS = 0.5
"""How long after a provider's answer a process may be killed that has not committed it yet, on a busy machine."""

WAY_SECONDS = 1.0
"""How much later than it was booked a request may arrive: admissions nearer than this to a minute are not compared."""

FIRST_SENDING = 0.25
"""Seconds after its start in which a process cannot have sent anything: what comes then was sent by the one before."""

CODES: Mapping[str, int] = {"killed": -9, "stopped": 0, "cut": 0, "unborn": -15}
"""The exit code for each way to end; an unborn process was stopped before Python had come to our first line."""

ACKNOWLEDGING = frozenset({"", "truncate after"})
"""Faults of a PATCH whose answer begins with 200: by that the PATCH has had its effect, however the answer ends."""

OURS = frozenset({CANARY, *PROBES})
"""Texts that the daemon embeds on its own account."""

_SETTLED = frozenset({"succeeded", "failed", "reported"})
_HELD = frozenset({"due", "claimed"})


def breaches(records: Records, offers: Mapping[str, Offer], *, remembers: bool) -> Iterator[str]:
    """Every breach of every rule that can be judged from outside.

    ``remembers`` says whether the daemon answers repeated texts without the provider.
    """
    yield from wrong_ends(records, offers)
    yield from contradictions(records)
    yield from given_up(records)
    yield from needless_patches(records)
    yield from double_payments(records, offers, remembers=remembers)
    yield from exceeded_limits(records)
    yield from lost_rows(records)
    yield from payments_after_settling(records, offers, remembers=remembers)
    yield from patches_before_settling(records)
    yield from half_done(records)


def wrong_ends(records: Records, offers: Mapping[str, Offer]) -> Iterator[str]:
    """Every task was reported, and every report told its own vector or its own fault."""
    for patch in records.patches:
        if not offers[patch.task_id].is_right_end(patch.body):
            yield f"{patch.task_id}: reported what is not its own: {_words(patch.body)}"
    for task_id in offers.keys() - {patch.task_id for patch in records.patches}:
        yield f"{task_id}: never reported"


def contradictions(records: Records) -> Iterator[str]:
    """Within one life of a task (until it is set back to pending) every PATCH says the same."""
    for task_id, patches in _by_life_of_task(records):
        said = {json.dumps(patch.body, sort_keys=True) for patch in patches}
        if len(said) > 1:
            yield f"{task_id}: {len(said)} different PATCHes for one life"


def given_up(records: Records) -> Iterator[str]:
    """An outcome is sent until it is acknowledged; a 5xx is no acknowledgement even after the state was set."""
    for task_id, patches in _by_life_of_task(records):
        if patches[-1].fault not in ACKNOWLEDGING:
            yield f"{task_id}: not sent again after «{patches[-1].fault}»"


def needless_patches(records: Records) -> Iterator[str]:
    """No PATCH is repeated after it was acknowledged, unless the process died before it can have noted that."""
    for task_id, patches in _by_life_of_task(records):
        for patch, repeated in pairwise(patches):
            if patch.acknowledged_at is not None and not _uncommitted(records, patch.at, patch.acknowledged_at):
                times = f"sent {patch.at:.2f}, acknowledged {patch.acknowledged_at:.2f}, sent again {repeated.at:.2f}"
                yield f"{task_id}: sent again although it had been acknowledged ({times})"
                break


def double_payments(records: Records, offers: Mapping[str, Offer], *, remembers: bool) -> Iterator[str]:
    """A text is paid for as often as it is needed; beyond that only what was in flight at a kill, or lost."""
    needed = _needed(records, offers, remembers=remembers)
    for payment, sendings in _charges(records).items():
        good = [sending for sending in sendings if not is_excused(records, sending)]
        if len(good) > needed[payment]:
            when = ", ".join(f"{sending.charged_at:.2f}" for sending in good)
            yield f"a text was paid for {len(good)} times (needed: {needed[payment]}) for no reason, at {when}"


def is_excused(records: Records, sending: Sending) -> bool:
    """Whether what was paid for may have to be paid for again: its answer was lost, or not committed at a kill."""
    return sending.delivered_at is None or _uncommitted(records, sending.at, sending.delivered_at)


def paid_again(records: Records, offers: Mapping[str, Offer], *, remembers: bool) -> int:
    """How many payments were made beyond what was needed, for a good reason or not."""
    needed = _needed(records, offers, remembers=remembers)
    return sum(max(0, len(sendings) - needed[payment]) for payment, sendings in _charges(records).items())


def longest_commit(records: Records) -> float:
    """Seconds from an answer to the kill by which it was lost, so that its text was paid for again: the longest."""
    longest = 0.0
    for sendings in _charges(records).values():
        for sending in sendings[:-1]:
            end = _end_of_sender(records.ends, sending.at)
            if end and not end.finished and sending.delivered_at is not None:
                longest = max(longest, end.at - sending.delivered_at)
    return longest


def exceeded_limits(records: Records) -> Iterator[str]:
    """No minute sees more texts at the provider than the limit that held at its end."""
    for sending, count, limit in minutes(records):
        if count > limit:
            yield f"{count} texts within a minute at {sending.at:.2f} where the limit was {limit}"
            return


def minutes(records: Records) -> Iterator[tuple[Sending, int, int]]:
    """For each request the texts of the minute that it ends, and the limit then."""
    starts = [limit.since for limit in records.limits]
    begin = count = 0
    for sending in records.sendings:
        count += len(sending.payments)
        while records.sendings[begin].at <= sending.at - 60 + WAY_SECONDS:
            count -= len(records.sendings[begin].payments)
            begin += 1
        yield sending, count, records.limits[max(0, bisect_right(starts, sending.at) - 1)].count


def lost_rows(records: Records) -> Iterator[str]:
    """A row never vanishes, never goes back, and is reported only when the Task API has the outcome."""
    before: Mapping[str, str] = {}
    for end in records.ends:
        for task_id, state in before.items():
            now = end.rows.get(task_id)
            if now is None:
                yield f"{task_id}: its row ({state}) had vanished at the end of process {end.life}"
            elif now in _HELD and state in _SETTLED and not _was_reset(records, task_id, before=end.at):
                yield f"{task_id}: went back from {state} to {now} in process {end.life}"
        for task_id in (task_id for task_id, taken in end.reported.items() if not taken):
            yield f"{task_id}: noted as reported in process {end.life}, but the Task API does not have it"
        before = end.rows


def payments_after_settling(records: Records, offers: Mapping[str, Offer], *, remembers: bool) -> Iterator[str]:
    """Once an outcome was in the journal at the end of a process, its text is not paid for by a later one."""
    tasks = Counter(_payment(offer) for offer in offers.values())
    charges = _charges(records)
    for task_id, settled_at in _settled_at(records).items():
        payment = _payment(offers[task_id])
        asked_again = not remembers and task_id in records.resets
        if payment is None or tasks[payment] > 1 or asked_again:
            continue
        if any(sending.at > settled_at + FIRST_SENDING for sending in charges.get(payment, ())):
            yield f"{task_id}: its text was paid for after its outcome was in the journal"


def patches_before_settling(records: Records) -> Iterator[str]:
    """What was sent to the Task API was in the journal before."""
    for end in records.ends:
        for patch in records.patches:
            if patch.at > end.at:
                break
            if end.rows.get(patch.task_id) not in _SETTLED and not _was_reset(records, patch.task_id, before=end.at):
                yield f"{patch.task_id}: had been reported, but was not settled at the end of process {end.life}"


def half_done(records: Records) -> Iterator[str]:
    """A process that was killed was alive; one that was stopped ended with code 0, and holds nothing any more.

    Before its start is over a process has not yet taken up what the one before it held.
    """
    for end in records.ends:
        wanted = CODES[end.how]
        if end.code != wanted:
            yield f"process {end.life} ({end.how}) ended with code {end.code} instead of {wanted}"
        if end.finished and end.ready and "claimed" in end.rows.values():
            yield f"process {end.life} was stopped and left tasks half done"


def _needed(records: Records, offers: Mapping[str, Offer], *, remembers: bool) -> Counter[Payment]:
    """How often each text must be paid for: once, or by each life of each task where nothing is remembered."""
    needed = Counter[Payment]()
    for offer in offers.values():
        payment = _payment(offer)
        if payment is not None:
            needed[payment] = 1 if remembers else needed[payment] + 1 + len(records.resets.get(offer.id, ()))
    return needed


def _payment(offer: Offer) -> Payment | None:
    return None if offer.fault else offer.payment


def _charges(records: Records) -> dict[Payment, list[Sending]]:
    charges: dict[Payment, list[Sending]] = defaultdict(list)
    for sending in records.sendings:
        if sending.charged_at is not None:
            for payment in sending.payments:
                if payment[2] not in OURS:
                    charges[payment].append(sending)
    return charges


def _uncommitted(records: Records, sent_at: float, answered_at: float) -> bool:
    """Whether the process that sent something may have been cut short before it had noted the answer."""
    end = _end_of_sender(records.ends, sent_at)
    return end is not None and not end.finished and answered_at >= end.at - COMMIT_SECONDS


def _end_of_sender(ends: Sequence[End], sent_at: float) -> End | None:
    place = bisect_right([end.began + FIRST_SENDING for end in ends], sent_at) - 1
    return ends[place] if place >= 0 else None


def _by_life_of_task(records: Records) -> Iterator[tuple[str, list[Patch]]]:
    lives: dict[tuple[str, int], list[Patch]] = defaultdict(list)
    for patch in records.patches:
        lives[patch.task_id, bisect_right(records.resets.get(patch.task_id, []), patch.at)].append(patch)
    for (task_id, _), patches in lives.items():
        yield task_id, patches


def _settled_at(records: Records) -> dict[str, float]:
    """When a process ended at which an outcome was seen in the journal for the first time."""
    settled: dict[str, float] = {}
    for end in records.ends:
        for task_id, state in end.rows.items():
            if state in _SETTLED:
                settled.setdefault(task_id, end.at)
    return settled


def _was_reset(records: Records, task_id: str, *, before: float) -> bool:
    return any(at <= before for at in records.resets.get(task_id, ()))


def _words(body: Mapping[str, Any]) -> str:
    """A body without its vector."""
    result = body.get("result")
    shown = f"{len(result)} numbers" if isinstance(result, list) else result
    return json.dumps({**body, "result": shown})[:300]
