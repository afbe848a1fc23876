"""Sends those who look at the status page what changes on it, as server-sent events."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web

MOST_STREAMS = 16
"""Pages that are live at once; a browser opens one for each tab that somebody looks at."""

PACE = 1.0
"""Seconds between two events. Each is a sign of life too, so one is sent whether or not anything has changed."""

PATIENCE = 10.0
"""Seconds that a reader may leave an event unread before it counts as gone."""

RETRY = 1_000
"""Milliseconds after which a browser asks again when a stream ended or broke."""

HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Streams:
    """One stream for each reader, at most ``most``; ``sections`` answers the page's changing parts by their ids."""

    def __init__(
        self,
        sections: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        most: int = MOST_STREAMS,
        pace: float = PACE,
        patience: float = PATIENCE,
    ) -> None:
        self._sections = sections
        self._most = most
        self._pace = pace
        self._patience = patience
        self._ending = asyncio.Event()
        self.open = 0
        """How many there are now."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send events until the reader leaves or :meth:`end`."""
        if self.open >= self._most:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "5"})
        response = web.StreamResponse(headers=HEADERS)
        self.open += 1
        try:
            await response.prepare(request)
            await response.write(f"retry: {RETRY}\n\n".encode())
            await self._send(response)
        except (ConnectionError, TimeoutError):  # the reader has left, or reads nothing
            if request.transport:
                request.transport.abort()
        finally:
            self.open -= 1
        return response

    def end(self) -> None:
        """End every stream; a new one ends after its first event."""
        self._ending.set()

    async def _send(self, response: web.StreamResponse) -> None:
        shown: Mapping[str, str] = {}
        while True:
            sections = await self._sections()
            async with asyncio.timeout(self._patience):
                await response.write(event(changed(shown, sections)))
            shown = sections
            if await self._ends_within(self._pace):
                return

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._ending.wait()
        except TimeoutError:
            return False


def changed(shown: Mapping[str, str], sections: Mapping[str, str]) -> Mapping[str, str]:
    """Those sections that are not what was ``shown`` before."""
    return {name: html for name, html in sections.items() if shown.get(name) != html}


def event(sections: Mapping[str, str]) -> bytes:
    """One event as it goes over the wire; JSON has no line breaks that would end it early."""
    return b"data: " + orjson.dumps(sections) + b"\n\n"
