"""The ways to the Task API: each request goes by the one that costs least."""

import ssl
from http import HTTPStatus

import aiohttp
from msgspec.structs import replace
from yarl import URL

from ai_task_processor.domain.proxies import Proxies, Proxy
from ai_task_processor.task_api.connections import IDLE_SECONDS, Connections
from ai_task_processor.task_api.requests import NoAnswer, Reply, Request, broken_off, too_large

_NETWORK_ERRORS = (aiohttp.ClientError, OSError)

_NO_WAY_TO_PROXY = (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError, aiohttp.ConnectionTimeoutError)
"""What a request through a proxy ends with where that is not there: it alone looks for the server's name."""


class Pool:
    """aiohttp for lists, which may be long, for tokens, and for all that goes through a proxy; our own for PATCHes.

    Of either there are ``connections`` at most. A PATCH by way of aiohttp takes three times the CPU. Without
    ``trusted`` the usual authorities are, or those that ``SSL_CERT_FILE`` names.
    """

    def __init__(
        self, *, connections: int, trusted: ssl.SSLContext | None = None, proxies: Proxies | None = None
    ) -> None:
        self._most = connections
        self._proxies = proxies or Proxies()
        self._trusted = trusted
        self._client: aiohttp.ClientSession | None = None
        self._connections: Connections | None = None

    async def send(self, request: Request) -> Reply:
        """See :class:`~ai_task_processor.task_api.requests.Exchange`."""
        proxy = self._proxies.for_url(request.url)
        if proxy:
            return await self._through(proxy, request)
        if request.method != "PATCH":
            return await self._by_aiohttp(request, None)
        if self._connections is None:
            self._connections = Connections(most=self._most, trusted=self._believed(request.url))
        return await self._connections.send(request)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._connections:
            self._connections.close()
        if self._client:
            await self._client.close()

    async def _through(self, proxy: Proxy, request: Request) -> Reply:
        try:
            reply = await self._by_aiohttp(request, proxy)
        except NoAnswer as nothing:
            match nothing.__cause__:
                case aiohttp.ClientHttpProxyError(status=status):
                    raise NoAnswer(proxy.refusal(status)) from nothing
                case error if isinstance(error, _NO_WAY_TO_PROXY):
                    raise NoAnswer(proxy.unreachable(type(error).__name__)) from nothing
            raise
        if reply.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and not proxy.tunnels:
            raise NoAnswer(proxy.refusal(reply.status))
        return reply

    async def _by_aiohttp(self, request: Request, proxy: Proxy | None) -> Reply:
        reply: Reply | None = None
        try:
            async with self._opened(request.url).request(
                request.method,
                URL(request.url, encoded=True),
                data=request.body,
                headers={**request.headers, **proxy.forwarded_headers} if proxy else request.headers,
                allow_redirects=False,
                timeout=_timeout(request.step_seconds),
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
            ) as response:
                reply = Reply(response.status, response.headers)
                return await _whole(reply, response, request.most)
        except _NETWORK_ERRORS as error:
            return broken_off(reply, error)

    def _opened(self, url: str) -> aiohttp.ClientSession:
        """The pool of aiohttp, made inside a running loop; no answer leaves a cookie behind."""
        if self._client is None:
            trusted = self._believed(url) or True
            connector = aiohttp.TCPConnector(limit=self._most, keepalive_timeout=IDLE_SECONDS, ssl=trusted)
            self._client = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._client

    def _believed(self, url: str) -> ssl.SSLContext | None:
        """Whom to believe, read once, and only where it matters: to read all authorities takes its time."""
        if self._trusted is None and url.startswith("https:"):
            self._trusted = _usual_authorities()
        return self._trusted


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


def _usual_authorities() -> ssl.SSLContext:
    """Those of the system, or those that ``SSL_CERT_FILE`` names."""
    from httpx2 import create_ssl_context  # noqa: PLC0415  # a start that encrypts nothing need not load it

    return create_ssl_context()
