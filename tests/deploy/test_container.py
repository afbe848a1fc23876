"""The daemon as the container runs it: user 10001 without rights, PID 1, nothing to write but /app/data."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.container import confined, first_process
from tests.fakes.daemon import REAL_SECONDS, Process, environment_for
from tests.fakes.dockerfile import last_stage
from tests.fakes.task_api_server import FakeTaskApi

ROOT = Path(__file__).parents[2]
IMAGE = last_stage(ROOT / "Dockerfile")
UID = 10001

LOOK = """
import json, os
def can_write(folder):
    try:
        open(os.path.join(folder, "file"), "x").close()
        os.remove(os.path.join(folder, "file"))
    except OSError:
        return False
    return True
rights = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
places = ["/", "/app", "/app/data", "/tmp", "/usr", os.environ["TMPDIR"], os.environ["HOME"]]
print(json.dumps([os.getpid(), os.getuid(), os.getcwd(), rights, {place: can_write(place) for place in places}]))
"""


async def test_it_works_stays_healthy_and_stops(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with FakeTaskApi() as api:
        api.add(*({"_id": str(number)} for number in range(3)))
        settings = environment_for(api, data)
        del settings["STATE_URL"]  # its usual place must be the right one
        async with container([*IMAGE.command("ENTRYPOINT"), *IMAGE.command("CMD")], data, settings) as daemon:
            port = (await daemon.url()).rpartition(":")[2]
            async with asyncio.timeout(REAL_SECONDS):
                await api.until(lambda: set(api.states()) == {"succeeded"})
            assert await healthcheck(data, port) == (0, "healthy")
            os.kill(first_process(daemon.process.pid), signal.SIGHUP)
            await daemon.says("Configuration read again, it is the same")
            os.kill(first_process(daemon.process.pid), signal.SIGTERM)
            assert await daemon.ended() == 0
        assert daemon.logged("AI Task Processor stopped", unreported=0)
        assert await healthcheck(data, port) == (1, "")
    assert "Traceback" not in daemon.text
    assert (data / "state.db").stat().st_uid == UID


def test_it_has_no_rights_and_one_place_to_write(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command, env = in_the_image([sys.executable, "-c", LOOK], data)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603
    assert done.returncode == 0, done.stderr
    pid, uid, folder, rights, writable = json.loads(done.stdout)
    assert (pid, uid, folder, rights) == (1, UID, IMAGE.one("WORKDIR"), ["0" * 16])
    assert {place for place, can in writable.items() if can} == {"/app/data"}


def in_the_image(
    command: Sequence[str], data: Path, settings: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """The command with the image's environment; its programs are those of the tests' own Python."""
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = IMAGE.environment | {"PATH": programs, "METRICS_HOST": "127.0.0.1"} | dict(settings or {})
    return confined(command, data=data, project=ROOT, uid=UID, env=env)


@asynccontextmanager
async def container(command: Sequence[str], data: Path, settings: Mapping[str, str]) -> AsyncIterator[Process]:
    line, env = in_the_image(command, data, settings)
    process = await asyncio.create_subprocess_exec(
        *line,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**22,
    )
    watched = Process(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(watched.read(), name="output")
        try:
            yield watched
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def healthcheck(data: Path, port: str) -> tuple[int, str]:
    """Exit code of the image's HEALTHCHECK, and the status that the daemon gave."""
    line, env = in_the_image(IMAGE.command("HEALTHCHECK"), data, {"METRICS_PORT": port})
    process = await asyncio.create_subprocess_exec(*line, env=env, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, str(json.loads(output)["status"]) if output else ""
