"""An exchange over any transport of httpx2, such as a simulation's."""

import httpx2
from msgspec.structs import replace

from ai_task_processor.task_api.requests import Reply, Request, broken_off, too_large

NETWORK_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError)


class OverTransport:
    """Sends each request through ``transport``, which it closes in the end."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._http = httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)

    async def send(self, request: Request) -> Reply:
        built = self._http.build_request(
            request.method, request.url, content=request.body, headers=request.headers, timeout=request.step_seconds
        )
        reply: Reply | None = None
        try:
            response = await self._http.send(built, stream=True)
            reply = Reply(response.status_code, response.headers)
            try:
                return await _whole(reply, response, request.most)
            finally:
                await response.aclose()
        except NETWORK_ERRORS as error:
            return broken_off(reply, error)

    async def aclose(self) -> None:
        await self._http.aclose()


async def _whole(reply: Reply, response: httpx2.Response, most: int) -> Reply:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > most:
            return too_large(reply, most)
    return replace(reply, body=b"".join(parts))
