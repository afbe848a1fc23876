from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from ai_task_processor.domain.errors import AuthenticationFailed, TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.events import FeatureFound, FeatureLost
from ai_task_processor.domain.ports import Wish
from ai_task_processor.domain.task import Page, Task
from ai_task_processor.task_api.claiming import LARGEST_RENEWAL, MOST_RENEWED, ClaimingSource, portions_of
from ai_task_processor.task_api.features import FIRST_WAIT
from tests.fakes.task_api_server import BODY_LIMIT, FakeTaskApi, Fault, answer, drop

ASK = {"limit": 0, "leaseSeconds": 1, "worker": "nobody"}


@dataclass
class Claimant:
    """One that claims for a minute, as ``me``."""

    source: ClaimingSource
    side: Any
    api: FakeTaskApi

    async def fetch(self, limit: int = 10, new: int = 3) -> Page:
        return await self.source.fetch(Wish(limit, new=new))

    async def ids(self, **limits: int) -> list[str]:
        return [task.id for task in (await self.fetch(**limits)).tasks]

    def later(self, seconds: float) -> None:
        self.side.clock.advance(seconds)


@pytest.fixture
def claimant(api: FakeTaskApi, side: Any) -> Claimant:
    api.features = {"claim", "bulk"}
    api.add({"_id": "a"}, {"_id": "b"}, {"_id": "c"}, {"_id": "d"})
    source = ClaimingSource(side.client, side.features, worker="me", lease_seconds=60, clock=side.clock)
    return Claimant(source, side, api)


async def test_so_many_are_claimed_as_there_is_room_for(claimant: Claimant) -> None:
    page = await claimant.fetch(10, 3)
    assert [task.id for task in page.tasks] == ["a", "b", "c"]
    assert page.claimed
    assert page.listed == 3
    assert await claimant.ids() == ["d"]
    assert await claimant.ids() == []
    assert claimant.api.claims == [ASK, *[{"limit": 3, "leaseSeconds": 60, "worker": "me"}] * 3]
    assert claimant.api.fetches == []
    claimant.later(60)
    assert await claimant.ids() == ["a", "b", "c"]


async def test_tasks_of_other_types_are_counted(claimant: Claimant) -> None:
    claimant.api.tasks["b"]["type"] = "summary"
    page = await claimant.source.fetch(Wish(10, new=10, most=2, types=["text_embedding"]))
    assert [task.id for task in page.tasks] == ["a", "c", "d"]
    assert page.foreign == {"summary": 1}


async def test_without_the_route_tasks_are_listed(claimant: Claimant) -> None:
    claimant.api.features.clear()
    for _ in range(3):
        page = await claimant.fetch(2, 1)
        assert [task.id for task in page.tasks] == ["a", "b"]
        assert not page.claimed
    assert not await claimant.source.used()
    assert claimant.side.seen(FeatureLost) == []


@pytest.mark.parametrize(
    "fault",
    [
        answer(404),
        answer(404, "<html>Cannot POST /api/ai-tasks/claim</html>"),
        answer(405, "<html>Not Allowed</html>"),
        answer(400),
        answer(422),
        answer(403),
        answer(500),
        answer(501),
        answer(200, {"_id": "claim", "state": "pending"}),
        answer(201, ""),
        answer(200, "<html>Welcome</html>"),
        answer(302, "", headers={"Location": "/login"}),
    ],
)
async def test_whatever_an_api_without_the_route_makes_of_the_question_tasks_are_listed(
    claimant: Claimant, fault: Fault
) -> None:
    claimant.api.always("claim", fault)
    assert await claimant.ids() == ["a", "b", "c", "d"]
    asked = len(claimant.api.claims)
    assert await claimant.ids() == ["a", "b", "c", "d"]
    assert len(claimant.api.claims) == asked


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (drop(), "does not answer"),
        (answer(429), "cannot do it now"),
        (answer(503, headers={"Retry-After": "7"}), "cannot do it now"),
        (answer(502), "cannot do it now"),
    ],
)
async def test_an_api_that_is_away_is_asked_again_before_anything_is_listed(
    claimant: Claimant, fault: Fault, words: str
) -> None:
    claimant.api.script("claim", fault)
    with pytest.raises(TaskApiUnavailable, match=words):
        await claimant.fetch()
    assert claimant.api.fetches == []
    assert await claimant.ids() == ["a", "b", "c"]


