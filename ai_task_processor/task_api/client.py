"""Requests to the Task API: one client, one pool of connections, one breaker."""

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import aiohttp
import httpx2

from ai_task_processor import __version__
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.ports import Observer, Receipt
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.task_api.answers import Answer, Unreachable, page_of, receipt_of, retry_after
from ai_task_processor.task_api.auth import TokenAuth
from ai_task_processor.task_api.observed import ROUTE, ObservedTransport
from ai_task_processor.task_api.wire import CORRELATION_ID, PENDING_PATH, TASK_PATH

T = TypeVar("T")

LARGEST_PAGE = 256 * 1024 * 1024
LARGEST_RECEIPT = 1024 * 1024
"""Bytes of an answer that are read, at most: after decompression."""

PAGE_PATIENCE = 10
"""How many request timeouts a whole page may take, as long as something comes within each of them."""

KEEP_ALIVE_SECONDS = 4.0
"""Node closes idle connections after five seconds; a PATCH into one that is just closing would be lost."""

_NETWORK_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, aiohttp.ClientError, OSError)


def open_transport(*, connections: int, trusted: ssl.SSLContext | None = None) -> httpx2.AsyncBaseTransport:
    """A pool of at most ``connections`` connections, by way of aiohttp, which costs less than httpx2's own.

    Without ``trusted`` the usual authorities are, or those that ``SSL_CERT_FILE`` names.
    """
    from httpx_aiohttp.httpx2 import AiohttpTransport  # noqa: PLC0415 - simulations bring another transport

    limits = httpx2.Limits(max_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS)
    return AiohttpTransport(verify=trusted or True, limits=limits)


def counts_for_breaker(error: Exception) -> bool:
    """Whether an error says that the Task API is down, and not only that it refuses, or fails at one task."""
    return isinstance(error, Unreachable)


class TaskApiClient:
    """Speaks to one Task API; ``timeout`` in seconds holds for each PATCH, and for each step of a fetch.

    A page of more than ``largest_page`` bytes is not read.

    ``breaker`` is to be made with :func:`counts_for_breaker`. The token is obtained outside of it: the token endpoint
    has a backoff of its own, and its failures say nothing about the API. An async context manager: leaving it closes
    the transport, which may be shared with ``auth``.
    """

    def __init__(
        self,
        base_url: str,
        auth: TokenAuth,
        *,
        transport: httpx2.AsyncBaseTransport,
        timeout: float,
        breaker: Breaker,
        clock: Clock,
        observer: Observer,
        largest_page: int = LARGEST_PAGE,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._auth = auth
        self._timeout = timeout
        self._breaker = breaker
        self._clock = clock
        self._largest_page = largest_page
        self._http = httpx2.AsyncClient(
            auth=auth,
            transport=ObservedTransport(transport, clock=clock, observer=observer),
            timeout=timeout,
            headers={"User-Agent": f"ai-task-processor/{__version__}", "Accept": "application/json"},
            follow_redirects=False,
            trust_env=False,
        )

    async def authenticate(self) -> None:
        """See that there is a token; raises TaskApiUnavailable or AuthenticationFailed."""
        await self._auth.token()

    async def pending(self, limit: int) -> bytes:
        """The body of the list of at most ``limit`` pending tasks.

        Raises TaskApiUnavailable, TaskApiRejected, AuthenticationFailed or BreakerOpen.
        """
        request = self._http.build_request(
            "GET",
            self._base_url + PENDING_PATH,
            params={"limit": limit},
            headers={"X-Correlation-ID": secrets.token_hex(8)},
            extensions={ROUTE: PENDING_PATH},
        )

        async def fetch() -> bytes:
            return page_of(await self._ask(request, most=self._largest_page, seconds=PAGE_PATIENCE * self._timeout))

        return await self._guarded(fetch)

    async def patch(self, task_id: str, body: bytes, *, correlation_id: str) -> Receipt:
        """Send a task's new state; raises as :meth:`pending`."""
        headers = {"Content-Type": "application/json"}
        if CORRELATION_ID.fullmatch(correlation_id):
            headers["X-Correlation-ID"] = correlation_id
        url = self._base_url + TASK_PATH.format(id=quote(task_id, safe=""))
        request = self._http.build_request("PATCH", url, content=body, headers=headers, extensions={ROUTE: TASK_PATH})

        async def send() -> Receipt:
            return receipt_of(await self._ask(request, most=LARGEST_RECEIPT, seconds=self._timeout))

        return await self._guarded(send)

    async def aclose(self) -> None:
        """Close both clients and the transport."""
        await self._auth.aclose()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _guarded(self, function: Callable[[], Awaitable[T]]) -> T:
        await self._auth.token()
        return await self._breaker.call(function)

    async def _ask(self, request: httpx2.Request, *, most: int, seconds: float) -> Answer:
        """Send and read the answer; one whose head came is an answer, however its body ends."""
        answer: Answer | None = None
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.send(request, stream=True)
                answer = self._head(response)
                try:
                    answer = await self._with_body(answer, response, most)
                finally:
                    await response.aclose()
        except _NETWORK_ERRORS as error:
            if answer is None:
                raise Unreachable(f"the Task API does not answer: {_words(error)}") from error
            if not answer.incomplete:
                answer = replace(answer, incomplete=f"broke off: {_words(error)}")
        return answer

    def _head(self, response: httpx2.Response) -> Answer:
        return Answer(
            status=response.status_code,
            location=_host(response.headers.get("Location", "")),
            retry_after=retry_after(response.headers.get("Retry-After"), self._clock.now()),
        )

    async def _with_body(self, answer: Answer, response: httpx2.Response, most: int) -> Answer:
        """An error's body may quote our request; what it says goes into messages."""
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > most:
                return replace(answer, incomplete=f"is larger than {most // 1024 // 1024} MB")
        body = b"".join(parts)
        if not response.is_success:
            body = self._auth.without_secrets(body.decode("utf-8", "replace")).encode()
        return replace(answer, body=body)


def _host(location: str) -> str:
    with contextlib.suppress(httpx2.InvalidURL):
        return httpx2.URL(location).host
    return ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__
