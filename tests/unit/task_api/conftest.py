"""A Task API that can go wrong, and our side of it."""

import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from ai_task_processor.domain.events import Event
from ai_task_processor.domain.outcome import Succeeded, Vector
from ai_task_processor.domain.ports import Entry, Receipt, Wish
from ai_task_processor.domain.task import Page
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.task_api.auth import Credentials, TokenAuth
from ai_task_processor.task_api.client import LARGEST_PAGE, TaskApiClient, counts_for_breaker, open_pool
from ai_task_processor.task_api.features import Feature, Features
from ai_task_processor.task_api.reporter import ApiReporter
from ai_task_processor.task_api.source import ApiTaskSource
from tests.fakes.task_api_server import CLIENT_ID, CLIENT_SECRET, FakeTaskApi
from tests.fakes.time import ManualClock

NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted; to load the usual authorities for each test takes longer than the test."""


@dataclass(frozen=True)
class Side:
    """Everything on our side of the wire."""

    client: TaskApiClient
    auth: TokenAuth
    breaker: Breaker
    source: ApiTaskSource
    reporter: ApiReporter
    features: Features
    clock: ManualClock
    events: list[Event]

    async def fetch(self, limit: int = 10) -> Page:
        return await self.source.fetch(Wish(limit))

    async def report(self, entry: Entry) -> Receipt:
        (verdict,) = await self.reporter.report([entry])
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def seen(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def entry(task_id: str = "a", outcome: object = None, correlation_id: str = "corr-1") -> Entry:
    vector = Succeeded(Vector(b"\x00\x00\x80\x3f\x00\x00\x00\x3e"), model="m", provider="p", tokens=3)
    return Entry(task_id, "text_embedding", correlation_id, outcome or vector, settled_at=1.0)  # type: ignore[arg-type]


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    return entry


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi(clock=clock) as server:
        yield server


@pytest.fixture
def connect(api: FakeTaskApi, clock: ManualClock) -> Callable[..., Side]:
    """Build our side; close its client with ``async with side.client``."""

    def build(
        *,
        timeout: float = 5.0,
        base_url: str = "",
        detailed: bool = False,
        largest_page: int = LARGEST_PAGE,
        **changes: str,
    ) -> Side:
        events: list[Event] = []
        exchange = open_pool(connections=100, trusted=NOBODY)
        credentials = Credentials(
            **{"token_url": api.token_url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **changes}  # type: ignore[arg-type]
        )
        auth = TokenAuth(credentials, exchange=exchange, timeout=timeout, clock=clock, observer=events.append)
        breaker = Breaker(
            "task_api",
            threshold=5,
            recovery_seconds=30,
            clock=clock,
            observer=events.append,
            counts=counts_for_breaker,
        )
        client = TaskApiClient(
            base_url or api.url,
            auth,
            exchange=exchange,
            timeout=timeout,
            breaker=breaker,
            clock=clock,
            observer=events.append,
            largest_page=largest_page,
        )
        source = ApiTaskSource(client, clock=clock)
        features = Features(
            {Feature.CLAIM: client.find_claim, Feature.BULK: client.find_bulk}, clock=clock, observer=events.append
        )
        reporter = ApiReporter(client, features, detailed=detailed)
        return Side(client, auth, breaker, source, reporter, features, clock, events)

    return build


@pytest.fixture
async def side(connect: Callable[..., Side]) -> AsyncIterator[Side]:
    built = connect()
    async with built.client:
        yield built
