"""What went wrong with a request, in words for whoever sent it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from msgspec import Struct

from ai_task_processor.domain.errors import TaskProcessorError

MOST_FAULTS_TOLD = 100


class Fault(Struct, frozen=True):
    """One item of a request that cannot be taken: ``index`` counts from 0, ``line`` (of JSON Lines) from 1."""

    index: int
    message: str
    line: int | None = None

    def body(self) -> dict[str, object]:
        """The fault as JSON."""
        line = {} if self.line is None else {"line": self.line}
        return {"index": self.index, **line, "message": self.message}


class Problem(TaskProcessorError):
    """A request that is not done; becomes its answer."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.faults = tuple(faults)
        self.headers = dict(headers or {})
        super().__init__(message)

    def body(self) -> dict[str, object]:
        """The answer's body, in the shape that NestJS gives its errors."""
        body: dict[str, object] = {
            "statusCode": self.status.value,
            "error": self.status.phrase,
            "message": self.message,
        }
        if self.faults:
            body["errors"] = [fault.body() for fault in self.faults[:MOST_FAULTS_TOLD]]
        return body


def malformed(message: str, *, faults: Sequence[Fault] = ()) -> Problem:
    """The request cannot be read."""
    return Problem(HTTPStatus.BAD_REQUEST, message, faults=faults)


def invalid(message: str, *, faults: Sequence[Fault] = ()) -> Problem:
    """The request can be read but not used."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, message, faults=faults)


def too_large(message: str) -> Problem:
    """The request holds more than is taken at once."""
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
