"""One HTTP request to a server on this machine."""

import http.client
import json
from urllib.parse import urlsplit


def ask(method: str, url: str, *, within: float = 60.0, token: str = "") -> dict[str, float]:
    """The JSON object of the answer; raises OSError where there is none, or another status than 2xx."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or 80, timeout=within)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
    if answer.status // 100 != 2:  # noqa: PLR2004  # what the first digit means
        raise ConnectionError(f"{url} answers {answer.status}")
    return dict(json.loads(body))
