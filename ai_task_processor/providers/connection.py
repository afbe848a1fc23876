"""The HTTP connection to a provider: how it is opened, and whether a failed request may have been seen."""

import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
from msgspec import Struct
from yarl import URL

from ai_task_processor import __version__
from ai_task_processor.domain.proxies import Proxy

BROKEN = (aiohttp.ClientError, OSError)
"""Everything that a request can end with instead of an answer."""

LARGEST_ANSWER = 256 * 1024 * 1024
"""Bytes of an answer that are read, at most: more than the vectors of the largest request take as numbers."""

IDLE_SECONDS = 5.0
"""How long a connection is kept that nobody uses; what goes into one that the server just closes is lost."""

_CONNECT_SECONDS = 10.0
_READ_AHEAD = 1024 * 1024

_HEADERS: Mapping[str, str] = {
    "User-Agent": f"ai-task-processor/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # vectors hardly become smaller, and to unpack them costs more than to read them
    "Content-Type": "application/json",
}

_NO_WAY_TO_PROXY = (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError, aiohttp.ConnectionTimeoutError)
"""What a request through a proxy ends with where that is not there: it alone looks for the server's name."""


class Reply(Struct, frozen=True):
    """What a server answered; ``headers`` know their names in upper and lower case alike."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the server did what was asked."""
        return 200 <= self.status < 300  # noqa: PLR2004  # the range of HTTP

    @property
    def text(self) -> str:
        """The body as text, whatever it is."""
        return self.body.decode("utf-8", "replace")


class TooLarge(aiohttp.ClientError):
    """The answer is larger than anything that could be meant."""


class ProxyFailed(aiohttp.ClientError):
    """The proxy on the way did not do its part: the server saw nothing. Its words tell no secret."""


class HttpClient:
    """Sends JSON to one server and reads the answers, by aiohttp alone: other clients cost several times its CPU.

    ``timeout`` is for the silence between two bytes, in seconds. An async context manager, to be closed by its owner.
    Redirections are not followed, for what is sent is for this server alone, by way of ``proxy`` if there is one.
    """

    def __init__(
        self,
        *,
        base_url: str,
        timeout: float,
        connections: int = 100,
        largest_answer: int = LARGEST_ANSWER,
        proxy: Proxy | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        step = min(timeout, _CONNECT_SECONDS)
        to_server = 3 * step if proxy else None  # to the proxy, from there on, and TLS: the proxy may hold its tongue
        self._timeout = aiohttp.ClientTimeout(total=None, connect=to_server, sock_connect=step, sock_read=timeout)
        self._connections = connections
        self._largest_answer = largest_answer
        self._proxy = proxy
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Send ``body`` once; raises one of :data:`BROKEN` where no whole answer came."""
        if self._proxy is None:
            return await self._post(path, body, headers)
        try:
            return await self._post(path, body, headers)
        except aiohttp.ClientHttpProxyError as error:
            raise ProxyFailed(self._proxy.refusal(error.status)) from error
        except _NO_WAY_TO_PROXY as error:
            raise ProxyFailed(self._proxy.unreachable(type(error).__name__)) from error

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str] | None) -> Reply:
        proxy = self._proxy
        async with self._open().post(
            URL(self._base_url + path),
            data=body,
            headers=headers,
            allow_redirects=False,
            proxy=proxy.url if proxy else None,
            proxy_headers=proxy.headers if proxy else None,
        ) as response:
            if proxy and not proxy.tunnels and response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                raise ProxyFailed(proxy.refusal(response.status))
            return Reply(response.status, response.headers, await _whole(response, self._largest_answer))

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections, keepalive_timeout=IDLE_SECONDS, ssl=self._trusted()
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={**_HEADERS, **(self._proxy.forwarded_headers if self._proxy else {})},
                timeout=self._timeout,
                read_bufsize=_READ_AHEAD,
            )
        return self._session

    def _trusted(self) -> ssl.SSLContext | bool:
        """The usual authorities, or those that ``SSL_CERT_FILE`` names."""
        if not self._base_url.startswith("https:"):
            return True
        from httpx2 import create_ssl_context  # noqa: PLC0415  # a start that encrypts nothing need not load it

        return create_ssl_context()


_NEVER_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ConnectionRefusedError, ProxyFailed)


def told_of(error: BaseException) -> str:
    """What of ``error`` may be told to anybody: of a proxy what to do, of all else what kind of error it is."""
    return str(error) if isinstance(error, ProxyFailed) else type(error).__name__


def never_sent(error: BaseException) -> bool:
    """Whether it is certain that the server saw nothing."""
    return any(isinstance(cause, _NEVER_CONNECTED) for cause in _chain(error))


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            response.close()
            raise TooLarge(f"the answer is larger than {most} bytes")
    return b"".join(parts)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
