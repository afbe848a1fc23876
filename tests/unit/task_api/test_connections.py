"""What a server may do on a connection, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ai_task_processor.task_api.connections import Connections
from ai_task_processor.task_api.requests import NoAnswer, Request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OTHER = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nother"


class Server:
    """Answers with what is in ``script``, one after the other; empty: never; CLOSE at the end closes the connection."""

    def __init__(self, *script: bytes) -> None:
        self.script = list(script)
        self.connections = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.asked = asyncio.Event()
        self.url = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                self.bodies.append(await reader.readexactly(int(length.split(b":")[1])))
                self.asked.set()
                said, closes, _ = self.script.pop(0).partition(CLOSE)
                writer.write(said)
                if closes:
                    return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


CLOSE = b"<close>"


@asynccontextmanager
async def listening(*script: bytes) -> AsyncIterator[Server]:
    server = Server(*script)
    async with await asyncio.start_server(server.talk, "127.0.0.1", 0) as socket:
        server.url = f"http://127.0.0.1:{socket.sockets[0].getsockname()[1]}"
        yield server


@asynccontextmanager
async def open_connections(*, most: int = 2, idle: float = 60.0) -> AsyncIterator[Connections]:
    connections = Connections(most=most, trusted=None, idle=idle)
    yield connections
    connections.close()


def request(server: Server, **headers: str) -> Request:
    return Request("PATCH", f"{server.url}/a?b=c", headers, b'{"x":1}', most=1_000)


async def test_what_is_sent() -> None:
    async with listening(OK) as server, open_connections() as connections:
        await connections.send(request(server, **{"X-Mark": "1"}))
        (head,) = server.heads
        host = server.url.removeprefix("http://")
        assert head.decode() == f"PATCH /a?b=c HTTP/1.1\r\nHost: {host}\r\nX-Mark: 1\r\nContent-Length: 7\r\n\r\n"
        assert server.bodies == [b'{"x":1}']


async def test_a_connection_is_used_again() -> None:
    async with listening(OK, OTHER, OK) as server, open_connections() as connections:
        replies = [await connections.send(request(server)) for _ in range(3)]
        assert [(reply.status, reply.body) for reply in replies] == [(200, b"ok"), (201, b"other"), (200, b"ok")]
        assert server.connections == 1


async def test_many_at_once_share_a_few_connections() -> None:
    async with listening(*[OK] * 20) as server, open_connections(most=3) as connections:
        replies = await asyncio.gather(*(connections.send(request(server)) for _ in range(20)))
        assert {reply.status for reply in replies} == {200}
        assert server.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok" + CLOSE,
        b"HTTP/1.0 200 OK\r\n\r\nok" + CLOSE,
        OK + b"surplus",
        OK + OTHER,
    ],
)
async def test_a_connection_that_cannot_be_used_again_is_not(answer: bytes) -> None:
    async with listening(answer, OTHER) as server, open_connections() as connections:
        first = await connections.send(request(server))
        assert (first.status, first.body, first.incomplete) == (200, b"ok", "")
        assert (await connections.send(request(server))).body == b"other"
        assert server.connections == 2


async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again() -> None:
    async with listening(OK + CLOSE, OTHER) as server, open_connections() as connections:
        await connections.send(request(server))
        await asyncio.sleep(0.01)  # until the end has come
        assert (await connections.send(request(server))).body == b"other"


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    async with listening(OK, OK) as server, open_connections(idle=0) as connections:
        await connections.send(request(server))
        await connections.send(request(server))
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nRetry-After: 9\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK,
    ],
)
async def test_ways_to_say_the_same(answer: bytes) -> None:
    async with listening(answer, OTHER) as server, open_connections() as connections:
        reply = await connections.send(request(server))
        assert (reply.status, reply.body, reply.incomplete, "retry-after" in reply.headers) == (200, b"ok", "", False)
        assert (await connections.send(request(server))).status == 201
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-Much: more\r\n" * 6_000,
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3_000,
    ],
)
async def test_a_head_without_an_end_is_not_waited_for(answer: bytes) -> None:
    async with listening(answer, OK) as server, open_connections() as connections:
        with pytest.raises(NoAnswer, match="does not end"):
            await connections.send(request(server))
        assert (await connections.send(request(server))).status == 200


async def test_an_answer_without_a_body() -> None:
    async with listening(b"HTTP/1.1 204 No Content\r\n\r\n", OK) as server, open_connections() as connections:
        assert (await connections.send(request(server))).status == 204
        assert (await connections.send(request(server))).status == 200
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok" + CLOSE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n" + CLOSE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
)
async def test_a_body_that_breaks_off_leaves_the_status(answer: bytes) -> None:
    async with listening(answer) as server, open_connections() as connections:
        reply = await connections.send(request(server))
        assert (reply.status, reply.body) == (200, b"")
        assert reply.incomplete.startswith("broke off")


@pytest.mark.parametrize("answer", [CLOSE, b"HTTP/1.1 200" + CLOSE, b"SSH-2.0-OpenSSH\r\n\r\n", b"\0" * 64])
async def test_nothing_that_is_an_answer(answer: bytes) -> None:
    async with listening(answer, OK) as server, open_connections() as connections:
        with pytest.raises(NoAnswer):
            await connections.send(request(server))
        assert (await connections.send(request(server))).status == 200


async def test_a_body_without_end_is_not_read() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000
    async with listening(endless, OK) as server, open_connections() as connections:
        reply = await connections.send(request(server))
        assert (reply.status, reply.body, reply.incomplete) == (200, b"", "is larger than 0 MB")
        assert (await connections.send(request(server))).body == b"ok"


async def test_who_goes_away_leaves_no_answer_for_the_next() -> None:
    async with listening(b"", OTHER) as server, open_connections(most=1) as connections:
        caller = asyncio.create_task(connections.send(request(server)))
        await server.asked.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert (await connections.send(request(server))).body == b"other"
        assert server.connections == 2


async def test_nobody_is_there() -> None:
    async with listening() as server:
        pass
    async with open_connections() as connections:
        with pytest.raises(NoAnswer, match="Connect call failed"):
            await connections.send(request(server))
        with pytest.raises(NoAnswer):
            await connections.send(Request("PATCH", f"http://{'a' * 70}.invalid/", {}))


async def test_a_line_break_is_never_sent() -> None:
    async with listening(OK) as server, open_connections() as connections:
        with pytest.raises(ValueError, match="line break"):
            await connections.send(request(server, **{"X-Mark": "1\r\nX-Other: 2"}))
        assert server.heads == []
