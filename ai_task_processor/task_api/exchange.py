"""The ways to the Task API: each request goes by the one that costs least."""

import ssl
from dataclasses import replace

import aiohttp
import httpx2
from httpx_aiohttp.httpx2 import AiohttpTransport
from yarl import URL

from ai_task_processor.task_api.connections import IDLE_SECONDS, Connections
from ai_task_processor.task_api.requests import Body, Exchange, NoAnswer, Reply, Request, broken_off, too_large

__all__ = ["Body", "Exchange", "NoAnswer", "OverTransport", "Pool", "Reply", "Request", "encoded", "exchange_over"]

_NETWORK_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, aiohttp.ClientError, OSError)


class Pool(AiohttpTransport):
    """Serves httpx2 (the token) and ourselves: aiohttp for lists, which may be long, our own connections for PATCHes.

    Of either there are ``connections`` at most. A PATCH by way of aiohttp takes three times the CPU, by way of httpx2
    eight times. Without ``trusted`` the usual authorities are, or those that ``SSL_CERT_FILE`` names.
    """

    def __init__(self, *, connections: int, trusted: ssl.SSLContext | None = None) -> None:
        limits = httpx2.Limits(max_connections=connections, keepalive_expiry=IDLE_SECONDS)
        super().__init__(verify=trusted or True, limits=limits)
        self._most = connections
        self._connections = Connections(most=connections, trusted=self.ssl_context)

    def get_client(self) -> aiohttp.ClientSession:
        """Open the pool, inside a running loop; no answer leaves a cookie behind."""
        connector = aiohttp.TCPConnector(limit=self._most, keepalive_timeout=IDLE_SECONDS, ssl=self.ssl_context)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def send(self, request: Request) -> Reply:
        """See :class:`~ai_task_processor.task_api.requests.Exchange`."""
        return await (self._connections.send(request) if request.method == "PATCH" else self._by_aiohttp(request))

    async def aclose(self) -> None:
        """Close every connection."""
        self._connections.close()
        await super().aclose()

    async def _by_aiohttp(self, request: Request) -> Reply:
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        reply: Reply | None = None
        try:
            async with self.client.request(
                request.method,
                URL(request.url, encoded=True),
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                timeout=_timeout(request.step_seconds),
            ) as response:
                reply = Reply(response.status, response.headers)
                return await _whole(reply, response, request.most)
        except _NETWORK_ERRORS as error:
            return broken_off(reply, error)


class OverTransport:
    """The same over any transport of httpx2, such as a simulation's."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._http = httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)

    async def send(self, request: Request) -> Reply:
        """See :class:`~ai_task_processor.task_api.requests.Exchange`."""
        built = self._http.build_request(
            request.method, request.url, content=request.body, headers=request.headers, timeout=request.step_seconds
        )
        reply: Reply | None = None
        try:
            response = await self._http.send(built, stream=True)
            reply = Reply(response.status_code, response.headers)
            try:
                return await _whole_of_httpx(reply, response, request.most)
            finally:
                await response.aclose()
        except _NETWORK_ERRORS as error:
            return broken_off(reply, error)

    async def aclose(self) -> None:
        """See :class:`~ai_task_processor.task_api.requests.Exchange`."""
        await self._http.aclose()


def exchange_over(transport: httpx2.AsyncBaseTransport) -> Exchange:
    """The shortest way that this transport offers."""
    return transport if isinstance(transport, Pool) else OverTransport(transport)


def encoded(url: str) -> str:
    """An address as it is sent: its host and path in ASCII."""
    return str(URL(url))


_NO_LIMIT = aiohttp.ClientTimeout(total=None)


def _timeout(seconds: float | None) -> aiohttp.ClientTimeout:
    if seconds is None:
        return _NO_LIMIT
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_read=seconds)


async def _whole(reply: Reply, response: aiohttp.ClientResponse, most: int) -> Reply:
    """The body grows where it is: parts that are joined in the end would take its memory twice."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > most:
            response.close()
            return too_large(reply, most)
    return replace(reply, body=body)


async def _whole_of_httpx(reply: Reply, response: httpx2.Response, most: int) -> Reply:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > most:
            return too_large(reply, most)
    return replace(reply, body=b"".join(parts))
