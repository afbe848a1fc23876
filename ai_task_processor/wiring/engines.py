"""The part of the composition root that makes the provider: which engines run, guarded and combined."""

import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct, field

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import CacheFilled
from ai_task_processor.domain.ports import EmbeddingProvider, Observer, RateLimiter
from ai_task_processor.domain.tokens import LEAST_TOKENS
from ai_task_processor.ops.traced import Traces
from ai_task_processor.providers.batch_size import Sized
from ai_task_processor.providers.budget import Budget, Tariff, tariff_of
from ai_task_processor.providers.cache import CacheStore
from ai_task_processor.providers.cache_store import MemoryCacheStore, SqlCacheStore
from ai_task_processor.providers.cached import Cached
from ai_task_processor.providers.checks import Usual
from ai_task_processor.providers.concurrency import Concurrency
from ai_task_processor.providers.connection import HttpClient
from ai_task_processor.providers.guarded import Guarded, Patience, counts
from ai_task_processor.providers.hybrid import Hybrid
from ai_task_processor.providers.local.files import ModelFiles, find_model
from ai_task_processor.providers.local.model import LocalModel, Runtime
from ai_task_processor.providers.models import canonical
from ai_task_processor.providers.neighbours import Neighbours
from ai_task_processor.providers.prices import Prices, free
from ai_task_processor.providers.space_store import MemorySpaceStore, SqlSpaceStore
from ai_task_processor.providers.spaces import Spaced, Spaces, SpaceStore
from ai_task_processor.providers.traced_http import TracedHttpClient
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.resilience.retry import Backoff
from ai_task_processor.settings import Settings
from ai_task_processor.storage.engine import Storage

Job = Callable[[], Coroutine[None, None, None]]
Price = Callable[[str], int]

IN_PROCESS_TIMEOUT = 300.0
"""Seconds that an engine inside the process may take for one batch."""

OWN_MODEL_TIMEOUT = 3_600.0
"""The same for a model of the user's own, which may be large, and whose batches wait for each other."""

MOST_TARIFFS = 1_000
"""Models whose tariff is remembered; tasks may name any."""


class Engine(Struct, frozen=True):
    """A leaf provider; ``timeout`` in seconds for one request.

    ``identity`` tells it from others of its name, whose vectors may be different ones. ``keep`` is to run beside it as
    long as it is used; ``look`` is to be awaited before a single use without that. ``is_server`` says that it is
    somebody else's program, of which is to be seen first that it keeps the texts of one request apart. ``batch_size``
    says how many texts for a model make a good request now, where that is found out while it is used.
    """

    provider: EmbeddingProvider
    timeout: float
    identity: str = ""
    keep: Job | None = None
    look: Job | None = None
    is_server: bool = False
    batch_size: Callable[[str], int] | None = None


class Bench(Struct, frozen=True):
    """What engines are made with; what they open is closed with ``stack``.

    What a part does with settings that change while it is used goes into ``adjustments``. ``traces`` puts spans around
    what is made, where somebody looks at them.
    """

    settings: Settings
    clock: Clock
    observer: Observer
    randomness: random.Random
    stack: AsyncExitStack
    adjustments: list[Callable[[Settings], None]] = field(default_factory=list)
    traces: Traces | None = None


MakeEngine = Callable[[Bench, str], Engine]


def engine_names(settings: Settings) -> tuple[str, ...]:
    """The engines of the mode, the preferred one first."""
    return ("ollama", "openai") if settings.mode == "hybrid" else (settings.mode,)


def make_engine(bench: Bench, name: str) -> Engine:
    """Make one engine; its module, and what that needs, is imported only now."""
    return ENGINES[name](bench)


class Memory(Struct, frozen=True):
    """What providers know from earlier runs."""

    cache: CacheStore
    spaces: SpaceStore


async def open_memory(settings: Settings, storage: Storage) -> Memory:
    """The memory in the state database."""
    return Memory(await SqlCacheStore.open(storage, limit=settings.embedding_cache_bytes), SqlSpaceStore(storage))


def short_memory(settings: Settings) -> Memory:
    """A memory that ends with the process."""
    return Memory(MemoryCacheStore(settings.embedding_cache_bytes), MemorySpaceStore())


