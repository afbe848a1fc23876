"""The HTTP connection to a provider, with a span around each request."""

from collections.abc import Mapping

from ai_task_processor.domain.ports import Tracer
from ai_task_processor.domain.proxies import Proxy
from ai_task_processor.ops.traced import http_span
from ai_task_processor.providers.connection import HttpClient, Reply


class TracedHttpClient(HttpClient):
    """An HttpClient whose server learns which trace a request is part of."""

    def __init__(
        self, tracer: Tracer, *, base_url: str, timeout: float, connections: int = 100, proxy: Proxy | None = None
    ) -> None:
        super().__init__(base_url=base_url, timeout=timeout, connections=connections, proxy=proxy)
        self._tracer = tracer
        self._url = base_url.rstrip("/")

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """See :class:`~ai_task_processor.providers.connection.HttpClient`."""
        with http_span(self._tracer, "POST", self._url + path, path) as span:
            reply = await super().post(path, body, {**(headers or {}), **span.headers})
            span.answered(reply.status)
            return reply
