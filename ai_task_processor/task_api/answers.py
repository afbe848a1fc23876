"""What the answers of the Task API mean: a receipt, a page, or one of our errors."""

import contextlib
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import orjson
from msgspec import Struct

from ai_task_processor.domain.errors import AuthenticationFailed, TaskApiError, TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.ports import Receipt
from ai_task_processor.task_api.requests import Body

LONGEST_EXCERPT = 300
"""Characters of a server's message that go into an error."""

LONGEST_RETRY_AFTER = 86_400.0

_NOT_NOW = frozenset({408, 425, 429})
_NOT_LET_IN = frozenset({401, 403})
_GONE = frozenset({404, 410})
_GATEWAY = frozenset({502, 503, 504})
_NO_ROUTE = frozenset({404, 405, 410, 501})
_NO_SUCH_ROUTE = (b"Cannot PATCH ", b"default backend")

CHECK_URL = "check API_BASE_URL"


class Unreachable(TaskApiUnavailable):
    """Nobody answered, or something that stands before the API: what counts for the API's breaker."""


class RouteMissing(TaskApiError):
    """The Task API has not got this optional route."""


class TooLarge(TaskApiRejected):
    """More was sent at once than the Task API takes."""


class Answer(Struct, frozen=True):
    """One answer; ``incomplete`` says why its body did not come whole, and is empty where it did.

    ``retry_after`` is the server's wish in seconds, None where it has none.
    """

    status: int
    body: Body = b""
    location: str = ""
    retry_after: float | None = None
    incomplete: str = ""

    @property
    def is_web_page(self) -> bool:
        """Whether this is a page for people: of a proxy, a login, a maintenance; never of the API."""
        return self.body[:64].lstrip().startswith(b"<")


def is_success(status: int) -> bool:
    """Whether a status is one of 2xx."""
    return status // 100 == 2  # noqa: PLR2004  # what the first digit means


def page_of(answer: Answer) -> Body:
    """The body that lists the pending tasks."""
    if not is_success(answer.status):
        raise _fetch_error(answer)
    if answer.incomplete:
        raise Unreachable(f"the list of tasks {answer.incomplete}")
    if answer.is_web_page:
        raise Unreachable(f"a web page came where the list of tasks was expected: {CHECK_URL}")
    return b"[]" if answer.status == HTTPStatus.NO_CONTENT else answer.body


def receipt_of(answer: Answer) -> Receipt:
    """What became of a PATCH.

    The status alone decides, for by then the PATCH has had its effect, however the body ends. But a web page with
    2xx or 404, and a 404 of a router that does not know the route, were not said about the task.
    """
    if is_success(answer.status):
        return _from_the_api(answer, Receipt.TAKEN)
    if answer.status in _GONE:
        return _from_the_api(answer, Receipt.GONE)
    if answer.status == HTTPStatus.CONFLICT:
        return Receipt.CONFLICT
    raise _patch_error(answer)


def body_of(answer: Answer) -> Body:
    """The body of an optional route's answer; raises RouteMissing where there is no such route any more."""
    if answer.status in _NO_ROUTE:
        raise _missing(answer)
    if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        raise TooLarge(f"the Task API refuses it (HTTP {answer.status}{_excerpt(answer)})")
    if not is_success(answer.status):
        raise _patch_error(answer)
    if answer.incomplete:
        raise Unreachable(f"the answer {answer.incomplete}")
    if answer.is_web_page:
        raise Unreachable(f"a web page came where JSON was expected: {CHECK_URL}")
    return answer.body


def found_by(is_right: Callable[[Body], bool]) -> Callable[[Answer], None]:
    """What judges the answer to the question whether an optional route is there, which has a body that ``is_right``.

    Whatever an API without it makes of a route that it does not know, by its guard or by a catch-all, means no. Only
    who asks for patience is to be asked again.
    """

    def judge(answer: Answer) -> None:
        if answer.status in _NOT_NOW | _GATEWAY or answer.retry_after is not None:
            raise _patch_error(answer)
        if not is_success(answer.status) or answer.incomplete or not is_right(answer.body):
            raise _missing(answer)

    return judge


