"""A request to the Task API, its answer, and the port of whatever sends the one and brings the other."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from ai_task_processor.domain.confidential import Confidential

Body: TypeAlias = bytes | bytearray


class NoAnswer(Exception):
    """Nothing came back; whether the request had its effect nobody knows."""


class Request(Confidential, frozen=True):
    """What is sent: ``url`` is encoded already; at most ``most`` bytes of the answer are read.

    No step of it may take longer than ``step_seconds``; None leaves that to the caller.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    most: int = 1024 * 1024
    step_seconds: float | None = None


class Reply(Struct, frozen=True):
    """What came back; ``incomplete`` says why its body did not come whole, and is empty where it did."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = b""
    incomplete: str = ""


class Exchange(Protocol):
    """Sends requests and reads their answers."""

    async def send(self, request: Request) -> Reply:
        """Send once; an answer whose head came is an answer, however its body ends. Raises NoAnswer."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


def too_large(reply: Reply, most: int) -> Reply:
    """The answer whose body has more than ``most`` bytes."""
    return replace(reply, body=b"", incomplete=f"is larger than {most // 1024 // 1024} MB")


def broken_off(reply: Reply | None, error: Exception) -> Reply:
    """The answer whose head came before ``error``; raises NoAnswer where it had not come."""
    words = f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__
    if reply is None:
        raise NoAnswer(words) from error
    return replace(reply, body=b"", incomplete=f"broke off: {words}")
