"""What the page says; how it looks and behaves is seen in a browser (tests/flow/test_status_page.py)."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import get_type_hints

import pytest
from msgspec.structs import replace

from ai_task_processor.domain.ports import Backlog
from ai_task_processor.ops.status.facts import Breaker, Status, Window
from ai_task_processor.ops.status.page import HEADERS, page, sections
from tests.fakes.status import FRESH, HOSTILE, PAUSED, SAMPLES, TROUBLED, WELL
from tests.fakes.time import BEGINNING

samples = pytest.mark.parametrize("status", SAMPLES.values(), ids=SAMPLES)


class Text(HTMLParser):
    """What a reader sees, without marks and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def says(status: Status, section: str) -> str:
    reader = Text()
    reader.feed(sections(status)[section])
    return re.sub(r"\s+", " ", " ".join(reader.said))


def inline(kind: str) -> str:
    found = re.search(rf"<{kind}>(.*)</{kind}>", page(WELL), re.DOTALL)
    assert found
    return found[1]


# --- Safe -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["script", "style"])
def test_only_its_own_script_and_style_are_obeyed(kind: str) -> None:
    digest = base64.b64encode(hashlib.sha256(inline(kind).encode()).digest()).decode()
    policy = HEADERS["Content-Security-Policy"]
    assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@samples
def test_no_element_has_a_style_or_a_handler_of_its_own(status: Status) -> None:
    for opening in re.findall(r"<[a-z][^>]*>", page(status)):
        assert not re.search(r"\s(style|on\w+)=", opening)


@samples
def test_nothing_is_fetched_from_elsewhere(status: Status) -> None:
    elements = "".join(re.findall(r"<[a-z][^>]*>", page(status)))
    links = re.findall(r'(?:src|href|action|srcset|data)="([^"]+)"', elements) + re.findall(
        r"url\(|@import", page(status)
    )
    assert {link for link in links if not link.startswith(("#", "data:image/svg+xml,"))} == {
        "./", "status", "health", "ready", "metrics",
    }  # fmt: skip


def test_every_word_from_outside_is_escaped() -> None:
    hostile = {name: HOSTILE for name, kind in get_type_hints(Status).items() if kind is str}
    told = replace(
        TROUBLED,
        **hostile,
        windows=(Window("tasks", HOSTILE, 1, 1, 0, None),),
        breakers=(Breaker(HOSTILE, HOSTILE, BEGINNING, HOSTILE),),
    )
    written = page(told).replace(f"<script>{inline('script')}</script>", "")
    assert "&lt;script&gt;alert(2)" in written
    assert "<script" not in written
    assert "<img" not in written


# --- Says it ----------------------------------------------------------------------------------------------------------


def test_who_it_is() -> None:
    assert says(WELL, "identity").split(" · ")[0].strip().startswith("AI Task Processor")
    for fact in ("openai", "version 1.2.3", "up 3 d 4 h", "polled 4 s ago", "processor-7c9f4d"):
        assert fact in says(WELL, "identity")
    assert "not polled yet" in says(FRESH, "identity")


@pytest.mark.parametrize(
    ("tile", "figure"),
    [
        ("Settled in an hour", "3,265"),
        ("In flight", "64"),
        ("Waiting", "1,235"),
        ("To deliver", "5"),
        ("Parked", "0"),
    ],
)
def test_figures(tile: str, figure: str) -> None:
    expected = f"{WELL.hour.settled:,}" if tile.startswith("Settled") else figure
    assert re.search(rf"{tile} {expected} ", says(WELL, "figures"))


def test_many_failures_stand_out_and_few_do_not() -> None:
    assert '<strong class="bad">' not in sections(WELL)["figures"]
    many = replace(WELL, minutes=tuple(replace(one, failed=one.succeeded) for one in WELL.minutes))
    assert '<strong class="bad">' in sections(many)["figures"]


def test_a_journal_that_does_not_answer_is_no_zero() -> None:
    assert "Waiting ? the journal does not answer" in says(PAUSED, "figures")
    assert "The journal does not answer in time" in says(PAUSED, "parked")


def test_limits_say_how_full_they_are_and_until_when() -> None:
    said = says(WELL, "limits")
    assert "Tasks per minute 58 of 120 62 left, more room in 12 s" in said
    assert "Tokens per day 8.4M of 50M 41.6M left, more room in 3 h 1 min" in said
    assert "Money per month $44.02 of $200.00 $155.98 left, more room in 9 d" in said
    assert "used up, room again in 12 s" in says(TROUBLED, "limits")
    assert "62 left, anew in 12 s" in says(replace(WELL, limits_strategy="fixed"), "limits")
    widths = re.findall(r'class="used" width="([\d.]+)%"', sections(WELL)["limits"])
    assert widths == ["48.3", "93.1", "16.8", "22.0"]
    assert re.findall(r'class="window (\w+)"', sections(TROUBLED)["limits"]) == [
        "attention", "attention", "good", "good",
    ]  # fmt: skip


def test_checks_say_so_in_words_too() -> None:
    assert "not ok: token credentials refused" in says(FRESH, "checks")
    assert "ok: state writable" in says(FRESH, "checks")


def test_breakers_and_pauses_say_why() -> None:
    assert "openai open, calls are kept away, for 42 s : openai answered 503" in says(TROUBLED, "breakers")
    assert "openai paused, tried again in 4 min : insufficient_quota" in says(PAUSED, "breakers")


def test_parked_tasks_say_what_to_do_and_how_many_are_not_shown() -> None:
    said = says(TROUBLED, "parked")
    assert "68b89107952364b0aad89aaa answered 413: too large 1 h ago" in said
    assert (
        "21 more tasks not shown. When the cause is mended, ai-task-processor journal retry sends them again." in said
    )


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("throughput", "Nothing has been fetched yet: credentials refused: invalid_client"),
        ("limits", "No limit is set."),
        ("parked", "Nothing is parked"),
        ("failures", "No task has failed since the start."),
    ],
)
def test_where_there_is_nothing_it_says_so(section: str, words: str) -> None:
    assert words in says(FRESH, section)


def test_an_idle_hour_is_not_an_empty_drawing() -> None:
    idle = replace(FRESH, polled_at=BEGINNING - 7)
    assert "Nothing was settled in the last hour. The last poll was 7 s ago." in says(idle, "throughput")


@samples
def test_every_part_that_changes_is_on_the_page_once(status: Status) -> None:
    whole = page(status)
    for name, part in sections(status).items():
        assert whole.count(part) == 1
        assert whole.count(f'id="{name}"') == 1


def test_it_is_small() -> None:
    most = replace(TROUBLED, failures=TROUBLED.failures * 7, parked=TROUBLED.parked * 10, backlog=Backlog(parked=20))
    assert len(page(most)) < 100_000
