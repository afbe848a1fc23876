"""What people and their tools see of the running program: routes, metrics, the first lines of the log."""

import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack

from msgspec import Struct

from ai_task_processor import __version__
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.ports import WindowUsage
from ai_task_processor.ops.health import Health, HealthSettings
from ai_task_processor.ops.http import OnRequest, OpsServer
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.status.lookout import Identity, Lookout, Readings
from ai_task_processor.ops.status.recent import Recent
from ai_task_processor.pipeline.gate import Gate
from ai_task_processor.settings import Settings
from ai_task_processor.wiring.engines import engine_names
from ai_task_processor.wiring.state import State
from ai_task_processor.wiring.task_api import TASK_API

SERVICE = "ai-task-processor"

STARTUP_GRACE = 120.0
"""Seconds without a sign of progress in which a start still counts as alive."""

POLL_PATIENCE = 12
"""How many request timeouts a poll may take before it counts as hanging; a page may take ten of them."""


class Watchers(Struct, frozen=True):
    """The observers whose knowledge the routes show."""

    health: Health
    metrics: Metrics
    recent: Recent


def make_watchers(settings: Settings, types: Collection[str], clock: Clock) -> Watchers:
    """Those of one program, which has processors for these task types."""
    recent = Recent(clock=clock, breakers=(TASK_API, *engine_names(settings)))
    return Watchers(_health(settings, clock), _metrics(settings, types, clock), recent)


def _health(settings: Settings, clock: Clock) -> Health:
    names = engine_names(settings)
    return Health(
        HealthSettings(
            service=SERVICE,
            version=__version__,
            poll_margin=POLL_PATIENCE * settings.request_timeout,
            startup_grace=STARTUP_GRACE,
            limits_enabled=settings.rate_limit_enabled,
            limits_strategy=settings.rate_limit_strategy,
            providers=names,
            preparing=[name for name in names if name == "ollama"],
        ),
        clock=clock,
        storage=lambda: None,  # a state that cannot be written ends the process
    )


def _metrics(settings: Settings, types: Collection[str], clock: Clock) -> Metrics:
    return Metrics(
        __version__,
        clock=clock,
        types=tuple(types),
        models=(settings.default_model, *settings.supported_models),
        breakers=(TASK_API, *engine_names(settings)),
        concurrency=dict.fromkeys(engine_names(settings), settings.concurrency_limit),
    )


async def serve_operation(
    stack: AsyncExitStack,
    settings: Settings,
    watchers: Watchers,
    state: State,
    usage: Callable[[], Mapping[str, WindowUsage]],
    poll: Callable[[], None],
    gate: Gate,
    clock: Clock,
) -> str:
    """Answer on ``METRICS_PORT`` until ``stack`` closes; the address. Raises ConfigurationError."""
    server = OpsServer(
        settings.metrics_host,
        settings.metrics_port,
        health=watchers.health,
        metrics=watchers.metrics,
        lookout=_lookout(settings, watchers, Readings(state.journal.backlog, state.parked, usage), clock),
        clock=clock,
        on_request=_on_request(settings.poll_token.get_secret_value(), poll, gate),
    )
    return (await stack.enter_async_context(server)).url


def _lookout(settings: Settings, watchers: Watchers, readings: Readings, clock: Clock) -> Lookout:
    identity = Identity(
        service=SERVICE,
        version=__version__,
        host=socket.gethostname(),
        mode=settings.mode,
        limits_strategy=settings.rate_limit_strategy,
    )
    return Lookout(
        identity,
        health=watchers.health,
        recent=watchers.recent,
        readings=readings,
        in_flight=lambda: watchers.metrics.in_flight,
        clock=clock,
    )


def _on_request(token: str, poll: Callable[[], None], gate: Gate) -> OnRequest:
    def resume() -> None:
        gate.resume()
        poll()

    return OnRequest(poll=poll, pause=gate.pause, resume=resume, token=token)


def facts(settings: Settings) -> dict[str, object]:
    """What the first line of the log tells."""
    return {
        "version": __version__,
        "mode": settings.mode,
        "default_model": settings.default_model,
        "api_base_url": settings.api_base_url,
        "token_url": settings.token_url,
        "batch_size": settings.batch_size,
        "concurrency_limit": settings.concurrency_limit,
        "polling_interval_seconds": settings.polling_interval_seconds,
        "limits": dict(settings.limits_shown) or "none",
        "limits_strategy": settings.rate_limit_strategy,
        "state": settings.state_shown,
        "proxies": dict(settings.proxies_shown) or "none",
    }


def warnings(settings: Settings) -> list[str]:
    """What an operator should know before it surprises."""
    found = [f"{name} is no setting and means nothing: is {meant} meant?" for name, meant in settings.misspelt.items()]
    if settings.mode == "mock":
        why = (
            "OPENAI_API_KEY is the placeholder of the example file" if settings.has_placeholder_key else "as configured"
        )
        found.append(f"MOCK PROCESSING ({why}): results are made from the text's hash and mean nothing")
    if settings.mode == "local":
        found.append("local mode answers every model name with the model in the process")
    if settings.mode == "hybrid" and settings.fallback_model:
        found.append(
            f"while Ollama is away OpenAI's {settings.fallback_model} answers for its models: vectors of the two are "
            "not comparable; HYBRID_FALLBACK_MODEL=none waits for Ollama instead"
        )
    if not settings.api_base_url.startswith("https://") and not settings.is_local_api:
        found.append("API_BASE_URL is not https: tokens and texts cross the network in the open")
    if (
        "claim" in settings.wanted_features
        and settings.claim_lease_seconds <= settings.circuit_breaker_recovery_seconds
    ):
        found.append(
            f"CLAIM_LEASE_SECONDS={settings.claim_lease_seconds} is not above CIRCUIT_BREAKER_RECOVERY_SECONDS="
            f"{settings.circuit_breaker_recovery_seconds:g}: after an outage others may do "
            "again, and pay for, what is held here"
        )
    return found
