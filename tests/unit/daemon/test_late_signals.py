"""A supervisor that asks twice: the second wish may come while the process is already ending."""

import signal
from pathlib import Path

import pytest

from tests.fakes.daemon import environment_for, started
from tests.fakes.task_api_server import FakeTaskApi


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_after_the_last_line_of_the_log_changes_no_exit_code(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with FakeTaskApi() as api, started("run", folder=tmp_path, env=environment_for(api, tmp_path)) as daemon:
        await daemon.says("All services started")
        daemon.send(number)
        await daemon.says("AI Task Processor stopped")
        if daemon.process.returncode is None:
            daemon.send(number)
        assert await daemon.ended() == 0
