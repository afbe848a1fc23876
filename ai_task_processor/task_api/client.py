"""Requests to the Task API: one client, one pool of connections, one breaker."""

import contextlib
import secrets
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

from ai_task_processor import __version__
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.ports import Observer, Receipt, Tracer
from ai_task_processor.domain.proxies import Proxies
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.resilience.deadline import Deadline
from ai_task_processor.task_api.answers import (
    Answer,
    Unreachable,
    body_of,
    found_by,
    is_success,
    page_of,
    receipt_of,
    retry_after,
)
from ai_task_processor.task_api.auth import TokenAuth
from ai_task_processor.task_api.exchange import Pool, encoded
from ai_task_processor.task_api.observed import ObservedExchange
from ai_task_processor.task_api.requests import Body, Exchange, NoAnswer, Reply, Request
from ai_task_processor.task_api.traced_exchange import TracedExchange
from ai_task_processor.task_api.wire import (
    CLAIM_PATH,
    CORRELATION_ID,
    PENDING_PATH,
    TASK_PATH,
    TASKS_PATH,
    claim_body,
    lists_tasks,
    lists_verdicts,
    results_body,
)

T = TypeVar("T")

LARGEST_PAGE = 256 * 1024 * 1024
LARGEST_RECEIPT = 1024 * 1024
"""Bytes of an answer that are read, at most: after decompression."""

HEADERS = {"User-Agent": f"ai-task-processor/{__version__}", "Accept": "application/json"}

BODY_HEADERS = HEADERS | {"Content-Type": "application/json"}

NOBODY = "nobody"
"""The worker that asks whether tasks can be claimed, and claims none."""

PAGE_PATIENCE = 10
"""How many request timeouts a whole page may take, as long as something comes within each of them."""


def open_pool(*, connections: int, trusted: ssl.SSLContext | None = None, proxies: Proxies | None = None) -> Exchange:
    """A pool of at most ``connections`` connections; see :class:`~ai_task_processor.task_api.exchange.Pool`."""
    return Pool(connections=connections, trusted=trusted, proxies=proxies)


def counts_for_breaker(error: Exception) -> bool:
    """Whether an error says that the Task API is down, and not only that it refuses, or fails at one task."""
    return isinstance(error, Unreachable)


