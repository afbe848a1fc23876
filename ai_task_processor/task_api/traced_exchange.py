"""The way to the Task API, with a span around each request."""

from msgspec.structs import replace

from ai_task_processor.domain.ports import Tracer
from ai_task_processor.ops.traced import http_span
from ai_task_processor.task_api.observed import ObservedExchange
from ai_task_processor.task_api.requests import Reply, Request


class TracedExchange:
    """An exchange whose server learns which trace a request is part of."""

    def __init__(self, exchange: ObservedExchange, tracer: Tracer) -> None:
        self._inner = exchange
        self._tracer = tracer

    async def send(self, request: Request, route: str) -> Reply:
        """See :class:`~ai_task_processor.task_api.observed.ObservedExchange`."""
        with http_span(self._tracer, request.method, request.url, route) as span:
            reply = await self._inner.send(replace(request, headers={**request.headers, **span.headers}), route)
            span.answered(reply.status)
            return reply

    async def aclose(self) -> None:
        """Close what is below."""
        await self._inner.aclose()
