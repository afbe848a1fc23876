"""One request to the Task API and its answer, by the shortest way that there is."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import aiohttp
import httpx2
from httpx_aiohttp.httpx2 import AiohttpTransport
from yarl import URL

Body: TypeAlias = bytes | bytearray

KEEP_ALIVE_SECONDS = 4.0
"""Node closes idle connections after five seconds; a PATCH into one that is just closing would be lost."""

_NETWORK_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, aiohttp.ClientError, OSError)


class NoAnswer(Exception):
    """Nothing came back; whether the request had its effect nobody knows."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent: ``url`` is encoded already; at most ``most`` bytes of the answer are read.

    No step of it may take longer than ``step_seconds``; None leaves that to the caller.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    most: int = 1024 * 1024
    step_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; ``incomplete`` says why its body did not come whole, and is empty where it did."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = b""
    incomplete: str = ""


class Exchange(Protocol):
    """Sends requests and reads their answers."""

    async def send(self, request: Request) -> Reply:
        """Send once; an answer whose head came is an answer, however its body ends. Raises NoAnswer."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class Pool(AiohttpTransport):
    """A pool of at most ``connections`` connections, which serves httpx2 (the token) and ourselves (all the rest).

    A PATCH by way of httpx2 costs nearly three times as much CPU as one by way of aiohttp alone. Without ``trusted``
    the usual authorities are, or those that ``SSL_CERT_FILE`` names.
    """

    def __init__(self, *, connections: int, trusted: ssl.SSLContext | None = None) -> None:
        limits = httpx2.Limits(max_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS)
        super().__init__(verify=trusted or True, limits=limits)
        self._connections = connections

    def get_client(self) -> aiohttp.ClientSession:
        """Open the pool, inside a running loop; no answer leaves a cookie behind."""
        connector = aiohttp.TCPConnector(
            limit=self._connections, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=self.ssl_context
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def send(self, request: Request) -> Reply:
        """See :class:`Exchange`."""
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
            return _broken_off(reply, error)


class OverTransport:
    """The same over any transport of httpx2, such as a simulation's."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._http = httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)

    async def send(self, request: Request) -> Reply:
        """See :class:`Exchange`."""
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
            return _broken_off(reply, error)

    async def aclose(self) -> None:
        """See :class:`Exchange`."""
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
            return _too_large(reply, most)
    return replace(reply, body=body)


async def _whole_of_httpx(reply: Reply, response: httpx2.Response, most: int) -> Reply:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > most:
            return _too_large(reply, most)
    return replace(reply, body=b"".join(parts))


def _too_large(reply: Reply, most: int) -> Reply:
    return replace(reply, incomplete=f"is larger than {most // 1024 // 1024} MB")


def _broken_off(reply: Reply | None, error: Exception) -> Reply:
    words = f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__
    if reply is None:
        raise NoAnswer(words) from error
    return replace(reply, incomplete=f"broke off: {words}")
