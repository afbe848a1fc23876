"""Tells what happens to several observers."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeAlias

from ai_task_processor.domain.events import Event
from ai_task_processor.domain.ports import Observer

_log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[..., None]
"""Takes note of events of one type."""


class Selective(ABC):
    """An observer that says beforehand which types of events it wants, and by which of its methods."""

    def __call__(self, event: Event) -> None:
        """Take note of ``event``, if it is wanted."""
        handler = self.handler(type(event))
        if handler is not None:
            handler(event)

    @abstractmethod
    def handler(self, kind: type[Event]) -> Handler | None:
        """What takes events of this type, always the same; None where they are not wanted."""


class Observers:
    """An observer that passes each event to those of its own that want it, in the order given.

    One that raises has a defect; it harms neither the others nor the flow. The defect is logged once for each type of
    event, with its traceback.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self._handlers: dict[type[Event], tuple[tuple[Observer, Handler], ...]] = {}
        self._complained: set[tuple[int, type[Event]]] = set()

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on; never raises."""
        kind = type(event)
        handlers = self._handlers.get(kind)
        if handlers is None:
            handlers = self._handlers[kind] = tuple(self._wanting(kind))
        for observer, handler in handlers:
            try:
                handler(event)
            except Exception:  # noqa: BLE001  # work must not stop because it cannot be shown, whatever the defect
                self._complain(observer, kind)

    def _wanting(self, kind: type[Event]) -> Iterator[tuple[Observer, Handler]]:
        for observer in self._observers:
            handler = observer.handler(kind) if isinstance(observer, Selective) else observer
            if handler is not None:
                yield observer, handler

    def _complain(self, observer: Observer, kind: type[Event]) -> None:
        if (id(observer), kind) in self._complained:
            return
        self._complained.add((id(observer), kind))
        _log.exception("%s cannot take %s: a defect of ours, told once", type(observer).__name__, kind.__name__)
