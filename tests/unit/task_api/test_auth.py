import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from ai_task_processor.domain.errors import AuthenticationFailed, TaskApiError, TaskApiUnavailable
from ai_task_processor.domain.events import ApiRequested, TokenFailed, TokenObtained
from tests.fakes.task_api_server import CLIENT_ID, CLIENT_SECRET, FakeTaskApi, answer, drop, hang
from tests.fakes.time import ManualClock

Connect = Callable[..., Any]


async def test_the_request_is_what_the_contract_says(api: FakeTaskApi, side: Any) -> None:
    await side.fetch()
    (request,) = api.token_requests
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Authorization"].startswith("Basic ")
    assert request.body == {"grant_type": "client_credentials", "scope": "read write"}
    assert api.fetches[0].headers["Authorization"] == "Bearer token-1-of-the-tests"
    assert side.seen(TokenObtained) == [TokenObtained(expires_in=3600.0)]
    assert side.auth.holds_token


async def test_credentials_in_the_body_and_an_audience(api: FakeTaskApi, connect: Connect) -> None:
    side = connect(auth_method="client_secret_post", audience="https://api.example", scope="")
    async with side.client:
        await side.fetch()
    (request,) = api.token_requests
    assert "Authorization" not in request.headers
    assert request.body == {
        "grant_type": "client_credentials",
        "audience": "https://api.example",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_secrets_with_odd_characters(api: FakeTaskApi, connect: Connect, method: str) -> None:
    api.client_secret = "p%C3 +&=:/?\u00e9"
    side = connect(auth_method=method, client_secret=api.client_secret)
    async with side.client:
        await side.fetch()
    assert len(api.fetches) == 1


async def test_a_server_that_wants_them_encoded_as_the_standard_says_is_asked_once(
    api: FakeTaskApi, connect: Connect
) -> None:
    api.client_id, api.client_secret = "the+client", "100%25+%2B"
    side = connect(client_id="the client", client_secret="100% +")
    async with side.client:
        await side.fetch()
    assert len(api.token_requests) == 1


async def test_a_server_that_takes_them_as_they_are_is_asked_in_vain_once(
    api: FakeTaskApi, connect: Connect, clock: ManualClock
) -> None:
    api.client_secret = "100% +"
    side = connect(client_secret=api.client_secret)
    async with side.client:
        await side.fetch()
        clock.advance(3_600)
        await side.fetch()
    assert len(api.token_requests) == 3


async def test_credentials_that_are_wrong_are_tried_either_way(api: FakeTaskApi, connect: Connect) -> None:
    side = connect(client_secret="100 + 1")
    async with side.client:
        with pytest.raises(AuthenticationFailed, match="invalid_client"):
            await side.fetch()
    assert len(api.token_requests) == 2
    assert [event.refused for event in side.seen(TokenFailed)] == [True]


async def test_a_secret_that_basic_cannot_carry(connect: Connect) -> None:
    side = connect(client_secret="secret-\u20ac")
    async with side.client:
        with pytest.raises(AuthenticationFailed, match="OAUTH2_AUTH_METHOD=client_secret_post"):
            await side.fetch()


@pytest.mark.parametrize(
    ("life", "kept", "replaced"),
    [(3600, 3539, 3541), ("3600", 3539, 3541), (100, 79, 81), (3, 2.3, 2.5), (None, 3539, 3541), (0, 3539, 3541)],
)
async def test_a_token_is_replaced_early_and_not_earlier(
    api: FakeTaskApi, side: Any, clock: ManualClock, life: object, kept: float, replaced: float
) -> None:
    api.token_life = life
    await side.fetch()
    clock.advance(kept)
    await side.fetch()
    assert len(api.token_requests) == 1
    clock.advance(replaced - kept)
    await side.fetch()
    assert len(api.token_requests) == 2
    assert {request.headers["Authorization"] for request in api.fetches} == {
        "Bearer token-1-of-the-tests",
        "Bearer token-2-of-the-tests",
    }


async def test_tokens_of_three_seconds_serve_many_requests(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    api.token_life = 3
    for _ in range(120):
        await side.fetch()
        clock.advance(0.1)
    assert len(api.token_requests) <= 6
    assert all(event.status == 200 for event in side.seen(ApiRequested))


async def test_a_hundred_at_once_need_one_token(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    await side.fetch()
    clock.advance(3600)
    await asyncio.gather(*(side.fetch() for _ in range(100)))
    assert len(api.token_requests) == 2
    assert len(api.fetches) == 101


async def test_a_hundred_at_once_share_one_failure(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    api.always("token", answer(503))
    errors = await asyncio.gather(*(side.auth.token() for _ in range(100)), return_exceptions=True)
    assert {(type(error), str(error)) for error in errors} == {
        (TaskApiUnavailable, "the token endpoint cannot do it now (HTTP 503)")
    }
    assert len(api.token_requests) == 1
    assert len(side.seen(TokenFailed)) == 1
    clock.advance(1)
    await asyncio.gather(*(side.auth.token() for _ in range(100)), return_exceptions=True)
    assert len(api.token_requests) == 2


async def test_a_dead_endpoint_is_asked_ever_more_seldom(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    api.always("token", drop())
    for _ in range(600):
        with pytest.raises(TaskApiUnavailable):
            await side.fetch()
        clock.advance(1)
    assert 10 <= len(api.token_requests) <= 20
    assert side.breaker.state == "closed"
    api.heal()
    clock.advance(60)
    await side.fetch()
    api.always("token", answer(500))
    clock.advance(3600)
    before = len(api.token_requests)
    for _ in range(3):
        with pytest.raises(TaskApiUnavailable):
            await side.fetch()
        clock.advance(1)
    assert len(api.token_requests) - before == 2


async def test_the_error_says_when_to_come_back(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    api.script("token", answer(429, headers={"Retry-After": "40"}))
    with pytest.raises(TaskApiUnavailable) as first:
        await side.fetch()
    assert first.value.retry_after == 40.0
    clock.advance(15)
    with pytest.raises(TaskApiUnavailable) as second:
        await side.fetch()
    assert second.value.retry_after == 25.0
    clock.advance(25)
    await side.fetch()


async def test_wrong_credentials_name_what_to_check_and_are_tried_slowly(
    api: FakeTaskApi, connect: Connect, clock: ManualClock
) -> None:
    side = connect(client_secret="wrong-secret")
    async with side.client:
        for _ in range(600):
            with pytest.raises(AuthenticationFailed, match="invalid_client") as caught:
                await side.fetch()
            clock.advance(1)
        assert len(api.token_requests) == 5
        for variable in ("OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET", "ORY_PROJECT_SLUG", "OAUTH2_TOKEN_URL"):
            assert variable in str(caught.value)
        assert all(event.refused for event in side.seen(TokenFailed))
        assert not side.auth.holds_token
        api.client_secret = "wrong-secret"
        clock.advance(300)
        await side.fetch()


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (answer(200, "<html>hello</html>"), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"hello": 1}), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"access_token": ""}), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"access_token": "a\nb"}), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"access_token": 7}), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"access_token": "a", "token_type": "mac"}), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"access_token": "a", "expires_in": "soon"}), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"access_token": "a", "expires_in": [1]}), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, b'{"access_token": "a", "expires_in": 1e999}'), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, [1]), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, b""), TaskApiUnavailable, "not with a bearer token"),
        (answer(200, {"error": "invalid_client"}), AuthenticationFailed, "OAUTH2_CLIENT_ID"),
        (answer(200, {"error": {"code": 401}}), AuthenticationFailed, "OAUTH2_CLIENT_ID"),
        (answer(400, {"error": "invalid_scope"}), AuthenticationFailed, "check OAUTH2_SCOPE"),
        (answer(400, {"error": "temporarily_unavailable"}), TaskApiUnavailable, "cannot do it now"),
        (answer(401, "no"), AuthenticationFailed, "OAUTH2_CLIENT_SECRET"),
        (answer(403, {"error": {"code": 403}}), AuthenticationFailed, "OAUTH2_CLIENT_SECRET"),
        (answer(404), AuthenticationFailed, "ORY_PROJECT_SLUG or OAUTH2_TOKEN_URL"),
        (answer(302, headers={"Location": "/login"}), AuthenticationFailed, "ORY_PROJECT_SLUG or OAUTH2_TOKEN_URL"),
        (answer(503, "<html>down</html>"), TaskApiUnavailable, "HTTP 503"),
        (answer(503, {"access_token": "a"}), TaskApiUnavailable, "HTTP 503"),
        (answer(200, b"x" * 50, headers={"Content-Encoding": "gzip"}), TaskApiUnavailable, "does not answer"),
        (drop(), TaskApiUnavailable, "does not answer"),
    ],
)
async def test_every_answer_of_a_token_endpoint_is_understood(
    api: FakeTaskApi, side: Any, clock: ManualClock, wrong: Any, error: type[TaskApiError], words: str
) -> None:
    api.script("token", wrong)
    with pytest.raises(TaskApiError, match=words) as caught:
        await side.fetch()
    assert type(caught.value) is error
    (told,) = side.seen(TokenFailed)
    assert told == TokenFailed(reason=str(caught.value), refused=error is AuthenticationFailed)
    clock.advance(300)
    await side.fetch()


