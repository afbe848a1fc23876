"""Outcomes to the Task API."""

import asyncio
from collections.abc import Mapping, Sequence

from ai_task_processor.domain.errors import NotNow, TaskApiError, TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.outcome import Failed
from ai_task_processor.domain.ports import Entry, Receipt, Verdict
from ai_task_processor.domain.task import Task
from ai_task_processor.task_api.answers import RouteMissing, TooLarge, Unreachable, verdict_of
from ai_task_processor.task_api.client import TaskApiClient
from ai_task_processor.task_api.features import Feature, Features
from ai_task_processor.task_api.parcels import ParcelSize, Result, halves
from ai_task_processor.task_api.wire import IN_PROGRESS, outcome_body, results_body, verdicts

MOST_AT_ONCE = 64
"""Outcomes that are sent together, at most: their callbacks must all end within the timeout of one request."""

PARCELS_AT_ONCE = 2
"""Requests with many results at a time: while the callbacks of one run, the next is on its way, and no more."""

UNANSWERED = "the answer to many results says nothing about this one"


class ApiReporter:
    """Reports to a Task API; ``detailed`` sends a vector with who made it and what it cost.

    See :class:`~ai_task_processor.domain.ports.Reporter`.
    """

    def __init__(self, client: TaskApiClient, features: Features, *, detailed: bool = False) -> None:
        self._client = client
        self._features = features
        self._detailed = detailed
        self._size = ParcelSize()
        self._asking = False
        self._places = asyncio.Semaphore(PARCELS_AT_ONCE)

    async def at_once(self) -> int:
        """Many, where the API has a route for that; while one caller learns that, the others go on without."""
        if self._features.is_due(Feature.BULK) and not self._asking:
            await self._learn_whether_many_can_be_sent()
        return MOST_AT_ONCE if self._features.known(Feature.BULK) else 1

    async def report(self, entries: Sequence[Entry]) -> Sequence[Verdict]:
        """Deliver outcomes, together if they are several; a failure whose reason is refused goes without the reason."""
        if len(entries) == 1:
            return [await self._single(entries[0])]
        found: dict[str, Verdict] = {}
        results: list[Result] = []
        for entry in entries:
            try:
                results.append((entry.task_id, outcome_body(entry.outcome, detailed=self._detailed)))
            except TaskApiRejected as error:
                found[entry.task_id] = error
        by_id = {entry.task_id: entry for entry in entries}
        for parcel in self._size.parcels(results):
            found |= await self._parcel(parcel, by_id)
        return [found[entry.task_id] for entry in entries]

    async def announce(self, task: Task) -> Receipt:
        """Tell that work on ``task`` begins; where it was claimed, that is known."""
        if self._features.known(Feature.CLAIM):
            return Receipt.TAKEN
        return await self._client.patch(task.id, IN_PROGRESS, correlation_id=task.correlation_id)

    async def _learn_whether_many_can_be_sent(self) -> None:
        self._asking = True
        try:
            await self._features.has(Feature.BULK)
        except (TaskApiError, NotNow) as error:
            self._features.lack(Feature.BULK, str(error))
        finally:
            self._asking = False

    async def _parcel(self, parcel: Sequence[Result], entries: Mapping[str, Entry]) -> Mapping[str, Verdict]:
        if len(parcel) == 1:
            return await self._singly(parcel, entries)
        try:
            async with self._places:
                said = verdicts(await self._client.patch_all(results_body(parcel)))
        except RouteMissing as error:
            self._features.lack(Feature.BULK, str(error))
            return await self._singly(parcel, entries)
        except TooLarge:
            self._size.refused(parcel)
            first, second = halves(parcel)
            return {**await self._parcel(first, entries), **await self._parcel(second, entries)}
        except TaskApiRejected:  # whatever it is that spoils all of them: alone each gets its own answer
            return await self._singly(parcel, entries)
        except (TaskApiError, NotNow) as error:
            if isinstance(error, Unreachable):
                self._size.lost()
            return {task_id: error for task_id, _ in parcel}
        self._size.taken()
        return {task_id: await self._judged(entries[task_id], said.get(task_id)) for task_id, _ in parcel}

    async def _singly(self, parcel: Sequence[Result], entries: Mapping[str, Entry]) -> Mapping[str, Verdict]:
        async with asyncio.TaskGroup() as group:
            sent = {task_id: group.create_task(self._single(entries[task_id])) for task_id, _ in parcel}
        return {task_id: task.result() for task_id, task in sent.items()}

    async def _single(self, entry: Entry) -> Verdict:
        return await self._without_reason(entry, await self._sent(entry))

    async def _sent(self, entry: Entry, *, with_error: bool = True) -> Verdict:
        try:
            body = outcome_body(entry.outcome, detailed=self._detailed, with_error=with_error)
            return await self._client.patch(entry.task_id, body, correlation_id=entry.correlation_id)
        except (TaskApiError, NotNow) as error:
            return error

    async def _judged(self, entry: Entry, said: tuple[int, str] | None) -> Verdict:
        """What was said of one result among many; nothing is no answer."""
        verdict = TaskApiUnavailable(UNANSWERED) if said is None else verdict_of(*said)
        return await self._without_reason(entry, verdict)

    async def _without_reason(self, entry: Entry, verdict: Verdict) -> Verdict:
        """A failure that was refused is sent once more without its reason."""
        if isinstance(verdict, TaskApiRejected) and isinstance(entry.outcome, Failed):
            return await self._sent(entry, with_error=False)
        return verdict
