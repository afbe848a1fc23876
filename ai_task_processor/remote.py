"""Asks the running daemon, over its routes, to do something."""

import http.client
import json
from urllib.parse import urlsplit

from ai_task_processor.domain.errors import TaskProcessorError
from ai_task_processor.settings import Access

PATIENCE = 5.0
"""Seconds until an answer counts as none."""

LONGEST_ANSWER = 64 * 1024

_MEANINGS = {
    401: "it does not accept this POLL_TOKEN; the daemon was started with another one",
    404: "it has no such route; it was started without POLL_TOKEN, or is another program",
}


class NotDone(TaskProcessorError):
    """The daemon did not do what was asked; the message says what to do about it."""


def ask(wish: str, access: Access, *, patience: float = PATIENCE) -> str:
    """Ask for ``pause``, ``resume`` or ``poll``; answers how the daemon is then: ``paused`` or ``running``.

    Raises NotDone.
    """
    url = f"{access.url}/{wish}"
    try:
        status, body = _posted(url, access.token, patience)
    except (OSError, http.client.HTTPException) as error:
        mend = "is the daemon running, with these METRICS_HOST and METRICS_PORT?"
        raise NotDone(f"{url} does not answer ({str(error) or type(error).__name__}); {mend}") from error
    if status != http.client.ACCEPTED:
        raise NotDone(f"{url} answered {status}: {_MEANINGS.get(status, 'its log may say why')}")
    return _status(url, body)


def _posted(url: str, token: str, patience: float) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=patience)
    try:
        connection.request("POST", parts.path, headers={"Authorization": f"Bearer {token}", "Content-Length": "0"})
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST_ANSWER)
    finally:
        connection.close()


def _status(url: str, body: bytes) -> str:
    try:
        return str(json.loads(body)["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotDone(f"{url} gave an answer that is none of this program") from error
