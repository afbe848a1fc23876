import orjson
import pytest
from msgspec.structs import replace

from ai_task_processor.domain.ports import Backlog
from ai_task_processor.ops.health import Check
from ai_task_processor.ops.status.facts import Minute, Status, Window
from ai_task_processor.ops.status.wording import Headline, as_json, headline
from tests.fakes.status import CHECKS, FRESH, PAUSED, SAMPLES, TROUBLED, WELL
from tests.fakes.time import BEGINNING

NOT_READY = CHECKS | {"token": Check(ok=False, detail="refused")}
QUIET = replace(WELL, in_flight=0, backlog=Backlog(), windows=())
FULL = Window("cost", "day", 5, 5, 0, BEGINNING + 60)


@pytest.mark.parametrize(
    ("status", "level", "title", "sentence"),
    [
        (WELL, "good", "Ready", "At work on 64 tasks."),
        (QUIET, "good", "Ready", "Nothing to do at the moment."),
        (replace(QUIET, backlog=Backlog(ready=1)), "good", "Ready", "1 task to be taken up."),
        (replace(QUIET, backlog=Backlog(deferred=2)), "good", "Ready", "2 tasks put off until later"),
        (replace(QUIET, windows=TROUBLED.windows), "good", "Ready", "room again: tasks per minute are used up."),
        (replace(QUIET, windows=(FULL,)), "attention", "Ready, with", "money per day are used up"),
        (FRESH, "bad", "Not ready", "It waits for: token, Task API."),
        (replace(WELL, phase="starting", checks=NOT_READY), "resting", "Starting", "nothing runs yet"),
        (replace(WELL, phase="stopping", checks=NOT_READY), "resting", "Stopping", "what is held is finished"),
        (PAUSED, "resting", "Paused", "until somebody resumes it"),
        (replace(PAUSED, checks=NOT_READY), "bad", "Not ready", "It waits for: token."),
        (replace(WELL, alive=False), "bad", "Not alive", "No poll was attempted"),
    ],
)
def test_the_headline_answers_the_first_question(status: Status, level: str, title: str, sentence: str) -> None:
    head = headline(status)
    assert head.level == level
    assert head.title.startswith(title)
    assert sentence in head.sentence


def worries(**facts: object) -> str:
    return " ".join(headline(replace(QUIET, **facts)).worries)  # type: ignore[arg-type]  # facts are fields


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"backlog": None}, "journal does not answer"),
        ({"backlog": Backlog(parked=3)}, "3 results parked"),
        ({"backlog": Backlog(unreported=1, oldest_unreported=BEGINNING - 1_000)}, "for 16 min"),
        ({"breakers": TROUBLED.breakers}, "circuit breaker of openai is open: openai answered 503"),
        ({"refusals": PAUSED.refusals}, "openai is paused: insufficient_quota"),
        ({"windows": (FULL,)}, "Used up: money per day; tasks wait and none fails"),
        ({"minutes": (Minute(succeeded=7, failed=3),)}, "3 of 10 tasks failed in an hour."),
        ({"paused": True, "checks": NOT_READY}, "It is paused"),
    ],
)
def test_what_is_worth_a_look_is_told(facts: dict[str, object], words: str) -> None:
    assert words in worries(**facts)


def test_nothing_worth_a_look_is_told_where_all_is_well() -> None:
    assert headline(WELL) == Headline("good", "Ready", "At work on 64 tasks.", ())
    assert worries(backlog=Backlog(unreported=1, oldest_unreported=BEGINNING - 800)) == ""
    assert worries(windows=TROUBLED.windows) == "", "a full minute is how a limit works"


@pytest.mark.parametrize("name", SAMPLES)
def test_the_same_facts_as_json(name: str) -> None:
    status = SAMPLES[name]
    body = orjson.loads(orjson.dumps(as_json(status)))
    assert (body["state"], body["level"]) == (status.state, headline(status).level)
    assert body["worries"] == list(headline(status).worries)
    assert body["checks"]["token"] == {"ok": status.checks["token"].ok, "detail": status.checks["token"].detail}
    assert len(body["minutes"]) == 60
