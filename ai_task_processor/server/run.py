"""Serves the task server on a socket until it is told to stop."""

import asyncio
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from typing import cast

from fastapi import FastAPI
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from hypercorn.typing import Framework

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.errors import ConfigurationError
from ai_task_processor.server.app import create_app
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.store import open_task_store

BACKLOG = 512
KEEP_ALIVE_SECONDS = 75.0  # longer than clients keep an idle connection, so that it is they who close it
STOP_SECONDS = 5.0


async def run_task_server(
    *,
    database: str,
    host: str,
    port: int,
    credentials: Credentials,
    token_seconds: int,
    shutdown: asyncio.Event,
    on_ready: Callable[[str], None],
) -> None:
    """Open the database and serve it until ``shutdown`` is set.

    ``database`` is a file, or ``:memory:``. Port 0 means any that is free; ``on_ready`` is told the base URL as soon as
    requests are answered. Raises ConfigurationError where the address cannot be used, JournalError where the
    database cannot.
    """
    clock = SystemClock()
    async with open_task_store(database, clock=clock) as store:
        app = create_app(store, credentials, token_seconds=token_seconds, clock=clock)
        await serve(app, host=host, port=port, shutdown=shutdown, on_ready=on_ready)


async def serve(
    app: FastAPI, *, host: str, port: int, shutdown: asyncio.Event, on_ready: Callable[[str], None]
) -> None:
    """Serve ``app`` until ``shutdown`` is set; requests that have begun get a few seconds to end.

    Takes no signals: they belong to whoever owns the process. Raises ConfigurationError where the address cannot be
    used.
    """
    listener = _listening(host, port)
    url = _base_url(*listener.getsockname()[:2])
    config = _config(listener.detach())
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(
            hypercorn_serve(cast("Framework", app), config, shutdown_trigger=shutdown.wait), name="task server"
        )
        on_ready(url)
        await shutdown.wait()
        await asyncio.wait({serving}, timeout=STOP_SECONDS)
        serving.cancel()  # where a client holds on to its connection, the server would wait for it forever


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            [f"The task server cannot listen on {host}, port {port}: {error.strerror}."]
        ) from error


def _base_url(host: str, port: int) -> str:
    """Where a client on this machine finds the server, also where it listens on every address."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return f"http://[{'::1' if address.is_unspecified else address}]:{port}"
    return f"http://{'127.0.0.1' if address.is_unspecified else address}:{port}"


def _config(listener: int) -> Config:
    log = logging.getLogger("hypercorn.error")
    log.setLevel(logging.WARNING)
    config = Config()
    config.bind = [f"fd://{listener}"]
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = sys.maxsize
    return config
