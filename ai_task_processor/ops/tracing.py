"""Spans as OpenTelemetry has them, sent to a collector by OTLP over HTTP; needs the extra ``otel``.

Its SDK reads the standard variables itself: OTEL_EXPORTER_OTLP_*, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_PROPAGATORS and the limits of spans.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cached_property

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

from ai_task_processor.domain.events import TracesLost
from ai_task_processor.domain.ports import Fact, Link, Observer, Span, SpanRef

FAREWELL_SECONDS = 3.0
"""How long the end waits for a collector to take the last spans."""

_UNKNOWN = "unknown_service"
"""What the SDK calls a program that nobody has given a name."""


@asynccontextmanager
async def open_telemetry(service: str, version: str, observer: Observer) -> AsyncIterator["OpenTelemetry"]:
    """Record spans until the end, and have the last of them sent.

    ``service`` is the name where the standard variables give none. Spans that no collector takes are dropped, and
    ``observer`` is told. Raises ValueError where a standard variable cannot be used.
    """
    provider = TracerProvider(resource=_resource(service, version), shutdown_on_exit=False)
    exporter = _Told(OTLPSpanExporter(), _teller(asyncio.get_running_loop(), observer))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _listen(exporter)
    try:
        yield OpenTelemetry(provider.get_tracer("ai_task_processor", version))
    finally:
        await _ended(provider.shutdown)


class OpenTelemetry:
    """A :class:`~ai_task_processor.domain.ports.Tracer` over OpenTelemetry's."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def span(
        self,
        name: str,
        facts: Mapping[str, Fact],
        *,
        to_server: bool = False,
        parent: SpanRef | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        """See :class:`~ai_task_processor.domain.ports.Tracer`.

        Of an exception only its class is recorded: its words might quote what nobody else is to read.
        """
        with self._tracer.start_as_current_span(
            name,
            context=_context_of(parent),
            kind=SpanKind.CLIENT if to_server else SpanKind.INTERNAL,
            attributes=facts,
            links=[trace.Link(_known(link.to), link.facts) for link in links],
            record_exception=False,
            set_status_on_exception=False,
        ) as started:
            span = _Span(started)
            try:
                yield span
            except BaseException as error:
                span.fail(type(error).__name__)
                raise


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def ref(self) -> SpanRef:
        return self._span.get_span_context()

    @cached_property
    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=trace.set_span_in_context(self._span))
        return carrier

    def note(self, facts: Mapping[str, Fact]) -> None:
        self._span.set_attributes(facts)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


def _context_of(parent: SpanRef | None) -> Context | None:
    return trace.set_span_in_context(NonRecordingSpan(_known(parent))) if parent is not None else None


def _known(ref: SpanRef | None) -> SpanContext:
    return ref if isinstance(ref, SpanContext) else INVALID_SPAN_CONTEXT


def _resource(service: str, version: str) -> Resource:
    found = Resource.create({SERVICE_VERSION: version})
    if str(found.attributes.get(SERVICE_NAME, _UNKNOWN)).startswith(_UNKNOWN):
        found = found.merge(Resource({SERVICE_NAME: service}))
    return found


class _Told(SpanExporter, logging.Handler):
    """Tells of spans that were not taken, with what the SDK says of it; a thread of the SDK calls its methods."""

    def __init__(self, exporter: SpanExporter, tell: Callable[[TracesLost], None]) -> None:
        logging.Handler.__init__(self)
        self._exporter = exporter
        self._tell = tell
        self._reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        self._reason = record.getMessage()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._reason = ""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  # whatever an address or a certificate that is none leads to
            result, self._reason = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"
        if result is not SpanExportResult.SUCCESS:
            self._tell(TracesLost(spans=len(spans), reason=self._reason))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _listen(told: _Told) -> None:
    """From now on the SDK says to us, and not every few seconds to the log, why spans are not taken."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [told]


def _teller(loop: asyncio.AbstractEventLoop, observer: Observer) -> Callable[[TracesLost], None]:
    def tell(event: TracesLost) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(observer, event)

    return tell


async def _ended(shutdown: Callable[[], None]) -> None:
    """Wait for a while; a thread that still waits for a collector then ends with the process."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        shutdown()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="last spans", daemon=True).start()
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await done.wait()
    except TimeoutError:
        return
