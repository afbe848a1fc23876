"""Which models an Ollama server has, and how the missing ones get there."""

import asyncio
from collections.abc import Mapping, Sequence

import httpx2
import orjson

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
from ai_task_processor.providers.connection import BROKEN
from ai_task_processor.providers.models import same_model
from ai_task_processor.providers.refusals import told

PROVIDER = "ollama"

FIRST_REST = 5.0
LONGEST_REST = 300.0
"""Seconds between rounds in which models could not be made ready; each rest is twice the one before."""

SECONDS_BETWEEN_REPORTS = 1.0


class OllamaModels:
    """Keeps ``supported`` models on the server behind ``http``; one pull may take ``download_timeout`` seconds in all.

    :meth:`keep` is meant to run as long as the program; nothing is ready before it has looked.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        supported: Sequence[str],
        *,
        download_timeout: float,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self.supported = tuple(supported)
        self._http = http
        self._download_timeout = download_timeout
        self._clock = clock
        self._observer = observer
        self._ready: frozenset[str] = frozenset()
        self._lost = asyncio.Event()
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

    async def keep(self) -> None:
        """Make every model ready, and again whenever one is lost; ends by cancellation only."""
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
            await asyncio.sleep(rest)
            rest = min(2 * rest, LONGEST_REST)
        self._observer(ModelsReady(provider=PROVIDER))

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
        try:
            response = await self._http.get("/api/tags")
            response.raise_for_status()
            return tuple(str(model["name"]) for model in orjson.loads(response.content)["models"])
        except httpx2.HTTPStatusError as error:
            raise ProviderUnavailable(
                f"ollama answered {error.response.status_code} when asked for its models"
            ) from error
        except BROKEN as error:
            raise ProviderUnavailable(f"ollama cannot be reached: {type(error).__name__}") from error
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ProviderUnavailable("this is no list of ollama's models") from error

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
        body = {"model": model, "stream": True}
        patience = httpx2.Timeout(self._download_timeout, connect=self._http.timeout.connect)
        progress = _Progress(model, self._clock, self._observer)
        try:
            async with self._http.stream("POST", "/api/pull", json=body, timeout=patience) as response:
                async for line in response.aiter_lines():
                    progress.note(_step(line, response.status_code))
        except BROKEN as error:
            raise ProviderUnavailable(f"the download broke off: {type(error).__name__}") from error
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

    def note(self, step: Mapping[str, object]) -> None:
        self.succeeded = step.get("status") == "success"
        completed, total = step.get("completed", 0), step.get("total")
        if isinstance(completed, int) and isinstance(total, int):
            self._layers[step.get("digest")] = (completed, total)
            self._tell()

    def _tell(self) -> None:
        now = self._clock.monotonic()
        if now - self._told_at < SECONDS_BETWEEN_REPORTS:
            return
        self._told_at = now
        completed, total = map(sum, zip(*self._layers.values(), strict=True))
        self._observer(ModelDownloading(provider=PROVIDER, model=self._model, completed=completed, total=total))


def _step(line: str, status: int) -> Mapping[str, object]:
    """One line of the stream; an error inside it is raised, as is a refusal of the whole."""
    step = _mapping(line)
    if "error" in step or status >= httpx2.codes.BAD_REQUEST:
        raise ProviderUnavailable(told(str(step.get("error", f"ollama answered {status}")), ()))
    return step


def _mapping(line: str) -> Mapping[str, object]:
    try:
        step = orjson.loads(line)
    except orjson.JSONDecodeError:
        step = None
    return step if isinstance(step, dict) else {}
