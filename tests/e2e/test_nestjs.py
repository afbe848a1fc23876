"""The daemon with a NestJS API and a certified OAuth2 server, all as processes, while much goes wrong."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.world import Daemon, World, not_right, secrets_in, world
from tests.fakes.daemon import metric_in

TASKS = 5_000
EVERY_FAULT = frozenset({"callback", "drop", "dropAfter", "error", "errorAfter", "slow", "throttle"})
SHORT_TOKENS = {"TOKEN_SECONDS": 3}
TOKEN_USE = 3 * 4 / 5
"""Seconds for which such a token is used before it is replaced."""

QUICK_KEYS = {"TOKEN_JWKS_COOLDOWN_SECONDS": 0.2}
FAULTS = {"REQUESTS_PER_FAULT": 8, "WRITES_PER_FAILURE": 50}
SHARED = {
    "CLAIM_LEASE_SECONDS": 30,  # longer than a restart takes, or a breaker is open, lest another does what is done
    "HOLD_LIMIT": 300,
    "BATCH_SIZE": 16,
    "CONCURRENCY_LIMIT": 3,
    "MOCK_LATENCY_SECONDS": 0.2,  # slow enough to have work left at the end
}


async def test_two_daemons_share_an_api_whatever_fails_and_whoever_restarts(tmp_path: Path) -> None:
    began = asyncio.get_running_loop().time()
    async with world(tmp_path, tokens=SHORT_TOKENS, api={**QUICK_KEYS, **FAULTS}) as running:
        texts = [f"shared document {number}" for number in range(TASKS)]
        await running.create(texts[:3_000])
        async with running.daemon("one", **SHARED) as one, running.daemon("two", **SHARED) as two:
            await running.written(500)
            await running.restart_api()
            await running.written(1_000)
            await one.stop()
            async with running.daemon("one", **SHARED) as one_again:
                await running.written(2_000)
                await running.rotate_key()
                await running.written(2_500)
                await two.stop()
                async with running.daemon("two", **SHARED) as two_again:
                    await running.create(texts[3_000:])
                    await running.written(3_500)
                    await running.kill_api_process()
                    await running.written(TASKS)
                    await two_again.stop()
                await one_again.stop()

        assert running.faults().keys() == EVERY_FAULT
        await everything_is_right(running, texts, killed=True)
        assert embedded(running.daemons) == TASKS
        assert all(embedded([daemon]) > 0 for daemon in running.daemons)
        lives = len(running.daemons) * (1 + (asyncio.get_running_loop().time() - began) / TOKEN_USE)
        assert running.count("token issued") < lives + running.requests


async def test_one_daemon_with_the_plain_routes_alone(tmp_path: Path) -> None:
    behind = {"CLOCK_SHIFT_SECONDS": -4, "AUTH_METHOD": "client_secret_post", **SHORT_TOKENS}
    async with world(tmp_path, tokens=behind, api={**FAULTS, "REQUESTS_PER_FAULT": 16}, clock=True) as running:
        texts = [f"plain document {number}" for number in range(1_000)]
        await running.create(texts)
        async with running.daemon("one", API_FEATURES="none", OAUTH2_AUTH_METHOD="client_secret_post") as daemon:
            await running.written(300)
            await running.restart_api()
            await running.written(1_000)
            await daemon.stop()

        await everything_is_right(running, texts)
        assert embedded(running.daemons) == len(texts)


async def test_tasks_of_claims_whose_answers_were_lost_are_done_when_their_leases_end(tmp_path: Path) -> None:
    async with world(tmp_path, tokens={}, api={"LOST_CLAIMS": 3}) as running:
        texts = [f"lost document {number}" for number in range(200)]
        await running.create(texts)
        async with running.daemon("one", CLAIM_LEASE_SECONDS=1) as daemon:
            await running.written(200)
            await daemon.stop()

        assert running.faults() == {"dropAfter": 3}
        await everything_is_right(running, texts)


@pytest.mark.parametrize("mishap", ["revocation", "new key"])
async def test_a_token_that_is_worth_nothing_any_more_is_replaced_once(tmp_path: Path, mishap: str) -> None:
    tokens = {"TOKEN_FORMAT": "opaque" if mishap == "revocation" else "jwt"}
    async with world(tmp_path, tokens=tokens, api=QUICK_KEYS, opaque=mishap == "revocation") as running:
        texts = [f"a document {number}" for number in range(200)]
        await running.create(texts[:100])
        async with running.daemon("one") as daemon:
            await running.written(100)
            await happens(mishap, running)
            await running.create(texts[100:])
            await running.written(200)
            await daemon.stop()
        assert metric_in(daemon.metrics, "token_requests_total") == 2
        await everything_is_right(running, texts)


async def happens(mishap: str, running: World) -> None:
    if mishap == "revocation":
        await running.revoke_token()
    else:
        await running.rotate_key()
        await running.restart_api()  # one that runs would trust the old key until a token names the new one


async def everything_is_right(running: World, texts: Sequence[str], *, killed: bool = False) -> None:
    """Every document has its own vector, written once; nothing was said that must not be.

    Where a process was killed between a write and the note of it, that callback ran again.
    """
    documents = await running.documents()
    assert [one["text"] for one in documents] == list(texts)
    assert not_right(documents) == []
    again = sum(one["writes"] - 1 for one in documents)
    assert 0 <= again <= (500 if killed else 0)
    said = [daemon.text for daemon in running.daemons]
    assert [secret for text in said for secret in secrets_in(text, texts)] == []
    assert not any("Traceback" in text for text in said)


def embedded(daemons: Sequence[Daemon]) -> int:
    """How many texts the daemons have had embedded, all together."""
    return sum(line["succeeded"] for daemon in daemons for line in daemon.process.logged("Batch completed"))
