"""A collector of traces: takes what is sent by OTLP over HTTP, and understands it."""

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True)
class Seen:
    """A span as the collector has it."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    facts: dict[str, Any]
    links: list[tuple[str, str, dict[str, Any]]]
    failed: bool
    service: dict[str, Any]
    events: int


class Collector:
    """``async with Collector() as collector`` listens on ``collector.url``; ``spans`` are those that it took.

    With a ``status`` it refuses everything. ``headers`` are those of each request, ``raw`` are their bodies.
    """

    def __init__(self, *, status: int = 200) -> None:
        self.status = status
        self.spans: list[Seen] = []
        self.headers: list[dict[str, str]] = []
        self.raw = b""
        self._news = asyncio.Event()
        self._runner = web.AppRunner(self._app(), shutdown_timeout=0)
        self.url = ""

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    async def until(self, condition: Callable[[], Any], *, within: float = 60.0) -> None:
        async with asyncio.timeout(within):
            while not condition():
                await self._news.wait()

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.headers.append(dict(request.headers))
        if self.status == 200:
            self._understand(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        self._news.set()
        self._news = asyncio.Event()
        return web.Response(status=self.status)

    def _understand(self, body: bytes) -> None:
        self.raw += body
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _facts(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_seen(span, service) for span in of_scope.spans]


def _seen(span: Any, service: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        facts=_facts(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex(), _facts(link.attributes)) for link in span.links],
        failed=span.status.code == 2,
        service=service,
        events=len(span.events),
    )


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one) for one in attributes}


def _value(one: KeyValue) -> Any:
    value: AnyValue = one.value
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [item.string_value for item in value.array_value.values]
    return getattr(value, kind) if kind else None
