"""Asks a running daemon whether it is alive; imports almost nothing, because supervisors start it every few seconds."""

import os
import socket
import sys
import time
from urllib.parse import SplitResult, urlsplit

PATIENCE = 3.0
"""Seconds until an answer counts as none."""

LONGEST_ANSWER = 64 * 1024
HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # not bound: where to ask instead


def ask(url: str | None = None, *, patience: float = PATIENCE) -> int:
    """Print what the daemon answers; 0 where it is alive, 1 where it is not, or nobody answers within ``patience``.

    Without ``url`` the address is that of METRICS_HOST and METRICS_PORT. The settings are not read for that: checking
    all of them takes ten times as long as asking.
    """
    asked = url or _usual_url()
    try:
        answer = _get(urlsplit(asked), patience)
    except (OSError, ValueError) as error:
        return _end(f"{asked}: {error}", sys.stderr.fileno(), code=1)
    head, _, body = answer.partition("\r\n\r\n")
    status = head.partition("\r\n")[0].split(" ")
    if len(status) < 2 or not status[0].startswith("HTTP/1."):  # noqa: PLR2004  # version and number
        return _end(f"{asked}: that is no answer of HTTP", sys.stderr.fileno(), code=1)
    return _end(body or head, sys.stdout.fileno(), code=0 if status[1] == "200" else 1)


def _usual_url() -> str:
    host = _setting("METRICS_HOST", "127.0.0.1")
    host = HERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{_setting('METRICS_PORT', '8001')}/health"


def _setting(name: str, default: str) -> str:
    """A setting without the comment that some tools pass on with it."""
    return os.environ.get(name, "").partition(" #")[0].strip() or default


def _get(url: SplitResult, patience: float) -> str:
    """The whole answer to a GET; ``patience`` is for all of it, however slowly it comes."""
    if url.scheme != "http" or not url.hostname:
        message = "give an address like http://127.0.0.1:8001/health"
        raise ValueError(message)
    deadline = time.monotonic() + patience
    with socket.create_connection((url.hostname, url.port or 80), timeout=patience) as connection:
        connection.sendall(f"GET {url.path or '/health'} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode("ascii"))
        answer = b""
        while len(answer) < LONGEST_ANSWER:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(LONGEST_ANSWER)
            if not part:
                break
            answer += part
    return answer.decode("utf-8", "replace")


def _end(line: str, where: int, *, code: int) -> int:
    os.write(where, f"{line.strip()}\n".encode())
    return code


if __name__ == "__main__":
    sys.exit(ask(*sys.argv[1:2]))
