"""Bars for models that are being pulled, where a person looks on."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ai_task_processor.domain.events import Event, ModelDownloaded, ModelDownloading, ModelsMissing
from ai_task_processor.domain.ports import Observer


class DownloadBars:
    """An observer that draws how far each download is, and passes everything else on to ``beside``.

    A context manager: leaving it takes the bars away. Lines written to the console meanwhile stand above the bars.
    """

    def __init__(self, console: Console, *, beside: Observer) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._beside = beside
        self._bars: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Draw ``event``, or pass it on."""
        match event:
            case ModelDownloading(model=model, completed=completed, total=total) if total:
                self._draw(model, completed, total)
                return
            case ModelDownloaded(model=model):
                self._remove(model)
            case ModelsMissing():
                self._remove(*self._bars)
        self._beside(event)

    def __enter__(self) -> Self:
        """Begin without a bar."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away."""
        self._remove(*self._bars)

    def _draw(self, model: str, completed: int, total: int) -> None:
        if model not in self._bars:
            self._bars[model] = self._progress.add_task(f"Downloading {model}", total=total)
            self._progress.start()
        self._progress.update(self._bars[model], completed=completed, total=total)

    def _remove(self, *models: str) -> None:
        for model in models:
            if model in self._bars:
                self._progress.remove_task(self._bars.pop(model))
        if not self._bars:
            self._progress.stop()
