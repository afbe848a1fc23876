"""Which works travel together; pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ai_task_processor.domain.work import Batch, Work


def batches(works: Iterable[Work], size: int) -> tuple[Batch, ...]:
    """Divide works into batches of one task type and key, at most ``size`` each, in the order given.

    A task that has failed before travels in smaller company: each attempt halves the batch, so that what spoils a
    batch is alone after a few attempts and its neighbours succeed without it.
    """
    ordered = sorted(works, key=_company)  # stable: within a group the order given stays
    return tuple(
        Batch(type=kind, key=key, works=part)
        for (kind, key, attempts), group in groupby(ordered, key=_company)
        for part in _parts(tuple(group), max(1, size >> attempts))
    )


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The two halves of a batch of at least two works."""
    middle = (len(batch.works) + 1) // 2
    return (
        Batch(type=batch.type, key=batch.key, works=batch.works[:middle]),
        Batch(type=batch.type, key=batch.key, works=batch.works[middle:]),
    )


def _company(work: Work) -> tuple[str, str, int]:
    return (work.task.type, work.key, work.task.attempts)


def _parts(works: Sequence[Work], size: int) -> Iterator[tuple[Work, ...]]:
    for start in range(0, len(works), size):
        yield tuple(works[start : start + size])
