"""Where log lines go, and what they look like."""

import functools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]

QUIET_LIBRARIES = (
    "aiohttp", "aiosqlite", "asyncio", "authlib", "httpcore", "httpx", "httpx2", "httpcore2", "hypercorn",
    "hypercorn.access", "hypercorn.error", "ollama", "openai", "sqlalchemy", "wordllama",
)  # fmt: skip
"""Loggers held at WARNING whatever the level: below it they tell whole URLs, headers and texts."""

LONGEST_VALUE = 2_000
"""Characters of one field that are written; tracebacks are written whole."""

_SECRET_KEY = re.compile(r"secret|passw|token(?!s|_url)|authorization|api_?key|credential|cookie", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(?P<before>\bbearer\s+|\bbasic\s+|(?:client_secret|access_token|refresh_token|api_key|password)[\"']?\s*[=:]\s*[\"']?)"
    r"[\w.~+/=-]{12,}"
    r"|(?P<scheme>\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@"
    r"|\bsk-[\w-]{8,}",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_REDACTED = "[redacted]"


def configure_logging(
    level: str = "INFO",
    format: LogFormat = "auto",  # noqa: A002  # the word of the setting, and no shorter one is as clear
    stream: TextIO | None = None,
) -> FilteringBoundLogger:
    """Set up logging for the process and answer the logger to give to observers.

    ``level`` is a standard level's name in any case. ``format`` ``auto`` means pretty lines on a terminal and JSON
    elsewhere. ``stream`` None means standard output. Lines of libraries take the same form, from WARNING up, and a
    library that calls ``logging.basicConfig`` later changes nothing. Lines that cannot be written are dropped.
    May be called again, with effect on the libraries' lines and on the logger that it answers then.
    """
    stream = sys.stdout if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    logger = cast(
        "FilteringBoundLogger",
        structlog.wrap_logger(
            _Output(stream),
            processors=_processors(stream, format),
            wrapper_class=structlog.make_filtering_bound_logger(threshold),
        ).bind(),
    )
    _adopt_libraries(logger, max(threshold, logging.WARNING))
    return logger


# --- The form of a line -----------------------------------------------------------------------------------------------


def _processors(stream: TextIO | None, format: LogFormat) -> list[Processor]:  # noqa: A002  # as in configure_logging
    terminal = _is_terminal(stream)
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _clean,
    ]
    if format == "json" or (format == "auto" and not terminal):
        return [*common, structlog.processors.JSONRenderer(serializer=_serialize)]
    renderer = structlog.dev.ConsoleRenderer(
        colors=terminal and "NO_COLOR" not in os.environ,
        exception_formatter=structlog.dev.plain_traceback,  # the pretty one shows local variables: texts and secrets
        sort_keys=False,
    )
    return [*common, _printable, renderer]


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the words first, shorten what is long and take out what looks like a secret.

    A second line of defence: nobody logs a secret on purpose.
    """
    first = {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event")}
    return first | {key: _cleaned(key, value) for key, value in event.items()} | {"event": scrubbed(first["event"])}


def _cleaned(key: str, value: object) -> object:
    if _SECRET_KEY.search(key):
        return _REDACTED
    if isinstance(value, str):
        return scrubbed(value if key == "exception" else _shortened(value))
    if isinstance(value, Mapping):
        return {str(inner): _cleaned(str(inner), held) for inner, held in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned("", held) for held in value]
    return value


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text)} characters)"


def scrubbed(text: object) -> str:
    """``text`` without what looks like a secret."""
    return _SECRET_VALUE.sub(_without_secret, str(text))


def _without_secret(found: re.Match[str]) -> str:
    if found["scheme"]:
        return f"{found['scheme']}:{_REDACTED}@"
    return f"{found['before'] or ''}{_REDACTED}"


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters, so that no server's message can move the cursor or forge a line."""
    return {key: value if key == "exception" else _escaped(value) for key, value in event.items()}


def _escaped(value: object) -> object:
    if not isinstance(value, str):
        return value
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)


def _serialize(event: EventDict, default: Callable[[object], object]) -> bytes:
    try:
        return orjson.dumps(event, default=default)
    except TypeError:  # what strict JSON cannot hold: a lone surrogate, a number beyond 64 bits
        return json.dumps(event, default=default).encode()


# --- Writing it -------------------------------------------------------------------------------------------------------


class _Output:
    """Writes lines for as long as somebody takes them; that nobody does is no reason to stop working."""

    def __init__(self, stream: TextIO | None) -> None:
        self._write = _writer(stream)

    def msg(self, line: str | bytes) -> None:
        with suppress(OSError, ValueError):  # a broken pipe, a full disk; a closed stream
            self._write((line if isinstance(line, bytes) else line.encode(errors="backslashreplace")) + b"\n")

    debug = info = warning = error = critical = msg


def _writer(stream: TextIO | None) -> Callable[[bytes], None]:
    if stream is None or stream.closed:
        return _discard
    if _is_terminal(stream) or not hasattr(stream, "buffer"):
        return functools.partial(_write_text, _present(stream))
    # Past the buffer: what a broken pipe leaves in there would fail once more, and loudly, when the process exits.
    return functools.partial(_write_bytes, getattr(stream.buffer, "raw", stream.buffer).write)


def _discard(_line: bytes) -> None:
    """Nobody listens."""


def _present(stream: TextIO) -> Callable[[], TextIO]:
    """The stream, or what stands in for it at the moment: a progress bar that keeps itself below other lines."""
    for name in ("stdout", "stderr"):
        if stream is getattr(sys, name):
            return functools.partial(getattr, sys, name)
    return lambda: stream


def _write_text(stream: Callable[[], TextIO], line: bytes) -> None:
    target = stream()
    target.write(line.decode())
    target.flush()


def _write_bytes(write: Callable[[bytes], int | None], line: bytes) -> None:
    while line:
        line = line[write(line) or len(line) :]


# --- Libraries --------------------------------------------------------------------------------------------------------


def _adopt_libraries(logger: FilteringBoundLogger, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if type(handler) not in (_Adopter, logging.StreamHandler)]
    root.addHandler(_Adopter(logger, level))
    root.setLevel(level)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)


class _Adopter(logging.Handler):
    """Takes what libraries say through the standard library; its presence makes ``basicConfig`` do nothing."""

    def __init__(self, logger: FilteringBoundLogger, level: int) -> None:
        super().__init__(level)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        facts = {"exc_info": record.exc_info} if record.exc_info else {}
        self._logger.log(level, _message(record), logger=record.name, **facts)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage().strip()
    except (TypeError, ValueError, KeyError):  # a library's arguments that do not fit its own words
        return str(record.msg)
