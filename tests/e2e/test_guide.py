"""docs/nestjs.md, followed word by word on a machine where nothing is prepared but Node.js and Python."""

import os
import re
import shlex
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "nestjs.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = ("3000", "4000")
KEPT = ("PATH", "HOME", "NPM_CONFIG_", "PIP_")
PATIENCE = 600.0


@pytest.mark.skipif(
    os.environ.get("REQUIRE_SERVICES") != "1",
    reason="it installs much from the registries of Node.js and Python: make e2e runs it",
)
def test_whoever_follows_the_guide_gets_there(tmp_path: Path) -> None:
    (tmp_path / "ai-task-processor").symlink_to(ROOT)

    code, said = followed(script(), tmp_path)

    logs = [f"{log.name}:\n{log.read_text(encoding='utf-8')[-2_000:]}" for log in tmp_path.rglob("*.log")]
    assert code == 0, "\n".join([said[-6_000:], *logs])
    assert '"embedding":[' in said.splitlines()[-1]


def script() -> str:
    """The guide as one script: its commands, and its files, written where the reader is at that place."""
    steps = [step(*block) for block in BLOCK.findall(GUIDE.read_text(encoding="utf-8"))]
    text = "\n".join(["set -e", *steps])
    for port, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        text = text.replace(port, free)
    return text


def step(kind: str, path: str, text: str) -> str:
    """A block as commands; what is neither commands nor a file has no place in the guide."""
    if kind == "console":
        return text
    assert path, f"a block of {kind} does not say which file it is"
    return f"printf %s {shlex.quote(text)} > {shlex.quote(path)}"


def followed(commands: str, folder: Path) -> tuple[int, str]:
    """Exit code and output of a script; whatever it has started ends with it."""
    kept = {name: value for name, value in os.environ.items() if name.upper().startswith(KEPT)}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(  # noqa: S603
            ["/bin/bash", "-c", commands],
            cwd=folder,
            env={**kept, "CI": "1", "METRICS_PORT": "0"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        code = -1
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    return code, (folder / "said").read_text(encoding="utf-8")


def free_ports(count: int) -> list[str]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(server.getsockname()[1]) for server in servers]
