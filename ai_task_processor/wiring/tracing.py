"""Traces for those who want them: on where OpenTelemetry's standard variables name a collector."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ai_task_processor import __version__
from ai_task_processor.domain.errors import ConfigurationError
from ai_task_processor.domain.events import Warned
from ai_task_processor.domain.ports import Observer, Tracer
from ai_task_processor.settings import traces_wanted
from ai_task_processor.wiring.operation import SERVICE

NOT_INSTALLED = (
    "OTEL_EXPORTER_OTLP_ENDPOINT wants traces, but they cannot be sent: pip install 'ai-task-processor[otel]'"
)


@asynccontextmanager
async def open_tracer(observer: Observer) -> AsyncIterator[Tracer | None]:
    """Open what sends traces to a collector; None, at no cost, where nobody wants them or the extra is missing.

    Raises ConfigurationError.
    """
    async with AsyncExitStack() as stack:
        yield await _opened(stack, observer) if traces_wanted() else None


async def _opened(stack: AsyncExitStack, observer: Observer) -> Tracer | None:
    try:
        from ai_task_processor.ops.tracing import open_telemetry  # noqa: PLC0415  # an extra, and slow to import
    except ImportError:
        observer(Warned(message=NOT_INSTALLED))
        return None
    try:
        return await stack.enter_async_context(open_telemetry(SERVICE, __version__, observer))
    except ValueError as error:
        raise ConfigurationError([f"OTEL_*: {error}"]) from error
