import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from ai_task_processor.app import World
from ai_task_processor.daemon import Daemon, reread_settings
from ai_task_processor.settings import load_settings

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def meant_before(_number: int, _frame: FrameType | None) -> None:
    """Stands for whatever the owner of the process has installed."""


@pytest.fixture(autouse=True)
def owner() -> Iterator[None]:
    before = {number: signal.signal(number, meant_before) for number in NUMBERS}
    yield
    for number, meaning in before.items():
        signal.signal(number, meaning)


def daemon() -> Daemon:
    settings = load_settings(
        None,
        api_base_url="http://127.0.0.1:9",
        oauth2_token_url="http://127.0.0.1:9/token",
        oauth2_client_id="id",
        oauth2_client_secret="secret",
        processing_mode="mock",
    )
    return Daemon(settings, reread_settings, World())


async def test_signals_are_the_daemons_while_it_lives_and_mean_afterwards_what_they_meant_before() -> None:
    with daemon()._signals():
        assert all(signal.getsignal(number) is not meant_before for number in NUMBERS)
    assert all(signal.getsignal(number) is meant_before for number in NUMBERS)


async def test_a_signal_while_the_process_is_ending_does_not_kill_it() -> None:
    with daemon()._signals():
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