async def test_an_endpoint_that_is_down(api: FakeTaskApi, side: Any) -> None:
    await api.down()
    with pytest.raises(TaskApiUnavailable, match="does not answer"):
        await side.fetch()
    assert [(event.route, event.method, event.status) for event in side.seen(ApiRequested)] == [
        ("/oauth2/token", "POST", 0)
    ]


async def test_an_endpoint_that_hangs(api: FakeTaskApi, connect: Connect) -> None:
    side = connect(timeout=0.02)
    api.script("token", hang())
    async with side.client:
        with pytest.raises(TaskApiUnavailable, match=r"does not answer: .*Timeout"):
            await side.fetch()


async def test_a_token_that_still_lives_is_better_than_none(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    await side.fetch()
    api.always("token", answer(503))
    clock.advance(3550)
    await side.fetch()
    assert len(side.seen(TokenFailed)) == 1
    clock.advance(51)
    with pytest.raises(TaskApiUnavailable):
        await side.fetch()
    assert not side.auth.holds_token


async def test_nobody_waits_for_a_replacement_while_the_token_lives(
    api: FakeTaskApi, side: Any, clock: ManualClock
) -> None:
    await side.fetch()
    api.script("token", hang())
    clock.advance(3550)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(side.fetch())
        await api.until(lambda: len(api.token_requests) == 2)
        await side.fetch()
        assert not first.done()
        api.release()
    assert len(api.fetches) == 3


async def test_a_cancelled_caller_does_not_take_the_others_with_it(api: FakeTaskApi, side: Any) -> None:
    api.script("token", hang())
    async with asyncio.TaskGroup() as group:
        first = group.create_task(side.fetch())
        others = [group.create_task(side.fetch()) for _ in range(5)]
        await api.until(lambda: bool(api.token_requests))
        first.cancel()
        await asyncio.gather(*others)
    assert len(api.token_requests) == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_a_revoked_token_is_replaced_once(api: FakeTaskApi, side: Any, status: int) -> None:
    api.refusal_status = status
    await side.fetch()
    api.revoke_tokens()
    await side.fetch()
    assert len(api.token_requests) == 2
    assert [event.status for event in side.seen(ApiRequested) if event.method == "GET"] == [200, status, 200]


async def test_a_hundred_with_a_revoked_token_need_one_new_one(api: FakeTaskApi, side: Any) -> None:
    await side.fetch()
    api.revoke_tokens()
    await asyncio.gather(*(side.fetch() for _ in range(100)))
    assert len(api.token_requests) == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_with_a_fresh_token_too(api: FakeTaskApi, side: Any, clock: ManualClock, status: int) -> None:
    api.always("fetch", answer(status))
    with pytest.raises(AuthenticationFailed, match="OAUTH2_SCOPE"):
        await side.fetch()
    assert (len(api.fetches), len(api.token_requests)) == (2, 2)
    for _ in range(29):
        clock.advance(1)
        with pytest.raises(AuthenticationFailed):
            await side.fetch()
    assert len(api.token_requests) == 2
    clock.advance(1)
    with pytest.raises(AuthenticationFailed):
        await side.fetch()
    assert len(api.token_requests) == 3
    api.heal()
    await side.fetch()
    assert side.breaker.state == "closed"


async def test_a_fresh_token_that_helps_ends_the_caution(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    api.script("fetch", answer(403), answer(403))
    with pytest.raises(AuthenticationFailed):
        await side.fetch()
    clock.advance(30)
    for _ in range(3):
        api.revoke_tokens()
        await side.fetch()
    assert len(api.token_requests) == 5


async def test_the_replacement_fails(api: FakeTaskApi, side: Any, clock: ManualClock) -> None:
    await side.fetch()
    api.revoke_tokens()
    api.script("token", answer(500))
    with pytest.raises(TaskApiUnavailable, match="token endpoint"):
        await side.fetch()
    clock.advance(1)
    await side.fetch()
    assert len(api.token_requests) == 3


async def test_no_secret_in_anything_that_is_shown(
    api: FakeTaskApi, connect: Connect, caplog: pytest.LogCaptureFixture, clock: ManualClock, make_entry: Any
) -> None:
    caplog.set_level(0)
    side = connect()
    shown: list[object] = []
    async with side.client:
        await side.fetch()
        header = api.fetches[0].headers["Authorization"]
        basic = api.token_requests[0].headers["Authorization"]
        quoting = f"you sent {header}, {header.removeprefix('Bearer ')} and {CLIENT_SECRET}"
        for fault in (answer(400, quoting), answer(500, {"message": quoting}), answer(403, quoting)):
            api.always("patch", fault, task_id="a")
            with pytest.raises(TaskApiError) as caught:
                await side.report(make_entry())
            shown += [caught.value, caught.value.__cause__, caught.value.__context__]
        api.revoke_tokens()
        quoting = f"you sent {basic}, {basic.removeprefix('Basic ')} and {CLIENT_SECRET}"
        for said in ({"error": "invalid_client", "error_description": quoting}, {"error": quoting}):
            api.script("token", answer(400, said))
            clock.advance(4000)
            with pytest.raises(AuthenticationFailed) as refused:
                await side.fetch()
            shown += [refused.value, refused.value.__cause__]
        await api.down()
        clock.advance(4000)
        with pytest.raises(TaskApiUnavailable) as down:
            await side.fetch()
        shown += [down.value, down.value.__cause__]
    text = unquote("\n".join([*map(repr, shown), *map(str, shown), repr(side.events), caplog.text]))
    assert "you sent" in text
    for secret in (CLIENT_SECRET, "of-the-tests", basic.removeprefix("Basic ")):
        assert secret not in text
