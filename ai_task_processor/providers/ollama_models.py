"""Which models an Ollama server has, and how the missing ones get there."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus

import httpx
import ollama

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.events import (
    EnsuringModels,
    ModelDownloaded,
    ModelDownloading,
    ModelsMissing,
    ModelsReady,
)
from ai_task_processor.domain.ports import Observer
from ai_task_processor.domain.proxies import Proxy
from ai_task_processor.providers.models import same_model
from ai_task_processor.providers.refusals import told

PROVIDER = "ollama"

FIRST_REST = 5.0
LONGEST_REST = 300.0
"""Seconds between rounds in which models could not be made ready; each rest is twice the one before."""

SECONDS_BETWEEN_REPORTS = 1.0

HTTP_STATUS = 100
"""The least number that is one: the SDK gives an error inside a stream a negative status."""


LOOK_SECONDS = 30.0
"""How long the list of models may take; a silence in the middle of a download may be longer."""


def sdk_client(base_url: str, *, download_timeout: float, proxy: Proxy | None = None) -> ollama.AsyncClient:
    """Make the vendor's client, used for models only; an async context manager, to be closed by its owner."""
    timeout = httpx.Timeout(download_timeout, connect=min(download_timeout, 10.0))
    way = httpx.Proxy(proxy.url, headers=dict(proxy.headers)) if proxy else None
    return ollama.AsyncClient(host=base_url, timeout=timeout, trust_env=False, proxy=way)


