"""Outcomes to the Task API."""

from ai_task_processor.domain.errors import TaskApiRejected
from ai_task_processor.domain.outcome import Failed
from ai_task_processor.domain.ports import Entry, Receipt
from ai_task_processor.domain.task import Task
from ai_task_processor.task_api.client import TaskApiClient
from ai_task_processor.task_api.wire import IN_PROGRESS, outcome_body


class ApiReporter:
    """Reports to a Task API; ``detailed`` sends a vector with who made it and what it cost.

    See :class:`~ai_task_processor.domain.ports.Reporter`.
    """

    def __init__(self, client: TaskApiClient, *, detailed: bool = False) -> None:
        self._client = client
        self._detailed = detailed

    async def report(self, entry: Entry) -> Receipt:
        """Deliver one outcome; a failure whose reason the API refuses is delivered without the reason."""
        try:
            return await self._send(entry)
        except TaskApiRejected:
            if not isinstance(entry.outcome, Failed):
                raise
        return await self._send(entry, with_error=False)

    async def announce(self, task: Task) -> Receipt:
        """Tell that work on ``task`` begins."""
        return await self._client.patch(task.id, IN_PROGRESS, correlation_id=task.correlation_id)

    async def _send(self, entry: Entry, *, with_error: bool = True) -> Receipt:
        body = outcome_body(entry.outcome, detailed=self._detailed, with_error=with_error)
        return await self._client.patch(entry.task_id, body, correlation_id=entry.correlation_id)
