"""Tells what happens to several observers."""

import logging

from ai_task_processor.domain.events import Event
from ai_task_processor.domain.ports import Observer

_log = logging.getLogger(__name__)


class Observers:
    """An observer that passes each event to all of its own, in the order given.

    One that raises has a defect; it harms neither the others nor the flow. The defect is logged once for each type of
    event, with its traceback.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self._complained: set[tuple[int, type[Event]]] = set()

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on; never raises."""
        for position, observer in enumerate(self._observers):
            try:
                observer(event)
            except Exception:  # noqa: BLE001  # work must not stop because it cannot be shown, whatever the defect
                self._complain(position, observer, type(event))

    def _complain(self, position: int, observer: Observer, kind: type[Event]) -> None:
        if (position, kind) in self._complained:
            return
        self._complained.add((position, kind))
        _log.exception("%s cannot take %s: a defect of ours, told once", type(observer).__name__, kind.__name__)
