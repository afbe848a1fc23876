"""The life of the process: signals, grace period, exit code."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from typing import TypeAlias

from msgspec.structs import replace

from ai_task_processor.app import App, World, open_app
from ai_task_processor.domain.errors import ConfigurationError, JournalError
from ai_task_processor.domain.events import ConfigurationChanged, ConfigurationRefused
from ai_task_processor.domain.ports import Observer
from ai_task_processor.ops.lines import LogObserver
from ai_task_processor.ops.logs import configure_logging
from ai_task_processor.settings import Settings, changes_between, load_settings
from ai_task_processor.wiring.tracing import open_tracer

RARE_COLLECTIONS = (20_000, 20, 20)
"""Thresholds of the garbage collector: what the flow makes is freed without it, but for the odd exception."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

Reread: TypeAlias = Callable[[Settings], Settings]


def reread_settings(before: Settings) -> Settings:
    """Read the configuration that is to take the place of ``before``; raises ConfigurationError."""
    return load_settings(before=before)


def run_daemon(settings: Settings, *, reread: Reread = reread_settings, world: World | None = None) -> None:
    """Run until a signal asks to stop; ``world`` may bring task types and engines of its own.

    On SIGHUP ``reread`` is given the settings that hold, and answers those that are to. Raises ConfigurationError,
    JournalError, or whatever crashed a stage.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(Daemon(settings, reread, world or World()).live())


class Daemon:
    """One life: started, stopped by the first signal, cut short by the second or at the end of the grace period."""

    def __init__(self, settings: Settings, reread: Reread, world: World) -> None:
        self._settings = settings
        self._reread = reread
        self._world = world
        self._app: App | None = None
        self._asked: asyncio.Queue[str] = asyncio.Queue()
        self._reread_asked = asyncio.Event()

    def ask_to_stop(self, reason: str) -> None:
        """Stop; asked a second time, stop at once."""
        self._asked.put_nowait(reason)

    def poll_now(self) -> None:
        """Poll the Task API at once; a start does so anyway."""
        if self._app:
            self._app.poll_now()

    def read_settings_again(self) -> None:
        """Go on with the settings as they are written now; a start takes that up when everything runs."""
        self._reread_asked.set()

    async def live(self) -> None:
        """Run the application until it is asked to stop and has done so."""
        with self._signals():
            try:
                async with asyncio.TaskGroup() as group:
                    work = group.create_task(self._work(), name="work")
                    group.create_task(self._watch(work), name="stop watch")
            except ExceptionGroup as errors:  # before 3.11.4 `except*` would put what it raises into a group
                if errors.split((ConfigurationError, JournalError))[1]:
                    raise
                raise _first(errors) from None

    async def _work(self) -> None:
        world = self._world
        logger = configure_logging(self._settings.log_level, self._settings.log_format)
        log = LogObserver(logger, clock=world.clock)
        async with AsyncExitStack() as stack:
            told = stack.enter_context(_bars(log)) if self._has_audience() else log
            tracer = world.tracer or await stack.enter_async_context(open_tracer(told))
            app = await stack.enter_async_context(
                open_app(self._settings, observers=[told], world=replace(world, watches=True, tracer=tracer))
            )
            self._app = app
            gc.set_threshold(*RARE_COLLECTIONS)
            gc.freeze()  # what is here stays: a collection need not look at it, which would hold up the loop
            async with asyncio.TaskGroup() as group:
                rereading = group.create_task(self._follow_settings(app, log), name="settings")
                await app.run()
                rereading.cancel()

    async def _follow_settings(self, app: App, log: LogObserver) -> None:
        while True:
            await self._reread_asked.wait()
            self._reread_asked.clear()
            try:
                settings = await asyncio.to_thread(self._reread, self._settings)
            except ConfigurationError as error:
                app.observer(ConfigurationRefused(faults=error.faults))
            else:
                await self._change_to(settings, app, log)

    async def _change_to(self, settings: Settings, app: App, log: LogObserver) -> None:
        """Change everything, and tell of it at the level that tells more."""
        changes = changes_between(self._settings, settings)
        await app.adjust(settings)
        levels = (self._settings.log_level, settings.log_level)
        log.adjust(configure_logging(min(levels, key=LEVELS.index), settings.log_format))
        app.observer(ConfigurationChanged(changes=changes))
        log.adjust(configure_logging(settings.log_level, settings.log_format))
        self._settings = settings

    def _has_audience(self) -> bool:
        return self._settings.log_format != "json" and sys.stdout.isatty()

    async def _watch(self, work: asyncio.Task[None]) -> None:
        """Carry the wish to stop to the work; end with it."""
        asked = asyncio.create_task(self._asked.get(), name="stop asked")
        try:
            await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and not work.done():
                await self._stop(work, asked.result())
        finally:
            asked.cancel()

    async def _stop(self, work: asyncio.Task[None], reason: str) -> None:
        if self._app is None:
            work.cancel()  # nothing is held before everything runs
            return
        grace = self._settings.shutdown_grace_seconds
        self._app.stop(reason, grace)
        again = asyncio.create_task(self._asked.get(), name="second signal")
        await asyncio.wait({work, again}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        work.cancel()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Listen to signals; afterwards they mean what they meant before: a late one is not to look like a crash."""
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_to_stop, number.name)
        loop.add_signal_handler(signal.SIGUSR1, self.poll_now)
        loop.add_signal_handler(signal.SIGHUP, self.read_settings_again)
        try:
            yield
        finally:
            for number, meaning in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, meaning or signal.SIG_DFL)


def _bars(log: LogObserver) -> AbstractContextManager[Observer]:
    from rich.console import Console  # noqa: PLC0415  # a start without a terminal needs neither

    from ai_task_processor.ops.downloads import DownloadBars  # noqa: PLC0415

    return DownloadBars(Console(), beside=log)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error  # type: ignore[return-value]  # a group of exceptions holds no other


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """Answer uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  # imported only when a loop is made
    except ImportError:
        return None
    return uvloop.Loop
