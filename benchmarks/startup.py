"""How much CPU it takes until the program can be used, and how long a task takes that comes while it is idle."""

import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from asking import ask
from contenders import daemon_env
from processes import Group
from report import Range

PROGRAM = str(Path(sys.executable).with_name("ai-task-processor"))
PATIENCE = 60.0
TOKEN = "measured"  # noqa: S105  # of a server on loopback that lives for a minute


def cold_starts(base: str, *, rounds: int, core: int) -> Mapping[str, Range]:
    """Seconds of CPU by what is started; everything was started once before, so that no disk is waited for."""
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, seconds in {
            'python -c "import httpx2"': _to_its_end([sys.executable, "-c", "import httpx2"], core),
            "--help": _to_its_end([PROGRAM, "--help"], core),
            "run until ready, mock": _to_ready(base, "mock", core),
            "run until ready, openai": _to_ready(base, "openai", core),
        }.items():
            if number:
                found.setdefault(name, []).append(seconds)
    return {name: Range(statistics.median(values), min(values), max(values)) for name, values in found.items()}


def answered_at_once(base: str, *, rounds: int, core: int) -> Mapping[str, Range]:
    """Milliseconds from a task's creation to its PATCH, with an interval of 30 s; the provider takes 20 of them."""
    found: dict[str, list[float]] = {"POST /poll": [], "SIGUSR1": []}
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        env = daemon_env(base, folder) | {"METRICS_PORT": str(port)}
        env |= {"POLLING_INTERVAL_SECONDS": "30", "POLL_TOKEN": TOKEN}
        with Group([PROGRAM, "run"], core=core, folder=folder, env=env) as group:
            until_ready(group, port)
            for number in range(10 * rounds):
                ask("POST", f"{base}/lot?count=1")
                if number % 2:
                    os.kill(group.pid, signal.SIGUSR1)
                else:
                    ask("POST", f"http://127.0.0.1:{port}/poll", token=TOKEN)
                ask("GET", f"{base}/lot/done")
                found["SIGUSR1" if number % 2 else "POST /poll"].append(1_000 * ask("GET", f"{base}/lot/report")["p50"])
                time.sleep(0.05)
    return {name: Range(statistics.median(values), min(values), max(values)) for name, values in found.items()}


def _to_its_end(command: list[str], core: int) -> float:
    with tempfile.TemporaryDirectory() as folder, Group(command, core=core, folder=Path(folder), env={}) as group:
        return group.cpu_at_end()


def _to_ready(base: str, mode: str, core: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        env = daemon_env(base, folder) | {"PROCESSING_MODE": mode, "METRICS_PORT": str(port)}
        with Group([PROGRAM, "run"], core=core, folder=folder, env=env) as group:
            until_ready(group, port)
            return group.cpu()


def until_ready(group: Group, port: int) -> None:
    """Wait until /ready says yes."""
    deadline = time.monotonic() + PATIENCE
    while not _is_ready(port):
        if group.ended or time.monotonic() > deadline:
            raise SystemExit(f"it does not become ready: {group.said}")
        time.sleep(0.01)


def _is_ready(port: int) -> bool:
    try:
        ask("GET", f"http://127.0.0.1:{port}/ready", within=5)
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
