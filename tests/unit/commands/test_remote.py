import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ai_task_processor.remote import NotDone, ask
from ai_task_processor.settings import Access


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[Access, list[bytes]]]:
    """A server that gives one answer, and what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Access(f"http://127.0.0.1:{listener.getsockname()[1]}", "s3cret"), asked
        finally:
            thread.join()


def test_asks_with_the_secret_and_answers_how_the_daemon_is() -> None:
    with answering(b'HTTP/1.1 202 Accepted\r\n\r\n{"status":"paused"}') as (access, asked):
        assert ask("pause", access) == "paused"
    assert asked[0].startswith(b"POST /pause HTTP/1.1\r\n")
    assert b"Authorization: Bearer s3cret\r\n" in asked[0]
    assert "s3cret" not in repr(access)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "answered 401: it does not accept this POLL_TOKEN"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404: it has no such route; it was started without POLL_TOKEN"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", "answered 500: its log may say why"),
        (b"HTTP/1.1 202 Accepted\r\n\r\n<html>", "an answer that is none of this program"),
        (b"HTTP/1.1 202 Accepted\r\n\r\n[]", "an answer that is none of this program"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_what_went_wrong_is_told_without_the_secret(answer: bytes, words: str) -> None:
    with answering(answer) as (access, _), pytest.raises(NotDone) as caught:
        ask("pause", access)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)
