import base64
from urllib.parse import quote_plus, urlencode

import pytest

from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.oauth import FORM, TokenDenied, TokenRequest, grant
from ai_task_processor.server.tokens import Tokens
from tests.fakes.time import ManualClock

ODD = Credentials("id:with%3A", "s+p ace/ü:")
ME = Credentials("me", "hush")


def ask(
    form: dict[str, str] | bytes, authorization: str = "", *, credentials: Credentials = ME, media_type: str = FORM
) -> dict[str, object]:
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    tokens = Tokens(b"k" * 32, credentials, seconds=60, clock=ManualClock())
    return grant(TokenRequest(media_type, body, authorization), credentials, tokens)


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


def test_credentials_by_http_basic() -> None:
    answer = ask({"grant_type": "client_credentials", "scope": "write read"}, basic("me", "hush"))

    assert answer | {"access_token": ""} == {
        "access_token": "",
        "token_type": "Bearer",
        "expires_in": 60,
        "scope": "read write",
    }
    assert answer["access_token"]


def test_credentials_in_the_body() -> None:
    assert ask({"grant_type": "client_credentials", "client_id": "me", "client_secret": "hush"})["access_token"]


def test_http_basic_is_understood_form_encoded_as_the_standard_says() -> None:
    encoded = basic(quote_plus(ODD.client_id), quote_plus(ODD.client_secret))

    assert ask({"grant_type": "client_credentials"}, encoded, credentials=ODD)


def test_http_basic_is_understood_unencoded_as_many_clients_send_it() -> None:
    plain = Credentials("id", "s+p ace/ü:%41")

    assert ask({"grant_type": "client_credentials"}, basic("id", plain.client_secret), credentials=plain)


@pytest.mark.parametrize(("asked", "given"), [("", "read write"), ("read", "read"), (" write ", "write")])
def test_scopes_are_those_asked_for_or_all(asked: str, given: str) -> None:
    assert ask({"grant_type": "client_credentials", "scope": asked}, basic("me", "hush"))["scope"] == given


GRANT = {"grant_type": "client_credentials"}


@pytest.mark.parametrize(
    ("form", "authorization", "code"),
    [
        (GRANT, "", "invalid_client"),
        (GRANT, basic("me", "wrong"), "invalid_client"),
        (GRANT, basic("you", "hush"), "invalid_client"),
        (GRANT, basic("", ""), "invalid_client"),
        (GRANT, "Basic !", "invalid_client"),
        (GRANT, "Basic " + base64.b64encode(b"no colon").decode(), "invalid_client"),
        (GRANT, "Basic " + base64.b64encode(b"\xff:\xff").decode(), "invalid_client"),
        (GRANT, "Bearer x", "invalid_client"),
        (GRANT | {"client_id": "me", "client_secret": "wrong"}, "", "invalid_client"),
        (GRANT | {"client_secret": "hush"}, "", "invalid_client"),
        (GRANT | {"client_id": "me", "client_secret": "hush"}, basic("me", "hush"), "invalid_request"),
        ({}, basic("me", "hush"), "invalid_request"),
        (b"grant_type=client_credentials&scope=read&scope=write", basic("me", "hush"), "invalid_request"),
        (b"\xff\xfe", basic("me", "hush"), "invalid_request"),
        (b"scope=%FF", basic("me", "hush"), "invalid_request"),
        (b"a&" * 1000, basic("me", "hush"), "invalid_request"),
        ({"grant_type": "password"}, basic("me", "hush"), "unsupported_grant_type"),
        (GRANT | {"scope": "read admin"}, basic("me", "hush"), "invalid_scope"),
    ],
)
def test_refusals_have_the_codes_of_the_standard(form: dict[str, str] | bytes, authorization: str, code: str) -> None:
    with pytest.raises(TokenDenied) as denied:
        ask(form, authorization)

    assert denied.value.code == denied.value.body()["error"] == code
    assert denied.value.status == (401 if code == "invalid_client" else 400)
    assert "hush" not in str(denied.value)


def test_another_media_type_is_refused() -> None:
    with pytest.raises(TokenDenied, match="x-www-form-urlencoded"):
        ask(b"{}", basic("me", "hush"), media_type="application/json")
