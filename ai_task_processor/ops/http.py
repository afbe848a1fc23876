"""The routes on the metrics port."""

import asyncio
import errno
import hmac
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Self

import orjson
from aiohttp import web

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.confidential import Confidential
from ai_task_processor.domain.errors import ConfigurationError, TaskProcessorError
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.ops.address import url_here
from ai_task_processor.ops.health import OK, Health
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.status import page
from ai_task_processor.ops.status.facts import Status
from ai_task_processor.ops.status.lookout import Lookout
from ai_task_processor.ops.status.stream import Streams
from ai_task_processor.ops.status.wording import as_json

BACKLOG_PATIENCE = 2.0
"""Seconds that a scrape waits for the journal; a scraper gives up after ten."""

ACCEPTED = 202

LARGEST_BODY = 16 * 1024
LARGEST_HEADER = 8 * 1024
LINGER = 1.0
"""Seconds that a closing connection gets to say the rest of what nobody reads."""


class OnRequest(Confidential, frozen=True):
    """What is called for those who know ``token``; an empty one is known to nobody."""

    poll: Callable[[], None]
    pause: Callable[[], None]
    resume: Callable[[], None]
    token: str


class OpsServer:
    """Serves its routes while it is entered, and wishes where ``on_request`` has a token.

    The routes are /health, /ready and /metrics for machines; / for people, kept up to date by /events, and the same
    facts as JSON at /status. The wishes are POST /poll, /pause and /resume.

    ``port`` 0 lets the system choose one; ``port`` and ``url`` then say which. Entering raises ConfigurationError
    where the address cannot be had. A scrape waits ``patience`` seconds for the backlog. To be entered first and left
    last, so that it answers to the end of a stop.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        health: Health,
        metrics: Metrics,
        lookout: Lookout,
        clock: Clock,
        on_request: OnRequest | None = None,
        patience: float = BACKLOG_PATIENCE,
    ) -> None:
        self.host = host
        self.port = port
        self._health = health
        self._metrics = metrics
        self._lookout = lookout
        self._readings = lookout.readings
        self._clock = clock
        self._on_request = on_request
        self._patience = patience
        self._streams = Streams(self._sections)
        self._drawn: tuple[Status, Mapping[str, str]] | None = None
        self._runner = web.AppRunner(
            self._application(),
            handle_signals=False,
            access_log=None,
            shutdown_timeout=LINGER,
            lingering_time=LINGER,
            max_line_size=LARGEST_HEADER,
            max_field_size=LARGEST_HEADER,
        )

    @property
    def url(self) -> str:
        """The address for somebody on this machine, without a slash at its end."""
        return url_here(self.host, self.port)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            raise ConfigurationError([_why_not(self.host, self.port, error)]) from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer what was asked, then close every connection."""
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=LARGEST_BODY)
        application.add_routes(
            [
                web.get("/health", self._get_health),
                web.get("/ready", self._get_ready),
                web.get("/metrics", self._get_metrics),
                web.get("/status", self._get_status),
                web.get("/", self._get_page),
                web.get("/events", self._streams.answer, allow_head=False),
            ]
        )
        application.on_shutdown.append(self._end_streams)
        if self._on_request and self._on_request.token:
            application.add_routes(self._wishes(self._on_request))
        return application

    def _wishes(self, on_request: OnRequest) -> list[web.RouteDef]:
        wishes = {"/poll": on_request.poll, "/pause": on_request.pause, "/resume": on_request.resume}
        return [web.post(path, partial(self._grant, on_request.token, wish)) for path, wish in wishes.items()]

    async def _get_health(self, _request: web.Request) -> web.Response:
        return _json(*self._health.health_body(self._readings.usage()))

    async def _get_ready(self, _request: web.Request) -> web.Response:
        return _json(*self._health.ready_body())

    async def _get_metrics(self, request: web.Request) -> web.Response:
        backlog = await self._backlog_or_none()
        accept = request.headers.get("Accept", "")
        ready = {name: check.ok for name, check in self._health.checks().items()}
        content_type, body = self._metrics.render(accept, backlog, self._readings.usage(), self._clock.now(), ready)
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def _get_status(self, _request: web.Request) -> web.Response:
        return _json(OK, as_json(await self._lookout.status()))

    async def _get_page(self, _request: web.Request) -> web.Response:
        return web.Response(body=page.page(await self._lookout.status()).encode(), headers=page.HEADERS)

    async def _sections(self) -> Mapping[str, str]:
        """What changes of the page, drawn once for all who look."""
        status = await self._lookout.status()
        if self._drawn is None or self._drawn[0] is not status:
            self._drawn = status, page.sections(status)
        return self._drawn[1]

    async def _end_streams(self, _application: web.Application) -> None:
        self._streams.end()

    async def _grant(self, token: str, wish: Callable[[], None], request: web.Request) -> web.Response:
        """Do as somebody wishes who knows the token, and answer how it is then."""
        _let_in(token, request)
        wish()
        return _json(ACCEPTED, {"status": "paused" if self._health.paused else "running"})

    async def _backlog_or_none(self) -> Backlog | None:
        """The backlog, or None where the journal cannot tell it now: the other metrics are then needed all the more."""
        try:
            async with asyncio.timeout(self._patience):
                return await self._readings.backlog()
        except (TaskProcessorError, TimeoutError):
            return None


def _let_in(token: str, request: web.Request) -> None:
    """Refuse who does not know the token; how long the comparison takes says nothing about it."""
    given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})


def _json(status: int, body: Mapping[str, object]) -> web.Response:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return web.Response(status=status, body=orjson.dumps(body), headers=headers)


def _why_not(host: str, port: int, error: OSError | OverflowError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return f"METRICS_PORT={port} is in use on {host}: stop what listens there, or choose another port"
    if number == errno.EACCES:
        return f"METRICS_PORT={port} may not be used by this user: choose a port above 1023"
    if isinstance(error, OverflowError):
        return f"METRICS_PORT={port} is no port: choose one from 0 to 65535"
    return f"METRICS_HOST={host} (METRICS_PORT={port}) cannot be listened on: {error.strerror or error}"
