"""A forward proxy: tunnels by CONNECT, forwards what is not encrypted, wants a password or refuses if told to."""

import asyncio
import base64
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_BAD_GATEWAY = 502
_WANTS_PASSWORD = 407


class ForwardProxy:
    """``async with ForwardProxy({"api.test": 8080}) as proxy`` listens on ``proxy.url``.

    Knows no hosts but those given, each with its port on this machine. With ``user`` it wants ``user:password``;
    ``refusal`` is the status that it answers everything with, and one that is ``silent`` never answers. ``tunnels`` and
    ``forwarded`` say what was asked for, as host:port and as URL; ``passed_on`` is all that went through.
    """

    def __init__(self, hosts: Mapping[str, int], *, user: str = "", refusal: int = 0, silent: bool = False) -> None:
        self.refusal = refusal
        self.tunnels: list[str] = []
        self.forwarded: list[str] = []
        self.passed_on: list[bytes] = []
        self.port = 0
        self._hosts = hosts
        self._user = user
        self._silent = silent
        self._serving: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_for(self, user: str) -> str:
        return f"http://{user}@127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for end in self._ends:
            end.close()
        await asyncio.gather(*self._serving)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            await self._answer(head, reader, writer)
        await self._end(writer)

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.partition("\r\n")[0].split()
        (self.tunnels if method == "CONNECT" else self.forwarded).append(target)
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        if self._silent:
            await reader.read()
            return
        status = self._refused(head, parts.hostname or "")
        if status:
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
            return
        there, out = await asyncio.open_connection("127.0.0.1", self._hosts[parts.hostname or ""])
        self._ends.add(out)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            out.write(self._forwarded(head, parts.path))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay(reader, out))
            group.create_task(self._relay(there, writer))

    def _refused(self, head: str, host: str) -> int:
        wanted = f"Proxy-Authorization: Basic {base64.b64encode(self._user.encode()).decode()}"
        if self._user and wanted not in head.split("\r\n"):
            return _WANTS_PASSWORD
        return self.refusal or (0 if host in self._hosts else _BAD_GATEWAY)

    def _forwarded(self, head: str, path: str) -> bytes:
        """As it goes on: to the path alone, with nothing that was for us, and for one request."""
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, url, version = first.split()
        query = url.partition("?")[2]
        kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
        asked = f"{method} {path or '/'}{'?' if query else ''}{query} {version}"
        return "\r\n".join([asked, *kept, "Connection: close", "", ""]).encode("latin-1")

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await reader.read(65_536):
                self.passed_on.append(part)
                writer.write(part)
                await writer.drain()
        await self._end(writer)

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()
