"""Client credentials by OAuth 2.0 (RFC 6749): a token request read, judged and answered."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote_plus

from ai_task_processor.domain.confidential import Confidential
from ai_task_processor.domain.errors import TaskProcessorError
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.tokens import Tokens

GRANT = "client_credentials"
FORM = "application/x-www-form-urlencoded"
READ, WRITE = "read", "write"
SCOPES = (READ, WRITE)


class TokenDenied(TaskProcessorError):
    """No token; ``code`` is one of the error codes of RFC 6749, section 5.2."""

    def __init__(self, code: str, description: str) -> None:
        self.code = code
        self.description = description
        super().__init__(description)

    @property
    def status(self) -> HTTPStatus:
        """The status of the answer."""
        return HTTPStatus.UNAUTHORIZED if self.code == "invalid_client" else HTTPStatus.BAD_REQUEST

    def body(self) -> dict[str, object]:
        """The body of the answer."""
        return {"error": self.code, "error_description": self.description}


class TokenRequest(Confidential, frozen=True):
    """A token request as it came; ``authorization`` is the header of that name, empty where there is none."""

    media_type: str
    body: bytes
    authorization: str = ""


def grant(request: TokenRequest, credentials: Credentials, tokens: Tokens) -> dict[str, object]:
    """The body of a successful answer. Raises TokenDenied."""
    form = _form(request)
    _authenticate(request.authorization, form, credentials)
    kind = form.get("grant_type")
    if kind is None:
        raise TokenDenied("invalid_request", "grant_type is missing")
    if kind != GRANT:
        raise TokenDenied("unsupported_grant_type", f"grant_type must be {GRANT}")
    scopes = _scopes(form.get("scope", ""))
    return {
        "access_token": tokens.issue(scopes),
        "token_type": "Bearer",
        "expires_in": tokens.seconds,
        "scope": " ".join(scopes),
    }


def _form(request: TokenRequest) -> Mapping[str, str]:
    if request.media_type != FORM:
        raise TokenDenied("invalid_request", f"the body must be {FORM}")
    try:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=50, errors="strict")
    except ValueError as error:
        raise TokenDenied("invalid_request", "the body cannot be read as a form") from error
    form = dict(pairs)
    if len(form) < len(pairs):
        raise TokenDenied("invalid_request", "a parameter is given twice")
    return form


def _authenticate(authorization: str, form: Mapping[str, str], credentials: Credentials) -> None:
    in_body = "client_secret" in form
    if authorization and in_body:
        raise TokenDenied("invalid_request", "the client secret is given twice: as HTTP Basic and in the body")
    if not authorization and not in_body:
        raise TokenDenied("invalid_client", "no client credentials; send them as HTTP Basic or in the body")
    given = [(form.get("client_id", ""), form["client_secret"])] if in_body else _basic(authorization)
    if not any(_equal(client_id, secret, credentials) for client_id, secret in given):
        raise TokenDenied("invalid_client", "the client id or the client secret is wrong")


def _basic(authorization: str) -> list[tuple[str, str]]:
    """Both readings of the header: as it is, and form-encoded as RFC 6749 demands and half of all clients forget."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon, client_id, secret = "", "", ""
    if scheme.lower() != "basic" or not colon:
        raise TokenDenied("invalid_client", "the Authorization header is no HTTP Basic authentication")
    return [(client_id, secret), (unquote_plus(client_id), unquote_plus(secret))]


def _equal(client_id: str, secret: str, credentials: Credentials) -> bool:
    same_id = hmac.compare_digest(client_id.encode(), credentials.client_id.encode())
    same_secret = hmac.compare_digest(secret.encode(), credentials.client_secret.encode())
    return same_id and same_secret


def _scopes(asked: str) -> tuple[str, ...]:
    unknown = sorted(set(asked.split()) - set(SCOPES))
    if unknown:
        raise TokenDenied("invalid_scope", f"the scopes that there are: {' '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if not asked.strip() or scope in asked.split())
