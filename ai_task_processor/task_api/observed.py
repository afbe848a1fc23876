"""A transport that tells the observer of every request that goes through it."""

import httpx2

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import ApiRequested
from ai_task_processor.domain.ports import Observer

TOKEN_ROUTE = "/oauth2/token"  # noqa: S105 - the name of a route

ROUTE = "route"
"""The request extension that holds the route template; without one it is a request to the token endpoint."""


class ObservedTransport(httpx2.AsyncBaseTransport):
    """Sees also the first of two requests where the second repeats it with a fresh token.

    The time runs until the head of the answer is there.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport, *, clock: Clock, observer: Observer) -> None:
        self._transport = transport
        self._clock = clock
        self._observer = observer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass the request on, and tell how it ended: with status 0 where no answer came."""
        began = self._clock.monotonic()
        status = 0
        try:
            response = await self._transport.handle_async_request(request)
            status = response.status_code
        finally:
            seconds = self._clock.monotonic() - began
            route = str(request.extensions.get(ROUTE, TOKEN_ROUTE))
            self._observer(ApiRequested(route=route, method=request.method, status=status, seconds=seconds))
        return response

    async def aclose(self) -> None:
        """Close what is below."""
        await self._transport.aclose()
