import re
from io import StringIO

import pytest
from msgspec.structs import replace
from rich.console import Console

from ai_task_processor.ops.status.facts import Minute, ParkedTask, Status
from ai_task_processor.ops.status.terminal import rendered, sparkline
from tests.fakes.status import FRESH, PAUSED, SAMPLES, TROUBLED, WELL


def shown(status: Status, *, width: int = 120, colours: bool = False) -> str:
    output = StringIO()
    console = Console(file=output, width=width, force_terminal=colours, color_system="standard" if colours else None)
    console.print(rendered(status))
    return output.getvalue()


def words(status: Status) -> str:
    return re.sub(r"\s+", " ", shown(status))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (WELL, "✓ Ready At work on 64 tasks."),
        (WELL, "openai mode · version 1.2.3 · up 3 d 4 h · polled 4 s ago · processor-7c9f4d"),
        (WELL, f"Settled in an hour {WELL.hour.settled:,} "),
        (WELL, "Tasks per minute ████████████░░░░░░░░░░░░ 58 of 120 62 left, more room in 12 s"),
        (WELL, "✓ Task API closed, calls pass, for 3 d"),
        (WELL, "Money $0.0078 $44.02"),
        (WELL, "60 min ago at most 127 a minute now"),
        (FRESH, "✗ Not ready It waits for: token, Task API."),
        (FRESH, "Nothing has been fetched yet: credentials refused"),
        (FRESH, "✗ token credentials refused: invalid_client"),
        (FRESH, "No limit is set."),
        (TROUBLED, "! 23 results parked"),
        (TROUBLED, "✗ openai open, calls are kept away, for 42 s: openai answered 503"),
        (TROUBLED, "Parked tasks (21 more tasks not shown)"),
        (TROUBLED, "68b89107952364b0aad89c1d content.text is empty. 1 min ago"),
        (PAUSED, "‖ Paused"),
        (PAUSED, "✗ openai paused, tried again in 4 min: insufficient_quota"),
        (PAUSED, "Waiting ? the journal does not answer"),
    ],
)
def test_it_says_what_the_page_says(status: Status, said: str) -> None:
    assert said in words(status)


@pytest.mark.parametrize("name", SAMPLES)
def test_no_line_is_wider_than_the_terminal(name: str) -> None:
    assert max(map(len, shown(SAMPLES[name], width=60).splitlines())) <= 60


def test_what_servers_say_is_neither_markup_nor_a_command_to_the_terminal() -> None:
    said = "[red]\x1b[2J\x07 [link=file:///]x[/link]"
    told = replace(TROUBLED, host=said, parked=(ParkedTask("[b]1[/b]", "t", None, said),))
    output = shown(told, colours=True)
    assert "[red]" in output
    assert "[b]1[/b]" in output
    assert "\x1b[2J" not in output
    assert "\x07" not in output


@pytest.mark.parametrize(
    ("settled", "drawn"),
    [([], ""), ([0, 0], "  "), ([8, 4, 1, 0], "█▄▁ "), ([1_000_000, 1], "█▁"), ([3, 3], "██")],
)
def test_a_line_of_bars(settled: list[int], drawn: str) -> None:
    assert sparkline([Minute(succeeded=number) for number in settled]) == drawn
