import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ai_task_processor.ops.status.facts import Status
from ai_task_processor.status import Unreachable, show_status, watch_status
from tests.fakes.status import FRESH, PAUSED, TROUBLED, WELL, showing

samples = pytest.mark.parametrize(("status", "ready"), [(WELL, True), (TROUBLED, True), (PAUSED, True), (FRESH, False)])


@samples
async def test_it_tells_whether_the_daemon_is_ready(
    capsys: pytest.CaptureFixture[str], *, status: Status, ready: bool
) -> None:
    async with showing(status) as (server, _):
        assert await asyncio.to_thread(show_status, server.url, as_json=False) is ready
        assert ("✗ Not ready" in capsys.readouterr().out) is not ready


async def test_as_json_it_is_what_the_daemon_says(capsys: pytest.CaptureFixture[str]) -> None:
    async with showing(TROUBLED) as (server, _):
        await asyncio.to_thread(show_status, f"{server.url}/", as_json=True)
    body = json.loads(capsys.readouterr().out)
    assert (body["state"], body["backlog"]["parked"], len(body["minutes"])) == ("ready", 23, 60)


class Spectator:
    """Looks on for so many looks, does something between two of them, and leaves with Ctrl-C."""

    def __init__(self, looks: int) -> None:
        self.left = looks
        self.rests: list[float] = []
        self.turn = threading.Event()
        self.resume = threading.Event()

    def __call__(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        if self.left == 1:
            self.turn.set()
            assert self.resume.wait(10)


async def test_a_daemon_is_watched_until_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    spectator = Spectator(looks=3)
    async with showing(WELL) as (server, lookout), asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(watch_status, server.url, as_json=True, rest=spectator))
        await asyncio.to_thread(spectator.turn.wait, 10)
        lookout.shown = FRESH
        spectator.resume.set()
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["ready", "ready", "not_ready"]
    assert spectator.rests == [2.0] * 3


@pytest.mark.parametrize("as_json", [False, True])
async def test_a_daemon_that_goes_away_is_waited_for(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    spectator = Spectator(looks=3)
    async with asyncio.TaskGroup() as group:
        async with showing(WELL) as (server, _):
            group.create_task(asyncio.to_thread(watch_status, server.url, as_json=as_json, rest=spectator))
            await asyncio.to_thread(spectator.turn.wait, 10)
        spectator.resume.set()
    said = capsys.readouterr()
    if as_json:
        assert len(said.out.splitlines()) == 2
        assert "no daemon answers" in said.err
    else:
        assert "this is old" in said.out
        assert "At work on 64 tasks." in said.out


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404: another program, or a daemon without this route"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "is the daemon as new as this?"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"status": "ok"}', "is the daemon as new as this?"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"deep": ' + b"[" * 100_000, "is the daemon as new as this?"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no daemon answers"),
        (b"", "no daemon answers"),
    ],
)
def test_what_is_no_daemon_is_told(answer: bytes, words: str) -> None:
    with answering(answer) as url, pytest.raises(Unreachable, match=words.replace("?", r"\?")):
        show_status(url, as_json=True)


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "https://127.0.0.1", "http://", "http://127.0.0.1:port"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(Unreachable, match="give an address like"):
        show_status(url, as_json=False)
    with pytest.raises(Unreachable, match="give an address like"):
        watch_status(url, as_json=False)


def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match=r"no daemon answers at http://127\.0\.0\.1:9/status .*--url"):
        show_status("http://127.0.0.1:9", as_json=False)
