"""The life of the task server's process."""

import asyncio
import signal
from pathlib import Path

from ai_task_processor.domain.errors import ConfigurationError
from ai_task_processor.server.credentials import FILE_NAME, Credentials, load_or_create_credentials
from ai_task_processor.server.run import run_task_server


def serve_tasks(
    *, host: str, port: int, database: Path, token_seconds: int, client_id: str | None, client_secret: str | None
) -> None:
    """Run the task server until SIGTERM or SIGINT; raises ConfigurationError or JournalError."""
    credentials = _credentials(database, client_id, client_secret)
    asyncio.run(_serve(host, port, database, token_seconds, credentials))


def _credentials(database: Path, client_id: str | None, client_secret: str | None) -> Credentials:
    """Those given, or those kept beside the database; the latter are shown once, when they are made."""
    if client_id and client_secret:
        return Credentials(client_id, client_secret)
    if client_id or client_secret:
        raise ConfigurationError(["TASK_SERVER_CLIENT_ID and TASK_SERVER_CLIENT_SECRET: give both or neither"])
    known = (database.parent / FILE_NAME).exists()
    credentials = load_or_create_credentials(database.parent)
    _tell(f"Client id: {credentials.client_id}")
    _tell(f"Client secret: {'in ' + str(database.parent / FILE_NAME) if known else credentials.client_secret}")
    return credentials


async def _serve(host: str, port: int, database: Path, token_seconds: int, credentials: Credentials) -> None:
    shutdown = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shutdown.set)
    await run_task_server(
        database=str(database),
        host=host,
        port=port,
        credentials=credentials,
        token_seconds=token_seconds,
        shutdown=shutdown,
        on_ready=lambda url: _tell(f"The task server answers at {url}"),
    )


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # for the person who started it
