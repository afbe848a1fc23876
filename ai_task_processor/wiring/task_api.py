"""The client of the Task API, and what the flow does with it."""

from collections.abc import Callable

from msgspec import Struct

from ai_task_processor.domain.ports import Leases, Reporter, TaskSource
from ai_task_processor.domain.proxies import Proxies
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.settings import Settings
from ai_task_processor.task_api.auth import Credentials, TokenAuth
from ai_task_processor.task_api.claiming import ClaimingSource
from ai_task_processor.task_api.client import TaskApiClient, counts_for_breaker, open_pool
from ai_task_processor.task_api.features import Feature, Features
from ai_task_processor.task_api.reporter import ApiReporter
from ai_task_processor.task_api.requests import Exchange
from ai_task_processor.wiring.engines import Bench

TASK_API = "task_api"
"""The name of the Task API where breakers are told apart."""

SPARE_CONNECTIONS = 4
"""Connections to the Task API beside those of delivery: for fetches, tokens and announcements."""


MakeWire = Callable[[int, Proxies], Exchange]


def open_wire(connections: int, proxies: Proxies | None = None) -> Exchange:
    """Open a pool of connections to the Task API."""
    return open_pool(connections=connections, proxies=proxies)


class TaskApi(Struct, frozen=True):
    """Where tasks come from, and for how long they are ours; where outcomes go."""

    source: TaskSource
    leases: Leases
    reporter: Reporter


def open_task_api(bench: Bench, wire: MakeWire, worker: str) -> TaskApi:
    """Open the way to the Task API, which knows us as ``worker``; closed with the bench."""
    settings = bench.settings
    client = make_client(bench, wire)
    bench.stack.push_async_callback(client.aclose)
    features = make_features(bench, client)
    source = ClaimingSource(
        client, features, worker=worker, lease_seconds=settings.claim_lease_seconds, clock=bench.clock
    )
    reporter = ApiReporter(client, features, detailed=settings.result_format == "detailed")
    if bench.traces:
        return TaskApi(bench.traces.source(source), source, bench.traces.reporter(reporter))
    return TaskApi(source, source, reporter)


def make_features(bench: Bench, client: TaskApiClient) -> Features:
    """What is known of the optional routes that may be used."""
    ask = {Feature.CLAIM: client.find_claim, Feature.BULK: client.find_bulk}
    wanted = {Feature(name): ask[Feature(name)] for name in bench.settings.wanted_features}
    return Features(wanted, clock=bench.clock, observer=bench.observer)


def make_client(bench: Bench, wire: MakeWire) -> TaskApiClient:
    """Make the client of the Task API, which is its owner's to close."""
    settings = bench.settings
    exchange = wire(settings.delivery_concurrency + SPARE_CONNECTIONS, settings.proxies)
    auth = TokenAuth(
        credentials(settings),
        exchange=exchange,
        timeout=settings.request_timeout,
        clock=bench.clock,
        observer=bench.observer,
    )
    breaker = Breaker(
        TASK_API,
        threshold=settings.circuit_breaker_threshold,
        recovery_seconds=settings.circuit_breaker_recovery_seconds,
        clock=bench.clock,
        observer=bench.observer,
        counts=counts_for_breaker,
    )
    return TaskApiClient(
        settings.api_base_url,
        auth,
        exchange=exchange,
        timeout=settings.request_timeout,
        breaker=breaker,
        clock=bench.clock,
        observer=bench.observer,
        tracer=bench.traces.tracer if bench.traces else None,
    )


def credentials(settings: Settings) -> Credentials:
    """Who we are to the token endpoint."""
    return Credentials(
        token_url=settings.token_url,
        client_id=settings.oauth2_client_id,
        client_secret=settings.oauth2_client_secret.get_secret_value(),
        scope=settings.oauth2_scope,
        audience=settings.oauth2_audience,
        auth_method=settings.oauth2_auth_method,
    )
