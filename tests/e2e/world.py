"""A NestJS API behind a real OAuth2 server, and daemons that work for it: each a process of its own."""

import base64
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import aiohttp

from tests.fakes.daemon import MODEL, Process, right_vector, started
from tests.fakes.nest import RIG, TOKEN_SERVER, node_process

CLIENT_ID = "ai-task-processor"
CLIENT_SECRET = "known to two: 100% + only"
AUDIENCE = "documents"
IN_BODY = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
SHIFTED_CLOCK = "./test/rig/shifted-clock.mjs"
PAGE = 1_000


@dataclass
class Daemon:
    """A running daemon; ``metrics`` are its last."""

    process: Process
    metrics: str = ""

    @property
    def text(self) -> str:
        """All that it has said."""
        return self.process.text

    async def stop(self) -> None:
        """Ask it to stop, as a restart does, and wait until it has."""
        _, self.metrics = await self.process.get("/metrics")
        self.process.send(signal.SIGTERM)
        assert await self.process.ended() == 0, self.text


@dataclass
class World:
    """What runs, and how a test speaks to it."""

    folder: Path
    tokens: Process
    api: Process
    token_url: str
    api_url: str
    session: aiohttp.ClientSession
    in_body: Mapping[str, str] | None
    daemons: list[Daemon] = field(default_factory=list)
    requests: int = 0

    async def create(self, texts: Sequence[str]) -> None:
        """Create a document, and so a task, of each text."""
        await self._asked("POST", "/documents", json={"texts": list(texts), "model": MODEL})

    async def documents(self) -> list[dict[str, Any]]:
        """Every document with what was written to it."""
        found: list[dict[str, Any]] = []
        while page := await self._asked("GET", f"/documents?after={len(found)}&limit={PAGE}"):
            found += page
        return found

    async def written(self, count: int) -> None:
        """Wait until so many documents, a multiple of 100, have what came of their tasks."""
        try:
            await self.api.says("progress", documents=count)
        except AssertionError as error:
            said = [daemon.text[-3_000:] for daemon in self.daemons]
            raise AssertionError("\n".join([*said, self.tokens.text[-1_000:], str(error)])) from error

    async def restart_api(self) -> None:
        """Replace its processes one after the other, each before the next."""
        await self._done(signal.SIGHUP, "restarted")

    async def kill_api_process(self) -> None:
        """Kill one of its processes while it works, and start another."""
        await self._done(signal.SIGUSR2, "killed")

    async def rotate_key(self) -> None:
        """Sign with a new key; the old one is worth nothing any more."""
        before = len(self.tokens.logged("key rotated"))
        self.tokens.send(signal.SIGHUP)
        await self.tokens.until(lambda: len(self.tokens.logged("key rotated")) > before)

    async def revoke_token(self) -> None:
        """Revoke the last opaque token that was given."""
        before = self.count("token revoked")
        self.tokens.send(signal.SIGUSR2)
        await self.tokens.until(lambda: self.count("token revoked") > before)

    def count(self, event: str) -> int:
        """How often the token server has said so."""
        return len(self.tokens.logged(event))

    def faults(self) -> Counter[str]:
        """How often each thing went wrong."""
        return Counter(line["name"] for line in self.api.logged("fault"))

    @asynccontextmanager
    async def daemon(self, name: str, **settings: object) -> AsyncIterator[Daemon]:
        """Run a daemon with a state of its own; the same one again for the same name."""
        environment = {
            "API_BASE_URL": self.api_url,
            "OAUTH2_TOKEN_URL": self.token_url,
            "OAUTH2_CLIENT_ID": CLIENT_ID,
            "OAUTH2_CLIENT_SECRET": CLIENT_SECRET,
            "OAUTH2_AUDIENCE": AUDIENCE,
            "STATE_URL": f"sqlite:///{self.folder / name}.db",
            "PROCESSING_MODE": "mock",
            "POLLING_INTERVAL_SECONDS": 0.5,
            "REQUEST_TIMEOUT": 5,
            "CIRCUIT_BREAKER_RECOVERY_SECONDS": 1,
            "METRICS_PORT": 0,
            "LOG_FORMAT": "json",
            **settings,
        }
        env = {name: str(value) for name, value in environment.items()}
        async with started("run", folder=self.folder, env=env) as process:
            self.daemons.append(Daemon(process))
            await process.url()
            yield self.daemons[-1]

    async def _done(self, number: signal.Signals, word: str) -> None:
        before = len(self.api.logged(word))
        self.api.send(number)
        await self.api.until(lambda: len(self.api.logged(word)) > before)

    async def _asked(self, method: str, path: str, **body: Any) -> Any:
        """An answer of the application to its user, whose token is new each time."""
        self.requests += 1
        form = {"grant_type": "client_credentials", "scope": "read write", **(self.in_body or {})}
        headers = {} if self.in_body else {"Authorization": basic()}
        async with self.session.post(self.token_url, data=form, headers=headers) as answer:
            bearer = {"Authorization": f"Bearer {(await answer.json())['access_token']}"}
        async with self.session.request(method, self.api_url + path, headers=bearer, **body) as answer:
            assert answer.ok, (answer.status, await answer.text())
            return await answer.json()


@asynccontextmanager
async def world(
    folder: Path,
    *,
    tokens: Mapping[str, object],
    api: Mapping[str, object],
    opaque: bool = False,
    clock: bool = False,
) -> AsyncIterator[World]:
    """Start the token server and the API with these additions to their environments.

    ``opaque``: tokens are verified by introspection. ``clock``: that of the token server is shifted.
    """
    async with AsyncExitStack() as stack:
        given = {"CLIENT_ID": CLIENT_ID, "CLIENT_SECRET": CLIENT_SECRET, "AUDIENCE": AUDIENCE, **tokens}
        options = ("--import", SHIFTED_CLOCK) if clock else ()
        server = await stack.enter_async_context(node_process(TOKEN_SERVER, *options, **given))
        listening = await server.says("listening")
        settings = {"TOKEN_ISSUER": listening["issuer"], "TOKEN_AUDIENCE": AUDIENCE, **api}
        if opaque:
            settings |= introspection(listening["issuer"])
        rig = await stack.enter_async_context(node_process(RIG, **settings))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await rig.says("all listening")
        url = (await rig.says("listening"))["url"]
        in_body = tokens.get("AUTH_METHOD") == "client_secret_post"
        yield World(folder, server, rig, listening["token_url"], url, session, IN_BODY if in_body else None)


def introspection(issuer: str) -> dict[str, object]:
    """What the API must be told to ask the token server about each token, at most every so many seconds."""
    return {
        "TOKEN_INTROSPECTION_URL": f"{issuer}/token/introspection",
        "TOKEN_INTROSPECTION_AUTHORIZATION": basic(),
        "TOKEN_INTROSPECTION_CACHE_SECONDS": 0.1,
    }


def basic() -> str:
    """The header by which the client proves itself."""
    pair = f"{quote_plus(CLIENT_ID)}:{quote_plus(CLIENT_SECRET)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def not_right(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that have not exactly the vector of their text."""
    return [one for one in documents if one["embedding"] is None or not right_vector(one["embedding"], one["text"])]


def secrets_in(said: str, texts: Sequence[str]) -> list[str]:
    """What must never be said: the secret, tokens, texts."""
    return [secret for secret in (CLIENT_SECRET, "eyJ", *texts) if secret in said]
