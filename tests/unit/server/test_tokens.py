import base64

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.tokens import TokenRefused, Tokens
from tests.fakes.time import ManualClock

KEY = b"k" * 32
ME = Credentials("me", "hush")


def tokens(*, key: bytes = KEY, credentials: Credentials = ME, clock: ManualClock | None = None) -> Tokens:
    return Tokens(key, credentials, seconds=60, clock=clock or ManualClock())


def test_a_token_carries_its_scopes_also_to_the_next_process() -> None:
    token = tokens().issue(["read", "write"])

    assert tokens().scopes(token) == {"read", "write"}


def test_two_tokens_of_the_same_moment_differ() -> None:
    issuer = tokens()

    assert issuer.issue([]) != issuer.issue([])


def test_a_token_ends_on_time() -> None:
    clock = ManualClock()
    issuer = tokens(clock=clock)
    token = issuer.issue(["read"])

    clock.advance(59)
    assert issuer.scopes(token) == {"read"}
    clock.advance(1)
    with pytest.raises(TokenRefused, match="expired"):
        issuer.scopes(token)


@pytest.mark.parametrize(
    "other",
    [
        tokens(key=b"x" * 32),
        tokens(credentials=Credentials("me", "changed")),
        tokens(credentials=Credentials("you", "hush")),
    ],
)
def test_a_token_of_another_server_or_of_older_credentials_is_refused(other: Tokens) -> None:
    with pytest.raises(TokenRefused, match="not issued"):
        tokens().scopes(other.issue(["read"]))


def test_changed_claims_are_refused() -> None:
    head, _, signature = tokens().issue(["read"]).split(".")
    claims = base64.urlsafe_b64encode(b'{"scope":"read write","exp":9999999999}').rstrip(b"=").decode()

    with pytest.raises(TokenRefused):
        tokens().scopes(f"{head}.{claims}.{signature}")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "....", "\xfc", "e30.e30.e30"])
def test_nonsense_is_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        tokens().scopes(token)


def test_an_unsigned_token_is_refused() -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    claims = base64.urlsafe_b64encode(b'{"scope":"read","exp":9999999999}').rstrip(b"=").decode()

    with pytest.raises(TokenRefused):
        tokens().scopes(f"{head}.{claims}.")


def test_a_token_signed_with_a_weaker_choice_of_ours_is_refused() -> None:
    token = jwt.encode({"alg": "HS256"}, {"scope": "read", "exp": 9999999999}, OctKey.import_key(KEY))

    with pytest.raises(TokenRefused):
        tokens().scopes(token)