async def test_a_404_that_is_said_of_everything_loses_no_route(claimant: Claimant) -> None:
    """As an ingress answers while the application restarts: replicas must not all list the same tasks then."""
    await claimant.fetch(new=1)
    claimant.api.always("claim", answer(404, "default backend - 404"))
    claimant.api.always("fetch", answer(404, "default backend - 404"))
    with pytest.raises(TaskApiUnavailable):
        await claimant.fetch()
    claimant.api.heal()
    assert await claimant.ids() == ["b", "c", "d"]
    assert claimant.side.seen(FeatureLost) == []


@pytest.mark.parametrize("status", [404, 405, 410, 501])
async def test_a_lost_route_is_done_without_in_the_same_round_and_found_again(claimant: Claimant, status: int) -> None:
    await claimant.fetch(new=1)
    claimant.api.always("claim", answer(status))
    page = await claimant.fetch()
    assert [task.id for task in page.tasks] == ["b", "c", "d"]
    assert not page.claimed
    (lost,) = claimant.side.seen(FeatureLost)
    assert (lost.feature, str(status) in lost.reason) == ("claim", True)
    claimant.api.heal()
    claimant.later(FIRST_WAIT - 1)
    assert not (await claimant.fetch()).claimed
    claimant.later(1)
    assert (await claimant.fetch()).claimed
    assert len(claimant.side.seen(FeatureFound)) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (answer(500), TaskApiUnavailable),
        (answer(503), TaskApiUnavailable),
        (answer(422), TaskApiRejected),
        (answer(401), AuthenticationFailed),
        (answer(200, "<html>maintenance</html>"), TaskApiUnavailable),
        (answer(200, {"error": "what?"}), TaskApiUnavailable),
        (drop(effect=True), TaskApiUnavailable),
    ],
)
async def test_other_faults_of_a_known_route_are_faults(
    claimant: Claimant, fault: Fault, error: type[Exception]
) -> None:
    await claimant.source.used()
    claimant.api.script("claim", fault, fault)
    with pytest.raises(error):
        await claimant.fetch()
    assert claimant.api.fetches == []
    assert claimant.side.features.known("claim")


async def test_an_answer_that_is_lost_leaves_the_tasks_until_their_lease_ends(claimant: Claimant) -> None:
    await claimant.source.used()
    claimant.api.script("claim", drop(effect=True))
    with pytest.raises(TaskApiUnavailable):
        await claimant.fetch(new=3)
    assert await claimant.ids() == ["d"]
    claimant.later(60)
    assert await claimant.ids() == ["a", "b", "c"]


async def test_a_renewed_lease_begins_anew(claimant: Claimant) -> None:
    assert await claimant.ids() == ["a", "b", "c"]
    claimant.later(40)
    await claimant.source.renew(["a", "c", "x"])
    claimant.later(40)
    assert await claimant.ids() == ["b", "d"]


async def test_many_leases_are_renewed_in_bodies_that_anybody_takes(claimant: Claimant) -> None:
    ids = [f"{number:024x}" for number in range(10_000)]
    await claimant.source.renew(ids)
    sent = claimant.api.claims
    assert [task_id for body in sent for task_id in body["renew"]] == ids
    assert all(len(orjson.dumps(body)) < BODY_LIMIT for body in sent)
    assert len(sent) < 10


async def test_a_renewal_without_the_route_is_left_to_the_next_fetch(claimant: Claimant) -> None:
    await claimant.source.used()
    claimant.api.features.clear()
    await claimant.source.renew(["a"])
    assert claimant.side.features.known("claim")
    assert not (await claimant.fetch()).claimed
    assert not claimant.side.features.known("claim")


@pytest.mark.parametrize("ids", [[], ["a"], ["é" * 250] * 300, ["1"] * 12_345])
def test_portions_hold_everything_in_order(ids: list[str]) -> None:
    portions = list(portions_of(ids))
    assert [task_id for portion in portions for task_id in portion] == ids
    assert all(portions)
    assert all(sum(len(each.encode()) + 3 for each in portion) <= LARGEST_RENEWAL for portion in portions)
    assert all(len(portion) <= MOST_RENEWED for portion in portions)


async def test_a_claimed_task_need_not_be_announced(claimant: Claimant) -> None:
    task = Task("a", "text_embedding", None, 0.0)
    await claimant.fetch()
    await claimant.side.reporter.announce(task)
    assert claimant.api.patches == {}
    claimant.side.features.lack("claim", "404")
    await claimant.side.reporter.announce(task)
    assert claimant.api.patches == {"a": [{"state": "in_progress"}]}