def _missing(answer: Answer) -> RouteMissing:
    return RouteMissing(f"there is no such route (HTTP {answer.status}{_excerpt(answer)})")


def verdict_of(status: int, words: str) -> Receipt | TaskApiError:
    """What became of one result among many: what :func:`receipt_of` answers, or the error that it raises."""
    try:
        return receipt_of(Answer(status, orjson.dumps({"message": words})))
    except TaskApiError as error:
        return error


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; None where it holds neither."""
    if value is None:
        return None
    seconds = _seconds(value, now)
    return None if seconds is None else max(0.0, min(seconds, LONGEST_RETRY_AFTER))


def _seconds(value: str, now: float) -> float | None:
    with contextlib.suppress(ValueError):
        return float(value) if value.strip().isascii() and value.strip().isdigit() else _date(value) - now
    return None


def _date(value: str) -> float:
    date = parsedate_to_datetime(value)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _from_the_api(answer: Answer, receipt: Receipt) -> Receipt:
    if answer.is_web_page:
        raise Unreachable(f"a web page came as answer to a PATCH (HTTP {answer.status}): {CHECK_URL}")
    if receipt is Receipt.GONE and any(words in answer.body for words in _NO_SUCH_ROUTE):
        raise Unreachable(f"there is no such route (HTTP {answer.status}): {CHECK_URL}")
    return receipt


def _fetch_error(answer: Answer) -> TaskApiError:
    """A list that is not there is a wrong address or a deployment: the next poll may find it."""
    if answer.status in _GONE:
        return Unreachable(f"there is no list of pending tasks (HTTP {answer.status}): {CHECK_URL}")
    return _error(answer, counts=_nothing_said)


def _patch_error(answer: Answer) -> TaskApiError:
    """A 500 may come from this one task's callback and proves that the API runs: it does not count for the breaker."""
    return _error(answer, counts=lambda answer: answer.status in _GATEWAY and _nothing_said(answer))


def _nothing_said(answer: Answer) -> bool:
    return answer.retry_after is None and answer.status != HTTPStatus.TOO_MANY_REQUESTS


def _error(answer: Answer, *, counts: Callable[[Answer], bool]) -> TaskApiError:
    if answer.status in _NOT_LET_IN:
        return AuthenticationFailed(
            f"the Task API does not let us in with a fresh token (HTTP {answer.status}{_excerpt(answer)}): "
            "check what OAUTH2_CLIENT_ID may do, OAUTH2_SCOPE and OAUTH2_AUDIENCE"
        )
    if answer.status in _NOT_NOW or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = Unreachable if counts(answer) else TaskApiUnavailable
        message = f"the Task API cannot do it now (HTTP {answer.status}{_excerpt(answer)})"
        return kind(message, retry_after=answer.retry_after)
    if not 400 <= answer.status < 500:  # noqa: PLR2004  # the range of what a client did wrong
        to = f" to {answer.location}" if answer.location else ""
        return Unreachable(f"the Task API answers with a redirect{to} (HTTP {answer.status}): {CHECK_URL}")
    return TaskApiRejected(f"the Task API refuses it (HTTP {answer.status}{_excerpt(answer)})")


def _excerpt(answer: Answer) -> str:
    """What the server says about it, as far as it says it in words."""
    if answer.is_web_page:
        return ""
    said = " ".join(_message(answer.body).split())
    said = "".join(character for character in said if character.isprintable())
    if len(said) > LONGEST_EXCERPT:
        said = said[:LONGEST_EXCERPT] + "…"
    return f": {said}" if said else ""


def _message(body: Body) -> str:
    """Nest says it in ``message``, as a text or a list of texts."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[: 4 * LONGEST_EXCERPT].decode("utf-8", "replace")
    if isinstance(said, dict):
        said = said.get("message") or said.get("error") or said.get("detail") or ""
    if isinstance(said, list):
        said = "; ".join(str(part) for part in said[:5])
    return said if isinstance(said, str) else ""
