"""Shows in a terminal how the running daemon is: the facts of its status page."""

import http.client
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import orjson
from msgspec import DecodeError
from msgspec.json import Decoder
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ai_task_processor.domain.errors import TaskProcessorError
from ai_task_processor.ops.status.facts import Status
from ai_task_processor.ops.status.terminal import rendered

PATIENCE = 5.0
"""Seconds until an answer counts as none."""

EVERY = 2.0
"""Seconds between two looks while somebody watches."""

LONGEST_ANSWER = 1_048_576

_STATUS = Decoder(Status)


class Unreachable(TaskProcessorError):
    """No daemon answers; the message says where it was looked for and what to do."""


def show_status(url: str, *, as_json: bool) -> bool:
    """Print how the daemon at ``url`` is, and answer whether it is ready; raises Unreachable."""
    body = _fetched(url)
    status = _status(url, body)
    if as_json:
        _print_json(body, orjson.OPT_INDENT_2)
    else:
        Console().print(rendered(status))
    return status.alive and status.is_ready


def watch_status(url: str, *, as_json: bool, rest: Callable[[float], object] = time.sleep) -> None:
    """Print it again every other second until Ctrl-C; as JSON, one line each time.

    A daemon that goes away is waited for. Raises Unreachable where there is none at the beginning.
    """
    body = _fetched(url)
    _status(url, body)
    with suppress(KeyboardInterrupt):
        if as_json:
            _watch(url, body, _print_line, rest)
        else:
            console = Console()
            with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
                _watch(url, body, lambda seen, note: live.update(_framed(url, seen, note), refresh=True), rest)


def _watch(url: str, body: bytes, show: Callable[[bytes, str], None], rest: Callable[[float], object]) -> None:
    note = ""
    while True:
        show(body, note)
        rest(EVERY)
        try:
            body, note = _fetched(url), ""
        except Unreachable as error:
            note = str(error)


def _print_line(body: bytes, note: str) -> None:
    """What is old is not repeated as if it were new."""
    if note:
        sys.stderr.write(f"{note}\n")
    else:
        _print_json(body)


def _framed(url: str, body: bytes, note: str) -> Group:
    below = Text(f"\n{note}; this is old\n", style="bold red") if note else Text("")
    return Group(below, rendered(_status(url, body)), Text("\nCtrl-C ends", style="dim"))


def _print_json(body: bytes, option: int = 0) -> None:
    sys.stdout.write(orjson.dumps(orjson.loads(body), option=option).decode() + "\n")
    sys.stdout.flush()


# --- Asking -----------------------------------------------------------------------------------------------------------


def _fetched(url: str) -> bytes:
    asked = f"{url.rstrip('/')}/status"
    try:
        status, body = _got(asked)
    except ValueError as error:
        raise Unreachable(f"{asked}: give an address like http://127.0.0.1:8001") from error
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        mend = "start it with `ai-task-processor run`, or give its METRICS_HOST and METRICS_PORT, or --url"
        raise Unreachable(f"no daemon answers at {asked} ({why}): {mend}") from error
    if status != http.client.OK:
        raise Unreachable(f"{asked} answered {status}: another program, or a daemon without this route")
    return body


def _got(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST_ANSWER)
    finally:
        connection.close()


def _status(url: str, body: bytes) -> Status:
    try:
        return _STATUS.decode(body)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreachable(
            f"{url} gave an answer that is none of this version: is the daemon as new as this?"
        ) from error
