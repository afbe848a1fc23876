"""Sees to it that one process at a time owns a state file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ai_task_processor.domain.errors import JournalError


@contextmanager
def owned(path: Path, setting: str = "STATE_URL") -> Iterator[None]:
    """Own ``path`` while inside; the kernel gives it free when the process dies, however it dies.

    The lock is on a file beside it that is never deleted: two processes could otherwise hold locks on two files of
    one name. Raises JournalError where another process is the owner; ``setting`` is what an operator changes to have
    another file used.
    """
    with lock_path(path).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(_refusal(path, file, setting)) from error
        _sign(file)
        yield


def lock_path(path: Path) -> Path:
    """The file whose lock stands for ``path``."""
    return path.with_name(path.name + ".lock")


def _refusal(path: Path, file: BinaryIO, setting: str) -> str:
    file.seek(0)
    pid = file.read(32).strip()
    holder = f"process {int(pid)}" if pid.isdigit() else "another process"
    return f"state file {path} is in use by {holder}; stop that one first, or give {setting} another file"


def _sign(file: BinaryIO) -> None:
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()