class TaskApiClient:
    """Speaks to one Task API; ``timeout`` in seconds holds for each PATCH, and for each step of a fetch.

    A page of more than ``largest_page`` bytes is not read. With a ``tracer`` requests say which trace they are part of.

    ``breaker`` is to be made with :func:`counts_for_breaker`. The token is obtained outside of it: the token endpoint
    has a backoff of its own, and its failures say nothing about the API. An async context manager: leaving it closes
    the exchange, which may be shared with ``auth``.
    """

    def __init__(
        self,
        base_url: str,
        auth: TokenAuth,
        *,
        exchange: Exchange,
        timeout: float,
        breaker: Breaker,
        clock: Clock,
        observer: Observer,
        largest_page: int = LARGEST_PAGE,
        tracer: Tracer | None = None,
    ) -> None:
        self._base_url = encoded(base_url).rstrip("/")
        self._auth = auth
        self._timeout = timeout
        self._breaker = breaker
        self._clock = clock
        self._largest_page = largest_page
        observed = ObservedExchange(exchange, clock=clock, observer=observer)
        self._exchange: ObservedExchange | TracedExchange = TracedExchange(observed, tracer) if tracer else observed

    async def authenticate(self) -> None:
        """See that there is a token; raises TaskApiUnavailable or AuthenticationFailed."""
        await self._auth.token()

    async def pending(self, limit: int) -> Body:
        """The body of the list of at most ``limit`` pending tasks.

        Raises TaskApiUnavailable, TaskApiRejected, AuthenticationFailed or BreakerOpen.
        """
        url = f"{self._base_url}{PENDING_PATH}?limit={limit}"
        headers = HEADERS | {"X-Correlation-ID": secrets.token_hex(8)}

        def request(token: str) -> Request:
            signed = headers | {"Authorization": f"Bearer {token}"}
            return Request("GET", url, signed, most=self._largest_page, step_seconds=self._timeout)

        return await self._ask(request, PENDING_PATH, page_of, seconds=PAGE_PATIENCE * self._timeout)

    async def patch(self, task_id: str, body: bytes, *, correlation_id: str) -> Receipt:
        """Send a task's new state; raises as :meth:`pending`."""
        url = self._base_url + TASK_PATH.format(id=_in_path(task_id))

        def request(token: str) -> Request:
            headers = BODY_HEADERS | {"Authorization": f"Bearer {token}"}
            if CORRELATION_ID.fullmatch(correlation_id):
                headers["X-Correlation-ID"] = correlation_id
            return Request("PATCH", url, headers, body, most=LARGEST_RECEIPT)

        return await self._ask(request, TASK_PATH, receipt_of, seconds=self._timeout)

    async def claim(self, body: bytes) -> Body:
        """The body of the list of tasks that are ours alone from now on.

        Raises RouteMissing where the API has no such route, else as :meth:`pending`.
        """
        return await self._post_claim(body, body_of)

    async def find_claim(self) -> None:
        """See that tasks can be claimed, by claiming none; raises as :meth:`claim`."""
        await self._post_claim(claim_body(0, worker=NOBODY, lease_seconds=1), found_by(lists_tasks))

    async def patch_all(self, body: bytes) -> Body:
        """Send the states of many tasks, and answer what the API says of each; raises as :meth:`claim`, or TooLarge."""
        said = await self._patch_tasks(body, body_of)
        return self._auth.without_secrets(said.decode("utf-8", "replace")).encode()

    async def find_bulk(self) -> None:
        """See that many results can be sent at once, by sending none; raises as :meth:`claim`."""
        await self._patch_tasks(results_body(()), found_by(lists_verdicts))

    async def aclose(self) -> None:
        """Close the exchange, and that of the tokens."""
        await self._auth.aclose()
        await self._exchange.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _post_claim(self, body: bytes, judge: Callable[[Answer], T]) -> T:
        def request(token: str) -> Request:
            return Request(
                "POST",
                self._base_url + CLAIM_PATH,
                headers | {"Authorization": f"Bearer {token}"},
                body,
                most=self._largest_page,
                step_seconds=self._timeout,
            )

        headers = BODY_HEADERS | {"X-Correlation-ID": secrets.token_hex(8)}
        return await self._ask(request, CLAIM_PATH, judge, seconds=PAGE_PATIENCE * self._timeout)

    async def _patch_tasks(self, body: bytes, judge: Callable[[Answer], T]) -> T:
        def request(token: str) -> Request:
            signed = headers | {"Authorization": f"Bearer {token}"}
            return Request("PATCH", self._base_url + TASKS_PATH, signed, body, most=LARGEST_RECEIPT)

        headers = BODY_HEADERS | {"X-Correlation-ID": secrets.token_hex(8)}
        return await self._ask(request, TASKS_PATH, judge, seconds=self._timeout)

    async def _ask(
        self, request: Callable[[str], Request], route: str, judge: Callable[[Answer], T], *, seconds: float
    ) -> T:
        """What ``judge`` makes of the answer to ``request`` of the token; of a token's own errors no breaker learns."""

        async def judged() -> T:
            try:
                with Deadline(seconds):
                    reply = await self._auth.authorized(
                        current, lambda token: self._exchange.send(request(token), route)
                    )
            except (NoAnswer, TimeoutError) as error:
                words = str(error) or type(error).__name__
                raise Unreachable(f"the Task API does not answer: {words}") from error
            return judge(self._answer(reply))

        current = await self._auth.token()
        return await self._breaker.call(judged)

    def _answer(self, reply: Reply) -> Answer:
        """An error's body may quote our request; what it says goes into messages."""
        body = reply.body
        if not is_success(reply.status):
            body = self._auth.without_secrets(body.decode("utf-8", "replace")).encode()
        wish = reply.headers.get("Retry-After")
        return Answer(
            status=reply.status,
            body=body,
            location=_host(reply.headers.get("Location", "")),
            retry_after=None if wish is None else retry_after(wish, self._clock.now()),
            incomplete=reply.incomplete,
        )


def _in_path(task_id: str) -> str:
    """The id as a part of a path; nearly all are made of digits and letters alone."""
    return task_id if task_id.isascii() and task_id.isalnum() else quote(task_id, safe="")


def _host(location: str) -> str:
    if location:
        with contextlib.suppress(ValueError):
            return urlsplit(location).hostname or ""
    return ""
