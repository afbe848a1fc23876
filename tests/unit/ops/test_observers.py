import logging

import pytest

from ai_task_processor.domain.events import Event, Running, Stopped
from ai_task_processor.ops.observers import Observers


def broken(_event: Event) -> None:
    raise KeyError("defect")


def test_every_observer_is_told_in_order() -> None:
    told = []
    observers = Observers(lambda event: told.append(("first", event)), lambda event: told.append(("second", event)))
    observers(Running())
    assert told == [("first", Running()), ("second", Running())]


def test_a_broken_observer_harms_nobody_and_is_told_once_for_each_type(caplog: pytest.LogCaptureFixture) -> None:
    told = []
    observers = Observers(broken, told.append)
    with caplog.at_level(logging.ERROR):
        for event in (Running(), Running(), Stopped(1), Running()):
            observers(event)
    assert len(told) == 4
    assert ["Running" in record.getMessage() for record in caplog.records] == [True, False]
    assert "KeyError" in caplog.text


def test_what_is_not_an_error_passes() -> None:
    def interrupted(_event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers(interrupted)(Running())
