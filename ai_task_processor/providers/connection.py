"""The HTTP connection to a provider: how it is opened, and whether a failed request may have been seen."""

from collections.abc import Iterator

import aiohttp
import httpx2
from httpx_aiohttp.httpx2 import Httpx2AiohttpClient

BROKEN = (httpx2.HTTPError, aiohttp.ClientError, OSError)
"""Everything that a request can end with instead of an answer; the transport lets some errors through as they are."""

_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    httpx2.ConnectError,
    httpx2.PoolTimeout,
    ConnectionRefusedError,
)


def http_client(*, base_url: str, timeout: float, connections: int = 100) -> httpx2.AsyncClient:
    """A client over aiohttp, a third of the CPU; ``timeout`` is for the silence between two bytes, in seconds.

    To be closed by whoever opened it.
    """
    return Httpx2AiohttpClient(
        base_url=base_url,
        timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
    )


def never_sent(error: BaseException) -> bool:
    """Whether it is certain that the server saw nothing.

    The transport reports a refused connection and one that was dropped after sending alike; only the cause tells.
    """
    return any(isinstance(cause, _NEVER_CONNECTED) for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
