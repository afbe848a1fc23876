import io

from rich.console import Console

from ai_task_processor.domain.events import ModelDownloaded, ModelDownloading, ModelsMissing, Running
from ai_task_processor.ops.downloads import DownloadBars
from tests.fakes.flow import Recorder


def bars() -> tuple[DownloadBars, Console, Recorder]:
    seen = Recorder()
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    return DownloadBars(console, beside=seen), console, seen


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_download_is_drawn_and_its_figures_are_not_passed_on() -> None:
    observer, console, seen = bars()
    with observer:
        observer(ModelDownloading("ollama", "nomic", completed=50_000_000, total=200_000_000))
        observer._progress.refresh()
    assert "Downloading nomic" in shown(console)
    assert "50.0/200.0 MB" in shown(console)
    assert seen.events == []


def test_everything_else_is_passed_on() -> None:
    observer, _, seen = bars()
    events = [Running(), ModelDownloading("ollama", "nomic"), ModelDownloaded("ollama", "nomic")]
    with observer:
        for event in events:
            observer(event)
    assert seen.events == events


def test_bars_are_gone_when_a_download_ends_or_fails() -> None:
    observer, console, _ = bars()
    with observer:
        observer(ModelDownloading("ollama", "a", completed=1, total=2))
        observer(ModelDownloading("ollama", "b", completed=1, total=2))
        assert console._live_stack
        observer(ModelDownloaded("ollama", "a"))
        assert console._live_stack
        observer(ModelsMissing("ollama", "broke off", rest=5))
        assert not console._live_stack


def test_leaving_takes_the_bars_away() -> None:
    observer, console, _ = bars()
    with observer:
        observer(ModelDownloading("ollama", "a", completed=1, total=2))
        assert console._live_stack
    assert not console._live_stack
