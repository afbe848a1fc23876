"""A way to a server that tells the observer of every request that goes through it."""

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import ApiRequested
from ai_task_processor.domain.ports import Observer
from ai_task_processor.task_api.requests import Exchange, Reply, Request


class ObservedExchange:
    """Sees also the first of two requests where the second repeats it with a fresh token.

    The time runs until the answer is there.
    """

    def __init__(self, exchange: Exchange, *, clock: Clock, observer: Observer) -> None:
        self._exchange = exchange
        self._clock = clock
        self._observer = observer

    async def send(self, request: Request, route: str) -> Reply:
        """Pass the request on, and tell how it ended: with status 0 where no answer came. ``route`` is a template."""
        began = self._clock.monotonic()
        status = 0
        try:
            reply = await self._exchange.send(request)
            status = reply.status
        finally:
            seconds = self._clock.monotonic() - began
            self._observer(ApiRequested(route=route, method=request.method, status=status, seconds=seconds))
        return reply

    async def aclose(self) -> None:
        """Close what is below."""
        await self._exchange.aclose()
