import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import ollama
import orjson
import pytest

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.events import (
    EnsuringModels,
    Event,
    ModelDownloaded,
    ModelDownloading,
    ModelsMissing,
    ModelsReady,
)
from ai_task_processor.domain.proxies import proxy_at
from ai_task_processor.providers.ollama_models import FIRST_REST, LONGEST_REST, OllamaModels, sdk_client
from tests.fakes.flow import Recorder
from tests.fakes.ollama_server import PULL, OllamaServer
from tests.fakes.provider_faults import Answer, Drop, Fault, Hang
from tests.fakes.proxy import ForwardProxy
from tests.fakes.time import LoopClock, ManualClock, virtual_time

NOMIC = "nomic-embed-text"


class HastyClock(ManualClock):
    """A second passes with each look."""

    def monotonic(self) -> float:
        self.advance(1.0)
        return super().monotonic()


class Listener(Recorder):
    """A recorder that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._told = asyncio.Event()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        self._told.set()

    async def met(self, kind: type[Event]) -> None:
        async with asyncio.timeout(5):
            while not self.of(kind):
                self._told.clear()
                await self._told.wait()


@asynccontextmanager
async def models_of(
    server: OllamaServer, *supported: str, download_timeout: float = 5.0, clock: ManualClock | None = None
) -> AsyncIterator[tuple[OllamaModels, Listener]]:
    told = Listener()
    async with sdk_client(server.url, download_timeout=5.0) as sdk:
        models = OllamaModels(
            sdk,
            supported or (NOMIC,),
            download_timeout=download_timeout,
            clock=clock or ManualClock(),
            observer=told,
        )
        yield models, told


async def first_fault(models: OllamaModels, told: Listener) -> ModelsMissing:
    """Run until the first rest."""
    task = asyncio.create_task(models.prepare())
    await told.met(ModelsMissing)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return told.of(ModelsMissing)[0]


async def test_what_is_there_is_ready_at_once() -> None:
    async with OllamaServer(models=[NOMIC]) as server, models_of(server) as (models, told):
        assert not models.has(NOMIC)
        assert not models.looked
        await models.prepare()
        assert models.has(NOMIC)
        assert models.looked
        assert server.pulls == []
    assert told.events == [EnsuringModels("ollama", (NOMIC,)), ModelsReady("ollama")]


async def test_a_look_pulls_nothing() -> None:
    async with OllamaServer(models=["bge-m3"]) as server, models_of(server, "bge-m3", NOMIC) as (models, told):
        await models.look()
        assert models.has("bge-m3")
        assert models.missing == (NOMIC,)
        assert server.pulls == []
        server.tags_faults.rule = lambda _: Answer(500)
        with pytest.raises(ProviderUnavailable):
            await models.look()
    assert told.events == []


async def test_what_is_missing_is_pulled() -> None:
    async with OllamaServer(models=["bge-m3"]) as server, models_of(server, "bge-m3", NOMIC) as (models, told):
        await models.prepare()
        assert models.missing == ()
        assert server.pulls == [NOMIC]
    assert told.events == [
        EnsuringModels("ollama", ("bge-m3", NOMIC)),
        ModelDownloading("ollama", NOMIC),
        ModelDownloaded("ollama", NOMIC),
        ModelsReady("ollama"),
    ]


async def test_progress_is_the_sum_of_the_layers() -> None:
    async with OllamaServer() as server, models_of(server, clock=HastyClock()) as (models, told):
        await models.prepare()
    progress = [(event.completed, event.total) for event in told.of(ModelDownloading)]
    assert progress == [(0, 0), (0, 300), (100, 300), (300, 300), (320, 320)]


async def test_progress_is_told_once_a_second_at_most() -> None:
    async with OllamaServer() as server, models_of(server) as (models, told):
        await models.prepare()
    assert len(told.of(ModelDownloading)) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Answer(500, {"error": "disk full"}), "disk full"),
        (Answer(502, "<html>"), "502"),
        (Answer(200, {"error": "pull model manifest: file does not exist"}), "does not exist"),
        (Answer(200, '{"status": "pulling manifest"}\n{"error": "unexpected EOF"}\n'), "unexpected EOF"),
        (Answer(200, '{"status": "pulling manifest"}\n'), "without success"),
        (Answer(200, "<html>\n\n[1]\n"), "cannot be read"),
        (Answer(200, ""), "without success"),
        (Drop(), "RemoteProtocolError"),
        (Drop(sent=10), "RemoteProtocolError"),
    ],
)
async def test_a_pull_that_fails_is_told(fault: Fault, reason: str) -> None:
    async with OllamaServer() as server, models_of(server) as (models, told):
        server.pull_faults.queue(fault)
        event = await first_fault(models, told)
        assert not models.has(NOMIC)
    assert NOMIC in event.reason
    assert reason in event.reason
    assert event.rest == FIRST_REST


async def test_a_pull_has_a_time_in_all() -> None:
    async with OllamaServer() as server, models_of(server, download_timeout=0.02) as (models, told):
        server.pull_faults.queue(Hang())
        event = await first_fault(models, told)
    assert "within 0.02 seconds" in event.reason


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Answer(500, ""), "500"),
        (Answer(200, "Ollama is running"), "cannot be read"),
        (Answer(200, {"models": None}), "cannot be read"),
        (Answer(200, "[]"), "cannot be read"),
        (Drop(), "RemoteProtocolError"),
    ],
)
async def test_a_list_that_cannot_be_had_is_told(fault: Fault, reason: str) -> None:
    async with OllamaServer(models=[NOMIC]) as server, models_of(server) as (models, told):
        server.tags_faults.rule = lambda _: fault
        event = await first_fault(models, told)
        assert not models.looked
    assert reason in event.reason


async def test_one_model_that_does_not_exist_does_not_keep_the_others_away() -> None:
    async with OllamaServer() as server, models_of(server, "no-such-model", NOMIC) as (models, told):
        event = await first_fault(models, told)
        assert models.has(NOMIC)
        assert models.missing == ("no-such-model",)
    assert "no-such-model: the download failed: pull model manifest" in event.reason


async def test_a_lost_model_is_pulled_again() -> None:
    async with OllamaServer(models=[NOMIC]) as server, models_of(server) as (models, told):
        keeping = asyncio.create_task(models.keep())
        await told.met(ModelsReady)
        server.installed.clear()
        models.lost(f"{NOMIC}:latest")
        assert not models.has(NOMIC)
        await told.met(ModelDownloaded)
        keeping.cancel()
    assert server.pulls == [NOMIC]


@virtual_time
async def test_rests_grow_and_it_never_gives_up() -> None:
    failures = 9

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/tags"
        down = len(told.of(ModelsMissing)) < failures
        return httpx.Response(
            503 if down else 200,
            content=orjson.dumps({"models": [{"name": f"{NOMIC}:latest", "model": f"{NOMIC}:latest"}]}),
        )

    told = Recorder()
    async with ollama.AsyncClient(transport=httpx.MockTransport(answer), host="http://ollama") as sdk:
        models = OllamaModels(sdk, [NOMIC], download_timeout=600, clock=LoopClock(), observer=told)
        await models.prepare()
    rests = [event.rest for event in told.of(ModelsMissing)]
    assert rests == [5, 10, 20, 40, 80, 160, LONGEST_REST, LONGEST_REST, LONGEST_REST]
    assert asyncio.get_running_loop().time() == pytest.approx(sum(rests))


def test_a_pull_as_the_fake_tells_it_ends_with_success() -> None:
    assert PULL[-1] == {"status": "success"}


# --- Through a proxy --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def models_through(address: str, *, scheme: str = "http") -> AsyncIterator[OllamaModels]:
    way = proxy_at(address, setting=f"{scheme}_proxy".upper())
    async with sdk_client(f"{scheme}://ollama.test", download_timeout=5.0, proxy=way) as sdk:
        yield OllamaModels(sdk, [NOMIC], download_timeout=5.0, clock=ManualClock(), observer=Listener(), proxy=way)


async def test_models_are_listed_and_pulled_through_a_proxy() -> None:
    async with OllamaServer() as server, ForwardProxy({"ollama.test": server.port}, user="user:hunter2") as proxy:
        async with models_through(proxy.url_for("user:hunter2")) as models:
            await models.prepare()
        assert server.pulls == [NOMIC]
    assert proxy.forwarded == ["http://ollama.test/api/tags", "http://ollama.test/api/pull"]
    assert b"hunter2" not in b"".join(proxy.passed_on)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_named(scheme: str) -> None:
    async with (
        ForwardProxy({}, user="user:hunter2") as proxy,
        models_through(proxy.url_for("user:hunter3"), scheme=scheme) as models,
    ):
        with pytest.raises(ProviderUnavailable) as caught:
            await models.look()
    words = f"the proxy {proxy.url} refuses user or password (HTTP 407): check {scheme.upper()}_PROXY"
    assert str(caught.value) == f"ollama cannot be asked for its models: {words}"


async def test_a_proxy_that_cannot_reach_the_server_is_named() -> None:
    async with ForwardProxy({}) as proxy, models_through(proxy.url, scheme="https") as models:
        with pytest.raises(ProviderUnavailable, match=r"the proxy http://.* gives no connection \(HTTP 502\)"):
            await models.look()


async def test_a_proxy_that_is_not_there_is_named() -> None:
    async with models_through("http://user:hunter2@127.0.0.1:1") as models:
        with pytest.raises(ProviderUnavailable) as caught:
            await models.look()
    assert "the proxy http://127.0.0.1:1 gives no connection (ConnectionError): check HTTP_PROXY" in str(caught.value)
