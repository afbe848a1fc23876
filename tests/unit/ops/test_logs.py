import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.domain.events import Running, TaskAccepted
from ai_task_processor.ops.lines import LogObserver
from ai_task_processor.ops.logs import LONGEST_VALUE, QUIET_LIBRARIES, configure_logging
from tests.fakes.time import ManualClock


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is one for the whole process: put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in QUIET_LIBRARIES}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(capture=False)


class Sheet(io.TextIOWrapper):
    """A stream that is no terminal, and what was written to it."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())

    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def sheet() -> Sheet:
    return Sheet()


def test_elsewhere_than_on_a_terminal_lines_are_json(sheet: Sheet) -> None:
    configure_logging(stream=sheet).info("Found pending tasks", count=3)
    (line,) = sheet.lines()
    assert list(line) == ["timestamp", "level", "event", "count"]
    assert (line["level"], line["event"], line["count"]) == ("info", "Found pending tasks", 3)
    written = datetime.fromisoformat(line["timestamp"])
    assert written.tzinfo == UTC
    assert abs((datetime.now(UTC) - written).total_seconds()) < 60


def test_on_a_terminal_lines_are_for_people() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as terminal:
        configure_logging(stream=terminal).info("Found pending tasks", count=3)
        shown = os.read(leader, 4096).decode()
    os.close(leader)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "Found pending tasks" in plain
    assert "count=3" in plain
    assert not plain.startswith("{")


@pytest.mark.parametrize(("format", "start"), [("json", "{"), ("console", "2")])
def test_the_format_can_be_chosen(sheet: Sheet, format: Any, start: str) -> None:  # noqa: A002  # the parameter's name
    configure_logging(format=format, stream=sheet).info("words")
    assert sheet.text().startswith(start)


def test_below_the_level_nothing_is_written(sheet: Sheet) -> None:
    logger = configure_logging("warning", stream=sheet)
    logger.info("no")
    logger.warning("yes")
    assert [line["event"] for line in sheet.lines()] == ["yes"]


def test_the_observer_and_the_logger_fit(sheet: Sheet) -> None:
    observer = LogObserver(configure_logging("DEBUG", stream=sheet), clock=ManualClock())
    observer(Running())
    observer(TaskAccepted("t1", "c1", "text_embedding"))
    assert [(line["level"], line["event"]) for line in sheet.lines()] == [
        ("info", "All services started, running indefinitely"),
        ("debug", "Task accepted"),
    ]


# --- Libraries


def test_libraries_take_the_same_form(sheet: Sheet) -> None:
    configure_logging(stream=sheet)
    logging.getLogger("some.library").warning("pool of %d is full", 10)
    (line,) = sheet.lines()
    assert (line["level"], line["event"], line["logger"]) == ("warning", "pool of 10 is full", "some.library")


@pytest.mark.parametrize("name", ["httpx", "httpx2", "httpcore.connection", "openai", "sqlalchemy.engine", "authlib"])
def test_libraries_are_quiet_whatever_they_do_later(sheet: Sheet, name: str) -> None:
    configure_logging("DEBUG", stream=sheet)
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)
    library = logging.getLogger(name)
    library.info("POST https://auth.example/token?client_secret=%s", "hidden")
    assert not library.isEnabledFor(logging.INFO)
    assert sheet.text() == ""


def test_a_library_that_raises_its_own_level_is_still_quiet(sheet: Sheet) -> None:
    configure_logging("DEBUG", stream=sheet)
    logging.getLogger("openai").setLevel(logging.DEBUG)
    logging.getLogger("openai").debug("request with texts")
    assert sheet.text() == ""


def test_a_handler_that_was_there_before_does_not_write_twice(sheet: Sheet) -> None:
    logging.getLogger().addHandler(logging.StreamHandler(other := io.StringIO()))
    configure_logging(stream=sheet)
    configure_logging(stream=sheet)
    logging.getLogger("some.library").error("once")
    assert (len(sheet.lines()), other.getvalue()) == (1, "")


def test_an_exception_comes_with_its_traceback(sheet: Sheet) -> None:
    configure_logging(stream=sheet)
    try:
        {}["oops"]
    except KeyError:
        logging.getLogger("some.library").exception("it broke")
    (line,) = sheet.lines()
    assert line["exception"].startswith("Traceback")
    assert "KeyError: 'oops'" in line["exception"]


def test_a_record_whose_arguments_do_not_fit_is_written_as_it_is(sheet: Sheet) -> None:
    logging.getLogger().handlers.clear()  # the test runner's own would fail on it
    configure_logging(stream=sheet)
    words = "%d of %d"
    logging.getLogger("some.library").warning(words, "one")
    logging.getLogger("some.library").log(35, "a level of its own")
    assert [line["event"] for line in sheet.lines()] == ["%d of %d", "a level of its own"]


def test_warnings_are_lines_too(sheet: Sheet) -> None:
    configure_logging(stream=sheet)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    (line,) = sheet.lines()
    assert "old ways" in line["event"]


# --- Secrets and strange values


@pytest.mark.parametrize(
    "key",
    ["client_secret", "OAUTH2_CLIENT_SECRET", "access_token", "token", "Authorization", "openai_api_key", "apikey"],
)
def test_keys_of_secrets_are_redacted_at_any_depth(sheet: Sheet, key: str) -> None:
    configure_logging(stream=sheet).info("words", **{key: "hidden"}, facts={"deep": [{key: "hidden"}]})
    assert "hidden" not in sheet.text()
    assert sheet.text().count("[redacted]") == 2


def test_tokens_are_counted_not_secret(sheet: Sheet) -> None:
    configure_logging(stream=sheet).info("words", tokens=12, token_url="https://auth.example/token")
    (line,) = sheet.lines()
    assert (line["tokens"], line["token_url"]) == (12, "https://auth.example/token")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("401 for Authorization: Bearer ory_at_0123456789abcdef", "401 for Authorization: Bearer [redacted]"),
        ("sent Basic Y2xpZW50OnNlY3JldA==", "sent Basic [redacted]"),
        ("body client_secret=0123456789abcdef&scope=read", "body client_secret=[redacted]&scope=read"),
        ('{"access_token": "0123456789abcdef"}', '{"access_token": "[redacted]"}'),
        ("Incorrect API key provided: sk-proj-0123456789", "Incorrect API key provided: [redacted]"),
        ("postgresql://user:hunter2@db/state", "postgresql://user:[redacted]@db/state"),
        ("a basic plan at https://api.example:8080/x", "a basic plan at https://api.example:8080/x"),
    ],
)
def test_values_that_look_like_secrets_are_redacted(sheet: Sheet, text: str, left: str) -> None:
    logger = configure_logging(stream=sheet)
    logger.warning("words", reason=text)
    logging.getLogger("some.library").warning(text)
    first, second = sheet.lines()
    assert (first["reason"], second["event"]) == (left, left)


def test_what_strict_json_cannot_hold_is_written_all_the_same(sheet: Sheet) -> None:
    configure_logging(stream=sheet).info("words", task_id="\ud800", big=2**70, thing=object())
    (line,) = sheet.lines()
    assert (line["task_id"], line["big"]) == ("\ud800", 2**70)
    assert line["thing"].startswith("<object")


def test_long_values_are_shortened_tracebacks_are_not(sheet: Sheet) -> None:
    long = "x" * 3 * LONGEST_VALUE
    configure_logging(stream=sheet).info("words", reason=long, exception=long)
    (line,) = sheet.lines()
    assert line["reason"] == f"{'x' * LONGEST_VALUE}… (6000 characters)"
    assert line["exception"] == long


def test_no_message_can_forge_a_line_or_move_the_cursor(sheet: Sheet) -> None:
    configure_logging(format="console", stream=sheet).info("words", reason="a\nb\x1b[2Jc\rd")
    assert sheet.text().count("\n") == 1
    assert "a\\nb\\x1b[2Jc\\rd" in sheet.text()


# --- Streams that fail


def test_a_closed_stream_is_no_reason_to_stop(sheet: Sheet) -> None:
    logger = configure_logging(stream=sheet)
    sheet.close()
    logger.info("nobody listens")
    configure_logging(stream=sheet).info("nor here")


def test_a_full_disk_is_no_reason_to_stop() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        configure_logging(stream=full).info("no space")


def test_without_an_output_lines_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python does where the descriptor is closed at the start
    configure_logging().info("nobody listens")


def test_what_stands_in_for_a_terminal_gets_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        logger = configure_logging()
        monkeypatch.setattr(sys, "stdout", above_the_bar := io.StringIO())
        logger.info("words")
    os.close(leader)
    assert "words" in above_the_bar.getvalue()


def test_a_line_written_in_pieces_arrives_whole() -> None:
    reading, writing = os.pipe()
    received: list[bytes] = []

    def read_all() -> None:
        with os.fdopen(reading, "rb") as source:
            received.append(source.read())

    reader = threading.Thread(target=read_all)
    reader.start()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        configure_logging(stream=pipe).info("words", exception="x" * 1_000_000)
    reader.join()
    assert len(json.loads(received[0])["exception"]) == 1_000_000


BROKEN_PIPE = """
import sys
from ai_task_processor.ops.logs import configure_logging
logger = configure_logging(format=sys.argv[1])
sys.stdin.read()  # until the reader of our output is gone
for _ in range(3):
    logger.info("words", count=1)
print("worked on", file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("format", ["json", "console"])
def test_a_broken_pipe_neither_stops_the_process_nor_spoils_its_exit_code(format: str, unbuffered: str) -> None:  # noqa: A002  # see above
    with subprocess.Popen(  # noqa: S603  # our own interpreter with a program of our own
        [sys.executable, "-c", BROKEN_PIPE, format],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read().decode()
    assert (process.returncode, errors) == (0, "worked on\n")