class OllamaModels:
    """Keeps ``supported`` models on the server behind ``client``.

    One pull may take ``download_timeout`` seconds in all. :meth:`keep` is meant to run as long as the program; nothing
    is ready before it has looked. ``proxy`` is the one that ``client`` goes through, if any.
    """

    def __init__(
        self,
        client: ollama.AsyncClient,
        supported: Sequence[str],
        *,
        download_timeout: float,
        clock: Clock,
        observer: Observer,
        proxy: Proxy | None = None,
    ) -> None:
        self.supported = tuple(supported)
        self._client = client
        self._download_timeout = download_timeout
        self._clock = clock
        self._observer = observer
        self._proxy = proxy
        self._ready: frozenset[str] = frozenset()
        self._lost = asyncio.Event()
        self._adjusted = asyncio.Event()
        self.looked = False
        """Whether the server has been asked yet what it has."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The supported models that are not there, as far as is known."""
        return tuple(model for model in self.supported if model not in self._ready)

    def supports(self, model: str) -> bool:
        """Whether ``model`` is one of those to be kept."""
        return any(same_model(model, one) for one in self.supported)

    def has(self, model: str) -> bool:
        """Whether ``model`` can be used now."""
        return any(same_model(model, one) for one in self._ready)

    def lost(self, model: str) -> None:
        """The server says that it does not have ``model``: have it pulled again."""
        self._ready = frozenset(one for one in self._ready if not same_model(model, one))
        self._lost.set()

    def adjust(self, supported: Sequence[str]) -> None:
        """Keep these from now on; at once, also while others could not be made ready."""
        if tuple(supported) != self.supported:
            self.supported = tuple(supported)
            self._lost.set()
            self._adjusted.set()

    async def keep(self) -> None:
        """Make every model ready, and again whenever one is lost or others are wanted; ends by cancellation only."""
        while True:
            self._lost.clear()
            await self.prepare()
            await self._lost.wait()

    async def prepare(self) -> None:
        """Return when every model is there, however long that takes; a failed round is told and followed by a rest."""
        self._observer(EnsuringModels(provider=PROVIDER, models=self.supported))
        rest = FIRST_REST
        while faults := await self._round():
            self._observer(ModelsMissing(provider=PROVIDER, reason="; ".join(faults), rest=rest))
            rest = FIRST_REST if await self._adjusted_within(rest) else min(2 * rest, LONGEST_REST)
        self._observer(ModelsReady(provider=PROVIDER))

    async def _adjusted_within(self, seconds: float) -> bool:
        """Wait so long, or until other models are wanted; whether they are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._adjusted.wait()
        wanted = self._adjusted.is_set()
        self._adjusted.clear()
        return wanted

    async def look(self) -> None:
        """Ask once what is there, and pull nothing: enough for a single use. Raises ProviderUnavailable."""
        installed = await self._installed()
        self._ready = frozenset(one for one in self.supported if any(same_model(one, name) for name in installed))
        self.looked = True

    async def _round(self) -> tuple[str, ...]:
        """Look what is there and pull the rest; answers why models are still missing."""
        try:
            await self.look()
        except ProviderUnavailable as error:
            return (str(error),)
        faults = [await self._pulled(model) for model in self.missing]
        return tuple(filter(None, faults))

    async def _installed(self) -> tuple[str, ...]:
        with _translated("ollama cannot be asked for its models", self._proxy):
            async with asyncio.timeout(LOOK_SECONDS):
                listed = await self._client.list()
            return tuple(model.model for model in listed.models if model.model)

    async def _pulled(self, model: str) -> str | None:
        """Pull one model; answers why that failed."""
        self._observer(ModelDownloading(provider=PROVIDER, model=model))
        try:
            async with asyncio.timeout(self._download_timeout):
                await self._pull(model)
        except TimeoutError:
            return f"{model} was not downloaded within {self._download_timeout:g} seconds"
        except ProviderUnavailable as error:
            return f"{model}: {error}"
        self._ready |= {model}
        self._observer(ModelDownloaded(provider=PROVIDER, model=model))
        return None

    async def _pull(self, model: str) -> None:
        progress = _Progress(model, self._clock, self._observer)
        with _translated("the download failed", self._proxy):
            async for step in await self._client.pull(model, stream=True):
                progress.note(step)
        if not progress.succeeded:
            raise ProviderUnavailable("the download ended without success")


class _Progress:
    """Adds up the layers of one model, and tells the sum once a second."""

    def __init__(self, model: str, clock: Clock, observer: Observer) -> None:
        self.succeeded = False
        self._model = model
        self._clock = clock
        self._observer = observer
        self._layers: dict[object, tuple[int, int]] = {}
        self._told_at = clock.monotonic()

    def note(self, step: ollama.ProgressResponse) -> None:
        self.succeeded = step.status == "success"
        if step.total is not None:
            self._layers[step.digest] = (step.completed or 0, step.total)
            self._tell()

    def _tell(self) -> None:
        now = self._clock.monotonic()
        if now - self._told_at < SECONDS_BETWEEN_REPORTS:
            return
        self._told_at = now
        completed, total = map(sum, zip(*self._layers.values(), strict=True))
        self._observer(ModelDownloading(provider=PROVIDER, model=self._model, completed=completed, total=total))


@contextmanager
def _translated(what: str, proxy: Proxy | None) -> Iterator[None]:
    """Make a ProviderUnavailable of whatever the vendor's SDK raises when the server does not do its part."""
    try:
        yield
    except ollama.ResponseError as error:
        if proxy and not proxy.tunnels and error.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise ProviderUnavailable(f"{what}: {proxy.refusal(error.status_code)}", sent=False) from error
        status = "" if error.status_code < HTTP_STATUS else f" ({error.status_code})"
        raise ProviderUnavailable(f"{what}{status}: {told(error.error, ())}") from error
    except (httpx.HTTPError, OSError) as error:
        raise ProviderUnavailable(f"{what}: {_told_of(error, proxy)}") from error
    except (ValueError, TypeError, AttributeError) as error:  # pydantic's and json's: the answer is not Ollama's
        raise ProviderUnavailable(f"{what}: its answer cannot be read") from error


def _told_of(error: Exception, proxy: Proxy | None) -> str:
    """The client knows the status of a refused CONNECT as the first of its words alone."""
    kind = type(error).__name__
    if proxy and isinstance(error, httpx.ProxyError):
        status = str(error).partition(" ")[0]
        return proxy.refusal(int(status)) if status.isdigit() else proxy.unreachable(kind)
    return proxy.unreachable(kind) if proxy and isinstance(error, OSError | httpx.ConnectTimeout) else kind
