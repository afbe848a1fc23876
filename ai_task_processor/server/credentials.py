"""The client id and secret that the task server accepts."""

import json
import os
import secrets
from pathlib import Path

from ai_task_processor.domain.confidential import Confidential
from ai_task_processor.domain.errors import ConfigurationError

FILE_NAME = "task-server-credentials.json"
GENERATED_CLIENT_ID = "ai-task-processor"
OWNER_ONLY = 0o600


class Credentials(Confidential, frozen=True):
    """What a client must know to get a token; the secret is kept out of the repr."""

    client_id: str
    client_secret: str

    def __post_init__(self) -> None:
        if not self.client_id or not self.client_secret:
            raise ConfigurationError(["The task server needs a client id and a client secret; neither may be empty."])


def load_or_create_credentials(folder: Path) -> Credentials:
    """The credentials kept in ``folder``; on the first call new ones, in a file that only its owner may read.

    Raises ConfigurationError where the file cannot be read, written or understood.
    """
    path = folder / FILE_NAME
    try:
        return _load(path) if path.exists() else _create(path)
    except OSError as error:
        raise ConfigurationError([f"{path}: the task server's credentials cannot be kept here: {error}"]) from error


def _create(path: Path) -> Credentials:
    credentials = Credentials(GENERATED_CLIENT_ID, secrets.token_urlsafe(32))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{FILE_NAME}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w", encoding="utf-8") as file:
        json.dump({"client_id": credentials.client_id, "client_secret": credentials.client_secret}, file)
    try:
        os.link(draft, path)  # unlike a rename, a link never replaces what another process has put there meanwhile
    except FileExistsError:
        return _load(path)
    finally:
        draft.unlink()
    return credentials


def _load(path: Path) -> Credentials:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Credentials(str(kept["client_id"]), str(kept["client_secret"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            [f"{path} does not hold the task server's credentials any more; delete it to have new ones made."]
        ) from error
