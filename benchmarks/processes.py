"""Runs a program on one core, and reads what it has used: Linux alone tells that of other processes."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

HERE = Path(__file__).parent

INHERITED = ("PATH", "PYTHONPATH")
"""What of our environment a process gets; PYTHONPATH lets another copy of the program be tried."""


class Group:
    """A process and all that it starts."""

    def __init__(self, command: Sequence[str], *, core: int, folder: Path, env: Mapping[str, str]) -> None:
        self._log = os.fdopen(os.memfd_create("log"), "w+b")  # in memory, for the disk is the state's
        with _on(core):
            self._process = subprocess.Popen(  # noqa: S603  # commands of our own
                command,
                cwd=folder,
                env={**_inherited(), "HOME": str(folder), **env},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None or any(self._members()):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.returncode is None:
            self._process.wait()
        self._log.close()

    @property
    def said(self) -> str:
        """The end of what it wrote."""
        return os.pread(self._log.fileno(), 2**24, 0)[-1_500:].decode(errors="replace")

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process itself has ended."""
        return self._process.poll() is not None

    def cpu(self) -> float:
        """Seconds of CPU that its living processes have used, in all of their threads."""
        return sum(sum(map(int, fields[11:13])) for fields in self._members()) / TICKS

    def cpu_at_end(self) -> float:
        """Wait until the process ends, and answer what it has used, to the microsecond."""
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return used.ru_utime + used.ru_stime

    def peak(self) -> float:
        """Megabytes of memory that its living processes have used at most, each by itself."""
        return sum(_memory(fields, "VmHWM") for fields in self._members())

    def memory(self) -> float:
        """Megabytes of memory that its living processes use now."""
        return sum(_memory(fields, "VmRSS") for fields in self._members())

    def files(self) -> int:
        """File descriptors that its living processes have open."""
        return sum(len(list((PROC / fields[-1] / "fd").iterdir())) for fields in self._members())

    def waited(self) -> float:
        """Seconds for which the main threads of its living processes could have run, but had no core."""
        return sum(_waited(fields) for fields in self._members())

    def _members(self) -> Iterator[list[str]]:
        """The fields of /proc/PID/stat from the third on, and the PID at the end."""
        for file in PROC.glob("[0-9]*/stat"):
            try:
                fields = file.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(fields[3]) == self._process.pid:
                yield [*fields, file.parent.name]


def _memory(fields: list[str], kind: str) -> float:
    try:
        status = (PROC / fields[-1] / "status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(kind)), 0.0)


def _waited(fields: list[str]) -> float:
    try:
        return int((PROC / fields[-1] / "schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


@contextmanager
def stand_in(core: int) -> Iterator[str]:
    """What plays everything outside, on that core; its address."""
    command = [sys.executable, str(HERE / "stand_in.py"), str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # of our own
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.kill()


def machine() -> str:
    """What it is measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"


@contextmanager
def _on(core: int) -> Iterator[None]:
    """What is started inside runs on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}