async def combined(
    bench: Bench, engines: Mapping[str, Engine], limiter: RateLimiter, memory: Memory
) -> EmbeddingProvider:
    """Guard each engine and keep its answers, join two of them as the hybrid mode does, watch what comes of it."""
    identities = {engine.provider.name: engine.identity for engine in engines.values()}
    spaces = await Spaces.open(memory.spaces, identities=identities, clock=bench.clock)
    cached = [_cached(bench, engine, limiter, memory.cache, spaces) for engine in engines.values()]
    filling = memory.cache.filling()
    bench.observer(CacheFilled(entries=filling.entries, size=filling.size))
    return Spaced(_joined(bench, cached, spaces), spaces, observer=bench.observer)


def _joined(bench: Bench, providers: Sequence[EmbeddingProvider], spaces: Spaces) -> EmbeddingProvider:
    if len(providers) == 1:
        return providers[0]
    primary, fallback = providers
    return Hybrid(
        primary,
        fallback,
        fallback_model=bench.settings.fallback_model,
        observer=bench.observer,
        usual=spaces.usual(primary.name),
    )


def _cached(bench: Bench, engine: Engine, limiter: RateLimiter, cache: CacheStore, spaces: Spaces) -> Cached:
    usual = spaces.usual(engine.provider.name)
    guarded = _guarded(bench, engine, limiter, usual)
    provider: EmbeddingProvider = Neighbours(guarded, observer=bench.observer) if engine.is_server else guarded
    if bench.traces:
        provider = bench.traces.provider(provider, address_of(bench.settings, engine.provider.name))
    return Cached(provider, cache, observer=bench.observer, identity=engine.identity, usual=usual)


def _guarded(bench: Bench, engine: Engine, limiter: RateLimiter, usual: Usual) -> Guarded:
    settings = bench.settings
    name = engine.provider.name
    patience = Patience(
        attempts=settings.max_retries + 1,
        backoff=Backoff(factor=settings.retry_backoff_factor, randomness=bench.randomness),
        timeout=engine.timeout,
    )
    concurrency = Concurrency(name, ceiling=settings.concurrency_limit, clock=bench.clock, observer=bench.observer)
    breaker = Breaker(
        name,
        threshold=settings.circuit_breaker_threshold,
        recovery_seconds=settings.circuit_breaker_recovery_seconds,
        clock=bench.clock,
        observer=bench.observer,
        counts=counts,
    )
    return Guarded(
        engine.provider,
        patience=patience,
        concurrency=concurrency,
        breaker=breaker,
        budget=Budget(limiter, price=price_at(settings, name)),
        clock=bench.clock,
        observer=bench.observer,
        usual=usual,
    )


def price_at(settings: Settings, engine: str) -> Price:
    """What a token of a model costs at an engine: those of our own cost nothing."""
    if engine != "openai":
        return free
    return Prices(settings.model_prices, unknown=settings.unknown_model_price).per_token


def measure(settings: Settings) -> Callable[[str, str], Amount]:
    """What a text may come to at the engine that is asked first for a model."""
    prices = [price_at(settings, name) for name in engine_names(settings)]
    own = frozenset(map(canonical, settings.supported_models))

    @lru_cache(MOST_TARIFFS)
    def tariff(model: str) -> Tariff:
        return tariff_of(model, prices[0] if canonical(model) in own else prices[-1])

    def measured(text: str, model: str) -> Amount:
        return tariff(model).most_for((text,))

    return measured


def least(settings: Settings) -> Amount:
    """The least that a task comes to: where an engine of our own is among them, it may be free of charge."""
    costs = all(price_at(settings, name) is not free for name in engine_names(settings))
    per_token = Prices(settings.model_prices, unknown=settings.unknown_model_price).least if costs else 0
    return Amount(tasks=1, tokens=LEAST_TOKENS, cost=LEAST_TOKENS * per_token)


def _openai(bench: Bench) -> Engine:
    from ai_task_processor.providers.openai import OpenAI  # noqa: PLC0415  # imported when its mode is chosen

    settings = bench.settings
    http = _http_client(bench, settings.openai_base_url, settings.openai_timeout)
    provider = OpenAI(
        http,
        api_key=settings.openai_api_key.get_secret_value(),
        clock=bench.clock,
        truncate=settings.long_input == "truncate",
    )
    identity = _identity(settings, settings.openai_base_url)
    return Engine(provider, timeout=settings.openai_timeout, identity=identity, is_server=True)


