"""The Task API and the provider over real sockets, which reset, hang, break off and refuse before and after effect."""

import asyncio
import base64
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.chaos.offers import REFUSED
from tests.chaos.records import Patch, Records, Sending
from tests.fakes.openai_server import OpenAIServer, refusal
from tests.fakes.provider_faults import Answer
from tests.fakes.provider_faults import Fault as ProviderFault
from tests.fakes.task_api_server import CLIENT_SECRET, FakeTaskApi, Fault, Route, answer, drop, hang, truncate

API_TIMEOUT = 1.0
PROVIDER_TIMEOUT = 1.5
"""Seconds that the daemon waits for an answer."""

IN_TIME = 0.2
"""An answer that took more than this share of the timeout may have come too late, for the daemon too may have had to
wait for its turn on this machine: it counts as lost."""

LATENCIES = (0.0, 0.0, 0.01, 0.02, 0.05, 0.12)
"""Seconds that a server takes."""

QUOTING = {"statusCode": 500, "message": f"cannot serve Authorization: Bearer of {CLIENT_SECRET}"}

API_FAULTS: Mapping[str, tuple[int, Callable[[], Fault]]] = {
    "reset before": (4, drop),
    "reset after": (4, lambda: drop(effect=True)),
    "hang before": (2, hang),
    "hang after": (2, lambda: hang(effect=True)),
    "truncate after": (4, truncate),
    "500 before": (2, lambda: answer(500)),
    "500 after": (4, lambda: answer(500, QUOTING, effect=True)),
    "502 before": (2, lambda: answer(502, "<html>Bad gateway</html>")),
    "503 after": (2, lambda: answer(503, effect=True)),
    "429 before": (1, lambda: answer(429, headers={"Retry-After": "1"})),
}
"""What can happen to a request to the Task API, and how often in comparison."""

PROVIDER_FAULTS: Mapping[str, int] = {
    "reset before": 4,
    "reset after": 4,
    "hang before": 2,
    "hang after": 2,
    "truncate after": 4,
    "500 before": 4,
    "500 after": 4,
    "503 before": 2,
    "429 before": 2,
    "too few after": 4,
    "zeros after": 4,
}
"""What can happen to a request to the provider; «after» means: after its texts were charged."""


@dataclass
class Weather:
    """How much goes wrong now: the share of requests; ``faults`` counts what was done by server and kind."""

    chance: random.Random
    share: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def draw(self, server: str, kinds: Mapping[str, int], *, mildness: float = 1.0) -> str:
        """One of ``kinds`` by weight, or nothing."""
        if self.chance.random() >= self.share * mildness:
            return ""
        kind = self.chance.choices(list(kinds), list(kinds.values()))[0]
        self.faults[f"{server} {kind}"] += 1
        return kind

    async def delay(self) -> None:
        await asyncio.sleep(self.chance.choice(LATENCIES) * self.chance.random())


class Moments:
    """What the servers are doing, for whoever wants to kill just then."""

    def __init__(self) -> None:
        self.running = Counter[str]()
        self._happened: dict[str, asyncio.Event] = {}

    def tell(self, what: str) -> None:
        self._happened.pop(what, asyncio.Event()).set()

    async def wait_for(self, what: str) -> None:
        await self._happened.setdefault(what, asyncio.Event()).wait()


class ChaosTaskApi(FakeTaskApi):
    """The Task API of the tests in bad weather."""

    def __init__(self, weather: Weather, records: Records, moments: Moments) -> None:
        super().__init__()
        self._weather = weather
        self._records = records
        self._moments = moments

    async def _answered(self, route: Route, task_id: str | None, request: web.Request, work: Any) -> web.StreamResponse:
        arrived = time.monotonic()
        patch = self._patch_of(arrived, task_id)
        self._moments.tell(route)
        self._moments.running[route] += 1
        try:
            await self._weather.delay()
            fault = self._weather.draw(route, WEIGHTS[route], mildness=MILDNESS[route])
            if fault:
                self.script(route, API_FAULTS[fault][1](), task_id=task_id)
            response = await super()._answered(route, task_id, request, work)
        except ConnectionError:  # nobody is there any more
            return web.Response()
        finally:
            self._moments.running[route] -= 1
        if patch is not None:
            patch.fault = fault
            self._acknowledge(patch, response, request)
        return response

    def _patch_of(self, arrived: float, task_id: str | None) -> Patch | None:
        if task_id is None:
            return None
        patch = Patch(arrived, task_id, self.requests[-1].body)
        self._records.patches.append(patch)
        return patch

    def _acknowledge(self, patch: Patch, response: web.StreamResponse, request: web.Request) -> None:
        now = time.monotonic()
        there = request.transport is not None and not request.transport.is_closing()
        if there and not patch.fault and response.status == 200 and now - patch.at < IN_TIME * API_TIMEOUT:
            patch.acknowledged_at = now


