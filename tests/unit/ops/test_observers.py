import logging

import pytest

from ai_task_processor.domain.events import Event, Running, Stopped
from ai_task_processor.ops.observers import Handler, Observers, Selective


def broken(_event: Event) -> None:
    raise KeyError("defect")


def test_every_observer_is_told_in_order() -> None:
    told = []
    observers = Observers(lambda event: told.append(("first", event)), lambda event: told.append(("second", event)))
    observers(Running())
    assert told == [("first", Running()), ("second", Running())]


class Picky(Selective):
    """Takes what begins, and nothing else."""

    def __init__(self) -> None:
        self.begun: list[Event] = []

    def __call__(self, event: Event) -> None:
        raise AssertionError(f"{event} was not asked for")

    def handler(self, kind: type[Event]) -> Handler | None:
        return self.begun.append if kind is Running else None


def test_an_observer_that_says_what_it_wants_is_told_of_nothing_else() -> None:
    picky, told = Picky(), []
    observers = Observers(picky, told.append)
    for event in (Running(), Stopped(1), Running()):
        observers(event)
    assert picky.begun == [Running(), Running()]
    assert told == [Running(), Stopped(1), Running()]


def test_a_broken_observer_harms_nobody_and_is_told_once_for_each_type(caplog: pytest.LogCaptureFixture) -> None:
    told = []
    observers = Observers(broken, told.append)
    with caplog.at_level(logging.ERROR):
        for event in (Running(), Running(), Stopped(1), Running()):
            observers(event)
    assert len(told) == 4
    assert ["Running" in record.getMessage() for record in caplog.records] == [True, False]
    assert "KeyError" in caplog.text


class Recorder(list[Event]):
    """An observer that is equal to others, false while it is empty, and cannot be hashed."""

    def __call__(self, event: Event) -> None:
        self.append(event)
        raise KeyError("defect")


def test_observers_are_told_apart_whatever_they_are(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Recorder(), Recorder()
    observers = Observers(first, second)
    for _ in range(2):
        observers(Running())
    assert first == second == [Running(), Running()]
    assert len(caplog.records) == 2


def test_what_is_not_an_error_passes() -> None:
    def interrupted(_event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers(interrupted)(Running())
