"""Connections to a server over which small requests go, at a third of what a general client takes for them.

What is sent is written here; what comes back is read by llhttp, the parser of Node.
"""

import asyncio
import socket
import ssl
from collections import defaultdict
from functools import lru_cache
from typing import Final, cast

import aiohappyeyeballs
import httptools
from msgspec import Struct
from multidict import CIMultiDict, istr
from yarl import URL

from ai_task_processor.task_api.requests import NoAnswer, Reply, Request, broken_off, too_large

IDLE_SECONDS = 4.0
"""Node closes idle connections after five seconds; a PATCH into one that is just closing would be lost."""

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a name is tried beside the first one (RFC 8305)."""

LARGEST_HEAD = 64 * 1024
"""Bytes of an answer before its body, at most; a server that does not come to the point is not waited for."""

_FINAL: Final = 200
_UPGRADED: Final = 101
"""An answer with a status below 200 is followed by the one that is meant, but for one."""

_LENGTHS: Final = frozenset(map(istr, ("Content-Length", "Transfer-Encoding")))

_KEPT: Final = frozenset((b"content-length", b"transfer-encoding", b"location", b"retry-after"))
"""Of the head of an answer; nobody looks at anything else."""


class Connections:
    """At most ``most`` connections, which are kept for the next request; ``trusted`` says whom to believe.

    One that was not used for ``idle`` seconds is not used again.
    """

    def __init__(self, *, most: int, trusted: ssl.SSLContext | None, idle: float = IDLE_SECONDS) -> None:
        self._places = asyncio.Semaphore(most)
        self._trusted = trusted
        self._longest_idle = idle
        self._idle: defaultdict[str, list[_Connection]] = defaultdict(list)

    async def send(self, request: Request) -> Reply:
        """Send once; an answer whose head came is an answer, however its body ends. Raises NoAnswer."""
        origin, path = _split(request.url)
        async with self._places:
            try:
                connection = self._unused(origin) or await self._opened(_server(origin))
                reply = await connection.exchange(_head(request, path, _server(origin).name), request)
            except (OSError, UnicodeError) as error:  # the latter: a name that no server can have
                return broken_off(None, error)
        if connection.may_be_used_again:
            self._idle[origin].append(connection)
        return reply

    def close(self) -> None:
        """Close those that wait for a request."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _unused(self, origin: str) -> "_Connection | None":
        """The one that was used last: it is the least likely to be closed just now."""
        waiting = self._idle[origin]
        while waiting:
            connection = waiting.pop()
            if connection.may_be_used_again and connection.idle < self._longest_idle:
                return connection
            connection.close()
        return None

    async def _opened(self, server: "_Server") -> "_Connection":
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        found = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS)
        try:
            _, connection = await loop.create_connection(
                _Connection,
                sock=found,
                ssl=(self._trusted or True) if server.encrypts else None,
                server_hostname=server.host if server.encrypts else None,
            )
        except BaseException:
            found.close()
            raise
        return connection


class _Connection(asyncio.Protocol):
    """One connection, on which one request at a time is answered."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_headers=True, lenient_optional_cr_before_lf=True)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._used_at = 0.0
        self._most = 0
        self._head_size = 0
        self.on_message_begin()

    @property
    def idle(self) -> float:
        """Seconds since its last answer."""
        return self._loop.time() - self._used_at

    @property
    def may_be_used_again(self) -> bool:
        """Whether nothing speaks against another request."""
        return self._keeps_alive and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, head: bytes, request: Request) -> Reply:
        """Send one request and await its answer; raises NoAnswer. Who is cancelled leaves a closed connection."""
        if self._transport is None:
            raise NoAnswer("the connection is closed")
        self._most = request.most
        self._status = 0
        self._head_size = 0
        self._keeps_alive = False
        self._answer = self._loop.create_future()
        self._transport.writelines((head, request.body or b""))
        try:
            return await self._answer
        finally:
            self._answer = None
            self._used_at = self._loop.time()
            if not self._keeps_alive:
                self.close()

    def close(self) -> None:
        """Close it at once, whatever is on its way."""
        self._keeps_alive = False
        if self._transport:
            self._transport.abort()

    def _end(self, reply: Reply) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(reply)

    @property
    def _head(self) -> Reply:
        return Reply(self._status, self._headers)

    # --- What the transport tells ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._keeps_alive = True

    def data_received(self, data: bytes) -> None:
        """Read on; what nobody has asked for would be taken for the next answer."""
        if self._answer is None or self._answer.done():
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end(self._head)
        except httptools.HttpParserError as error:
            self._fail(error)
        if not self._status:
            self._head_size += len(data)
            if self._head_size > LARGEST_HEAD:
                self._fail(ConnectionError("the head of the answer does not end"))

    def connection_lost(self, error: Exception | None) -> None:
        """The end, which is also that of an answer that does not say how long it is."""
        self._transport = None
        if self._status and not error and self._headers.keys().isdisjoint(_LENGTHS):
            self._end(Reply(self._status, self._headers, self._body))
        self._fail(error or ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        self._keeps_alive = False
        if self._answer is None or self._answer.done():
            return
        try:
            self._answer.set_result(broken_off(self._head if self._status else None, error))
        except NoAnswer as nothing:
            self._answer.set_exception(nothing)

    # --- What the parser tells ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Another answer begins: the one that is meant, or one too many."""
        self._keeps_alive = False
        self._status = 0
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._body = bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of a head."""
        if name.lower() in _KEPT:
            self._headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        """A part of the body."""
        self._body += part
        if len(self._body) > self._most:
            self._end(too_large(self._head, self._most))

    def on_message_complete(self) -> None:
        """One answer is there, if it is not followed by the one that is meant."""
        if _UPGRADED != self._status < _FINAL:
            self._status = 0
        elif self._answer and not self._answer.done():
            self._keeps_alive = bool(self._parser.should_keep_alive())
            self._end(Reply(self._status, self._headers, self._body))


class _Server(Struct, frozen=True):
    """Where to connect to, and how to call it there."""

    host: str
    port: int
    encrypts: bool
    name: str


def _split(url: str) -> tuple[str, str]:
    """The part of an address that says where to connect to, and the part that is asked for there."""
    start = url.find("/", url.find("://") + 3)
    return (url, "/") if start < 0 else (url[:start], url[start:])


@lru_cache(maxsize=16)
def _server(origin: str) -> _Server:
    url = URL(origin, encoded=True)
    return _Server(url.raw_host or "", url.port or 0, url.scheme == "https", url.host_port_subcomponent or "")


def _head(request: Request, path: str, server: str) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in request.headers.items()]
    size = len(request.body or b"")
    head = f"{request.method} {path} HTTP/1.1\r\nHost: {server}\r\n{''.join(lines)}Content-Length: {size}\r\n\r\n"
    if head.count("\n") != len(lines) + 4:
        raise ValueError("a header or a path with a line break cannot be sent")
    return head.encode("ascii")
