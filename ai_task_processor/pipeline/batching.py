"""Which works travel together; pure."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.work import Batch, Work

LINGER = 0.05
"""Seconds for which a batch that is not full waits for more tasks, at most."""

SHORTEST_LINGER = 0.001
"""Less is no wait: a clock of the day cannot even tell a millionth of a second."""

NO_COMPANY: Mapping[str, int] = MappingProxyType({})


def fitting(amounts: Iterable[Amount], room: Amount) -> int:
    """How many of the first amounts fit into ``room`` together."""
    tasks = tokens = cost = count = 0
    for amount in amounts:
        tasks, tokens, cost = tasks + amount.tasks, tokens + amount.tokens, cost + amount.cost
        if tasks > room.tasks or tokens > room.tokens or cost > room.cost:
            break
        count += 1
    return count


def linger(count: int, size: int, *, in_flight: int, waited: float) -> float:
    """Seconds that ``count`` tasks should wait for company, of which ``size`` fill a batch and which waited so long.

    Only while another batch is in flight: who finds the provider idle does not wait.
    """
    left = LINGER - waited
    return left if in_flight and count < size and left >= SHORTEST_LINGER else 0.0


def batches(
    works: Iterable[Work], size: int, company: Mapping[str, int] = NO_COMPANY, *, tokens: int = sys.maxsize
) -> tuple[Batch, ...]:
    """Divide works into batches of one task type and key, at most ``size`` each, in the order given.

    The works of a batch have at most ``tokens`` together by their estimates; one that has more is alone.

    A task that has failed before travels in smaller company: each attempt halves the batch, so that what spoils a
    batch is alone after a few attempts and its neighbours succeed without it. ``company`` says for some task ids how
    large their batch may be at most.
    """

    def limit(work: Work) -> int:
        return max(1, min(size >> work.task.attempts, company.get(work.task.id, size)))

    def group(work: Work) -> tuple[str, str, int]:
        return (work.task.type, work.key, -limit(work))

    groups: dict[tuple[str, str, int], list[Work]] = defaultdict(list)
    for work in works:
        groups[group(work)].append(work)
    return tuple(
        Batch(type=kind, key=key, works=part)
        for kind, key, most in sorted(groups)
        for part in _parts(groups[kind, key, most], -most, tokens)
    )


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The two halves of a batch of at least two works."""
    middle = (len(batch.works) + 1) // 2
    return (
        Batch(type=batch.type, key=batch.key, works=batch.works[:middle]),
        Batch(type=batch.type, key=batch.key, works=batch.works[middle:]),
    )


def _parts(works: Iterable[Work], size: int, tokens: int) -> Iterator[tuple[Work, ...]]:
    part: list[Work] = []
    held = 0
    for work in works:
        if part and (len(part) >= size or held + work.size > tokens):
            yield tuple(part)
            part, held = [], 0
        part.append(work)
        held += work.size
    if part:
        yield tuple(part)