WEIGHTS: Mapping[str, Mapping[str, int]] = {
    "token": {kind: weight for kind, (weight, _) in API_FAULTS.items() if not kind.startswith("429")},
    "fetch": {kind: weight for kind, (weight, _) in API_FAULTS.items()},
    "patch": {kind: weight for kind, (weight, _) in API_FAULTS.items()},
}
MILDNESS = {"token": 0.3, "fetch": 0.7, "patch": 1.0}


class ChaosProvider(OpenAIServer):
    """The OpenAI server of the tests in bad weather; it charges for what it has embedded, delivered or not."""

    def __init__(self, weather: Weather, records: Records, moments: Moments) -> None:
        super().__init__(reverses=True)
        self.faults.rule = _refuses
        self._weather = weather
        self._records = records
        self._moments = moments
        self._released = asyncio.Event()

    def release(self) -> None:
        """End the hanging of all requests that hang now."""
        self._released.set()
        self._released = asyncio.Event()

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        sending = self._arrived(body)
        self._moments.running["embed"] += 1
        try:
            await self._weather.delay()
            sending.fault = fault = self._weather.draw("embed", PROVIDER_FAULTS)
            if fault.endswith("before"):
                return await self._spoilt(fault, request, b"")
            right = await super()._embeddings(request)
            assert isinstance(right, web.Response)
            assert isinstance(right.body, bytes)
            if right.status == 200:
                sending.charged_at = time.monotonic()
            if fault and sending.charged_at:
                return await self._spoilt(fault, request, right.body)
            return await self._delivered(sending, right, request)
        finally:
            self._moments.running["embed"] -= 1

    def _arrived(self, body: dict[str, Any]) -> Sending:
        payments = tuple((body["model"], body.get("dimensions"), text) for text in body["input"])
        sending = Sending(time.monotonic(), payments)
        self._records.sendings.append(sending)
        self._moments.tell("embed")
        return sending

    async def _delivered(self, sending: Sending, right: web.Response, request: web.Request) -> web.StreamResponse:
        with contextlib.suppress(ConnectionError):  # nobody is there any more
            await right.prepare(request)
            await right.write_eof()
        now = time.monotonic()
        there = request.transport is not None and not request.transport.is_closing()
        if there and now - sending.at < IN_TIME * PROVIDER_TIMEOUT:
            sending.delivered_at = now
        self._moments.tell("answered")
        return right

    async def _spoilt(self, fault: str, request: web.Request, right: bytes) -> web.StreamResponse:
        match fault.split(maxsplit=1)[0]:
            case "hang":
                await self._released.wait()
            case "truncate":
                return await _half(right, request)
            case "500":
                return web.json_response({"error": {"message": "The server had an error."}}, status=500)
            case "503":
                return web.json_response({"error": {"message": "Overloaded."}}, status=503, headers=SOON)
            case "429":
                return web.json_response({"error": {"message": "Rate limit reached."}}, status=429, headers=SOON)
            case "too" | "zeros":
                return web.json_response(_unbelievable(fault, json.loads(right)))
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


SOON = {"retry-after-ms": "200"}


def _refuses(body: dict[str, Any]) -> ProviderFault | None:
    """Refuse a word as a content filter does, in words that repeat the text."""
    bad = next((text for text in body["input"] if REFUSED in text), None)
    if bad is None:
        return None
    error: Answer = refusal(400, f"The input '{bad}' was refused.", code="content_filter")
    return error


def _unbelievable(fault: str, answer: dict[str, Any]) -> dict[str, Any]:
    data = answer["data"]
    if fault.startswith("zeros"):
        return {**answer, "data": [{**item, "embedding": _zeros_like(item["embedding"])} for item in data]}
    return {**answer, "data": data[1:]}


def _zeros_like(embedding: str) -> str:
    return base64.b64encode(bytes(len(base64.b64decode(embedding)))).decode()


async def _half(right: bytes, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(right)), "Content-Type": "application/json"})
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write(right[: len(right) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
