"""The question of a supervisor that runs a command: standard library only, bounded, and with the right exit code."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ai_task_processor.health import ask


@contextmanager
def answering(answer: bytes, *, linger: threading.Event | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives one answer, and closes only when ``linger`` is set; with what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(answer)
            if linger:
                linger.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            if linger:
                linger.set()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"status": "healthy"}', 0),
        (b'HTTP/1.0 200 OK\r\n\r\n{"status": "healthy"}', 0),
        (b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status": "unhealthy"}', 1),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", 1),
        (b"HTTP/1.1 2000 OK\r\n\r\n", 1),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 1),
        (b"HTTP/1.1\r\n\r\n", 1),
        (b"", 1),
    ],
)
def test_the_status_decides(answer: bytes, code: int) -> None:
    with answering(answer) as (url, asked):
        assert ask(url) == code
    assert asked[0].startswith(b"GET /health HTTP/1.0\r\n")


def test_the_answer_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with answering(b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status": "unhealthy"}') as (url, _):
        ask(url + "/elsewhere")
    assert capfd.readouterr().out == '{"status": "unhealthy"}\n'


def test_whoever_never_ends_the_answer_is_not_waited_for() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n", linger=threading.Event()) as (url, _):
        began = time.monotonic()
        assert ask(url, patience=0.2) == 1
        assert time.monotonic() - began < 2


def test_nobody_there_and_no_address(capfd: pytest.CaptureFixture[str]) -> None:
    assert ask("http://127.0.0.1:9/health", patience=1) == 1
    assert "http://127.0.0.1:9/health: " in capfd.readouterr().err
    for nonsense in ("127.0.0.1:8001", "https://127.0.0.1", "http://:80", "http://127.0.0.1:port/"):
        assert ask(nonsense) == 1
        assert "give an address like" in (said := capfd.readouterr().err) or "ort" in said


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1   # loopback"])  # noqa: S104  # where it listens
def test_the_address_of_the_daemon_itself(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\nfine") as (url, asked):
        monkeypatch.setenv("METRICS_HOST", host)
        monkeypatch.setenv("METRICS_PORT", url.rpartition(":")[2] + "   # as it is")
        assert ask() == 0
    assert asked


def test_as_a_program_it_imports_next_to_nothing() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\nfine") as (url, _):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-X", "importtime", "-m", "ai_task_processor.health", url],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    assert done.returncode == 0
    assert done.stdout == "fine\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "socket" in imported
    assert imported.isdisjoint({"asyncio", "email", "http.client", "logging", "pydantic", "ssl", "typer"})


def test_as_a_command() -> None:
    with answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\nnot well") as (url, _):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", "from ai_task_processor.cli import main; main()", "health", "--url", url],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    assert (done.returncode, done.stdout) == (1, "not well\n")