def _ollama(bench: Bench) -> Engine:
    from ai_task_processor.providers.ollama import Ollama  # noqa: PLC0415  # imported when its mode is chosen
    from ai_task_processor.providers.ollama_models import OllamaModels, sdk_client  # noqa: PLC0415

    settings = bench.settings
    http = _http_client(bench, settings.ollama_base_url, settings.ollama_timeout)
    proxy = settings.proxies.for_url(settings.ollama_base_url)
    sdk = sdk_client(settings.ollama_base_url, download_timeout=settings.ollama_model_download_timeout, proxy=proxy)
    bench.stack.push_async_callback(sdk.close)
    models = OllamaModels(
        sdk,
        settings.supported_models,
        download_timeout=settings.ollama_model_download_timeout,
        clock=bench.clock,
        observer=bench.observer,
        proxy=proxy,
    )
    bench.adjustments.append(lambda changed: models.adjust(changed.supported_models))
    ollama = Ollama(http, models, clock=bench.clock, truncate=settings.long_input == "truncate")
    provider = Sized(ollama, most=settings.batch_size, clock=bench.clock)
    identity = _identity(settings, settings.ollama_base_url)
    return Engine(
        provider,
        timeout=settings.ollama_timeout,
        identity=identity,
        keep=models.keep,
        look=models.look,
        is_server=True,
        batch_size=provider.batch_size,
    )


def address_of(settings: Settings, name: str) -> str:
    """Where an engine is that is a server; empty for others."""
    return {"openai": settings.openai_base_url, "ollama": settings.ollama_base_url}.get(name, "")


def _http_client(bench: Bench, base_url: str, timeout: float) -> HttpClient:
    tracer = bench.traces.tracer if bench.traces else None
    most, proxy = bench.settings.concurrency_limit, bench.settings.proxies.for_url(base_url)
    http = (
        TracedHttpClient(tracer, base_url=base_url, timeout=timeout, connections=most, proxy=proxy)
        if tracer
        else HttpClient(base_url=base_url, timeout=timeout, connections=most, proxy=proxy)
    )
    bench.stack.push_async_callback(http.aclose)
    return http


def _identity(settings: Settings, base_url: str) -> str:
    """A server of another address may have other models of these names; what is cut is answered, not refused."""
    return f"{base_url.rstrip('/')} {settings.long_input}"


def _local(bench: Bench) -> Engine:
    return _own_model(bench) if bench.settings.local_model_path else _shipped_model()


def _shipped_model() -> Engine:
    from ai_task_processor.providers.local.shipped import PACKAGE, Local  # noqa: PLC0415  # imported when its mode is chosen

    return Engine(Local(), timeout=IN_PROCESS_TIMEOUT, identity=metadata.version(PACKAGE))


def _own_model(bench: Bench) -> Engine:
    files = find_model(Path(bench.settings.local_model_path))
    runtime = _loaded(files, truncate=bench.settings.long_input == "truncate")
    bench.stack.callback(runtime.close)
    provider = LocalModel(runtime, model=files.name)
    return Engine(provider, timeout=OWN_MODEL_TIMEOUT, identity=f"{files.digest} {bench.settings.long_input}")


def _loaded(files: ModelFiles, *, truncate: bool) -> Runtime:
    if files.kind == "gguf":
        from ai_task_processor.providers.local.gguf import GgufModel  # noqa: PLC0415  # imported when there is one

        return GgufModel(files, truncate=truncate)
    from ai_task_processor.providers.local.onnx import OnnxModel  # noqa: PLC0415

    return OnnxModel(files, truncate=truncate)


def _mock(bench: Bench) -> Engine:
    from ai_task_processor.providers.mock import Mock  # noqa: PLC0415  # imported when its mode is chosen

    latency = bench.settings.mock_latency_seconds
    return Engine(Mock(latency=latency), timeout=IN_PROCESS_TIMEOUT + latency)


ENGINES: Mapping[str, Callable[[Bench], Engine]] = MappingProxyType(
    {"openai": _openai, "ollama": _ollama, "local": _local, "mock": _mock}
)
"""How each engine is made, by its name, which is that of a mode; a new one enters here and in the settings' Mode."""
