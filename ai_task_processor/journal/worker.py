"""The name under which a journal holds tasks at the Task API."""

import secrets
import socket

from sqlalchemy import Connection, text

from ai_task_processor.storage.engine import Storage

LONGEST_HOST = 64

_KEEP = text("INSERT INTO meta (key, value) VALUES ('worker', :name) ON CONFLICT (key) DO NOTHING")
_KEPT = text("SELECT value FROM meta WHERE key = 'worker'")


async def worker_of(storage: Storage) -> str:
    """The name kept with the journal, made where there is none yet.

    It is the journal's and not the process's: after a restart the same rows are held, and replicas that share a
    database hold them together.
    """

    def keep(connection: Connection) -> str:
        connection.execute(_KEEP, {"name": new_worker()})
        return str(connection.execute(_KEPT).scalar_one())

    return await storage.write(keep)


def new_worker() -> str:
    """A name that no other worker has."""
    return f"{socket.gethostname()[:LONGEST_HOST]}-{secrets.token_hex(6)}"
