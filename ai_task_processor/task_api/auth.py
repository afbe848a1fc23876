"""The OAuth 2 token that every request to the Task API carries."""

import asyncio
import base64
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Literal, TypeAlias
from urllib.parse import quote_plus

import orjson
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_token_request
from msgspec import Struct

from ai_task_processor import __version__
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.confidential import Confidential
from ai_task_processor.domain.errors import AuthenticationFailed, TaskApiUnavailable
from ai_task_processor.domain.events import TokenFailed, TokenObtained
from ai_task_processor.domain.ports import Observer
from ai_task_processor.task_api.answers import retry_after
from ai_task_processor.task_api.exchange import encoded
from ai_task_processor.task_api.observed import ObservedExchange
from ai_task_processor.task_api.requests import Body, Exchange, NoAnswer, Reply, Request

AuthMethod: TypeAlias = Literal["client_secret_basic", "client_secret_post"]

LONGEST_MARGIN = 60.0
"""Seconds before its end at which a token is replaced, or a fifth of its life where that is less."""

ASSUMED_LIFE = 3_600.0
"""Seconds for which a token is used whose server does not say how long it lives; a refusal ends it sooner."""

LONGEST_RETRY_AFTER = 300.0
LONGEST_DESCRIPTION = 200

TOKEN_ROUTE = "/oauth2/token"  # noqa: S105  # the name of a route

_HEADERS: Mapping[str, str] = {
    "User-Agent": f"ai-task-processor/{__version__}",
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded",
}

_REFUSALS = frozenset({401, 403})
_NOT_NOW = frozenset({408, 425, 429})
_NO_ENDPOINT = frozenset({404, 405, 410})
_PASSING_ERRORS = frozenset({"temporarily_unavailable", "server_error", "slow_down"})

_CHECK_ENDPOINT = "ORY_PROJECT_SLUG or OAUTH2_TOKEN_URL"
_CHECK_CREDENTIALS = f"OAUTH2_CLIENT_ID, OAUTH2_CLIENT_SECRET and {_CHECK_ENDPOINT}"
_CHECKS: Mapping[str, str] = {
    "invalid_scope": "OAUTH2_SCOPE",
    "invalid_target": "OAUTH2_AUDIENCE",
    "unsupported_grant_type": _CHECK_ENDPOINT,
}

_USABLE_TOKEN = re.compile(r"[\x21-\x7e]+")
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE)


class Credentials(Confidential, frozen=True):
    """Who we are, to whom we say it and how; an empty ``scope`` or ``audience`` is not sent."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str = "read write"
    audience: str = ""
    auth_method: AuthMethod = "client_secret_basic"


class TokenAuth:
    """Signs requests with one token for all, which is replaced early, by one caller on behalf of all.

    A token that the API refuses is replaced once, if it is still the current one, and the request repeated once. A
    token endpoint that fails is left alone for a while, longer each time; meanwhile everybody gets the same error at
    once.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        exchange: Exchange,
        timeout: float,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._endpoint = _TokenEndpoint(
            credentials,
            exchange=ObservedExchange(exchange, clock=clock, observer=observer),
            timeout=timeout,
            clock=clock,
        )
        self._clock = clock
        self._observer = observer
        self._turn = asyncio.Lock()
        self._token: _Token | None = None
        self._sent: deque[str] = deque(maxlen=2)
        self._failure: _Failure | None = None
        self._down = _Backoff(first=1.0, longest=60.0)
        self._refused = _Backoff(first=30.0, longest=300.0)
        self._futile = _Backoff(first=30.0, longest=300.0)
        self._futile_until = -math.inf

    @property
    def holds_token(self) -> bool:
        """Whether there is a token that has not expired."""
        return self._token is not None and self._clock.monotonic() < self._token.expires_at

    async def token(self) -> str:
        """The current token, obtained if need be.

        Raises TaskApiUnavailable or AuthenticationFailed where there is none to be had; a token that is due for
        replacement but still lives is better than none.
        """
        if self._is_due and not (self.holds_token and self._turn.locked()):
            async with self._turn:
                await self._replace_if_due()
        return self._current().text

    async def authorized(self, token: str, send: Callable[[str], Awaitable[Reply]]) -> Reply:
        """Have a request sent with ``token``, and once more with another one if that is refused."""
        reply = await send(token)
        if reply.status not in _REFUSALS:
            return reply
        fresh = await self._instead_of(token)
        if fresh is None:
            return reply
        reply = await send(fresh)
        self._learn_whether_it_helped(reply.status)
        return reply

    def without_secrets(self, text: str) -> str:
        """``text``, which a server wrote, without what it may have quoted from our requests."""
        for token in self._sent:
            text = text.replace(token, "***")
        return self._endpoint.without_secrets(text)

    async def aclose(self) -> None:
        """Close the way to the token endpoint."""
        await self._endpoint.aclose()

    @property
    def _is_due(self) -> bool:
        return self._token is None or self._clock.monotonic() >= self._token.refresh_at

    async def _instead_of(self, refused: str) -> str | None:
        """Another token than the refused one; None where new tokens are known to be refused as well."""
        async with self._turn:
            if self._token is None or self._token.text == refused:
                if self._clock.monotonic() < self._futile_until:
                    return None
                await self._replace()
            return self._current().text

    def _learn_whether_it_helped(self, status: int) -> None:
        """A token that is refused although it is fresh: it is not the token. Do not ask for one with each request."""
        if status in _REFUSALS:
            self._futile_until = self._clock.monotonic() + self._futile.next()
        else:
            self._futile.reset()

    async def _replace_if_due(self) -> None:
        """Somebody may have done it while we waited for our turn."""
        if not self._is_due:
            return
        try:
            await self._replace()
        except (TaskApiUnavailable, AuthenticationFailed):
            if not self.holds_token:
                raise

    async def _replace(self) -> None:
        if self._failure is not None and self._clock.monotonic() < self._failure.until:
            raise self._failure.error(self._clock.monotonic())
        began = self._clock.monotonic()
        try:
            answer = await self._endpoint.ask()
        except TaskApiUnavailable as error:
            wait = max(self._down.next(), min(error.retry_after or 0.0, LONGEST_RETRY_AFTER))
            self._remember(str(error), refused=False, wait=wait)
            raise TaskApiUnavailable(str(error), retry_after=wait, keyless=True) from error
        except AuthenticationFailed as error:
            self._remember(str(error), refused=True, wait=self._refused.next())
            raise
        self._take(answer, began)

    def _remember(self, reason: str, *, refused: bool, wait: float) -> None:
        self._failure = _Failure(reason, refused=refused, until=self._clock.monotonic() + wait)
        self._observer(TokenFailed(reason=reason, refused=refused))

    def _take(self, answer: "_TokenAnswer", began: float) -> None:
        self._failure = None
        self._down.reset()
        self._refused.reset()
        life = answer.expires_in or ASSUMED_LIFE
        margin = min(LONGEST_MARGIN, life / 5)
        self._sent.append(answer.text)
        self._token = _Token(answer.text, refresh_at=began + life - margin, expires_at=began + life)
        self._observer(TokenObtained(expires_in=answer.expires_in))

    def _current(self) -> "_Token":
        if self._token is None:
            raise TaskApiUnavailable("there is no token")
        return self._token


class _Token(Confidential, frozen=True):
    """Times by the monotonic clock, from the moment at which it was asked for."""

    text: str
    refresh_at: float
    expires_at: float


class _TokenAnswer(Confidential, frozen=True):
    text: str
    expires_in: float | None


class _Failure(Struct, frozen=True):
    """What the token endpoint did last, and until when (by the monotonic clock) it is not asked again."""

    reason: str
    refused: bool
    until: float

    def error(self, now: float) -> TaskApiUnavailable | AuthenticationFailed:
        """The same error once more, for one more caller."""
        if self.refused:
            return AuthenticationFailed(self.reason)
        return TaskApiUnavailable(self.reason, retry_after=self.until - now, keyless=True)


class _Backoff:
    """Seconds to wait: twice as many each time, until it helps."""

    def __init__(self, *, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._wait = first

    def next(self) -> float:
        wait = self._wait
        self._wait = min(2 * wait, self._longest)
        return wait

    def reset(self) -> None:
        self._wait = self._first


class _TokenEndpoint:
    """One request to the token endpoint, as authlib writes it; what comes back is read here."""

    def __init__(self, credentials: Credentials, *, exchange: ObservedExchange, timeout: float, clock: Clock) -> None:
        self._credentials = credentials
        self._exchange = exchange
        self._clock = clock
        self._timeout = timeout
        self._spellings = deque(_spellings(credentials))

    async def ask(self) -> _TokenAnswer:
        """Ask for a token; raises TaskApiUnavailable or AuthenticationFailed."""
        try:
            return await self._ask()
        except AuthenticationFailed:
            if len(self._spellings) == 1:
                raise
        self._spellings.rotate()
        return await self._ask()

    async def _ask(self) -> _TokenAnswer:
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._exchange.send(self._request(), TOKEN_ROUTE)
        except UnicodeError:
            raise AuthenticationFailed(
                "the client id or secret has characters that cannot be sent: check OAUTH2_CLIENT_ID and "
                "OAUTH2_CLIENT_SECRET, or set OAUTH2_AUTH_METHOD=client_secret_post"
            ) from None
        except (NoAnswer, TimeoutError) as error:
            raise _silence(self._words(error)) from error
        self._judge(reply)
        if reply.incomplete:
            raise _silence(self._words(reply.incomplete))
        answer = _json_object(reply.body)
        if answer.get("error"):
            raise self._refusal(answer["error"], answer.get("error_description"))
        return _understood(answer)

    def _request(self) -> Request:
        asked = self._credentials
        form = prepare_token_request("client_credentials", scope=asked.scope, audience=asked.audience)
        signature = ClientAuth(*self._spellings[0], asked.auth_method)
        url, headers, body = signature.prepare("POST", encoded(asked.token_url), dict(_HEADERS), form)
        return Request("POST", url, headers, body.encode(), step_seconds=self._timeout)

    def without_secrets(self, text: str) -> str:
        """``text`` without the client secret in any of its forms, and without any Authorization header."""
        for client_id, secret in self._spellings if self._credentials.client_secret else ():
            basic = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
            text = text.replace(basic, "***").replace(secret, "***")
        return _AUTHORIZATION.sub(r"\1 ***", text) if self._credentials.client_secret else text

    async def aclose(self) -> None:
        """Close the way there."""
        await self._exchange.aclose()

    def _judge(self, reply: Reply) -> None:
        """Raise what an answer means that is none with a token."""
        status = reply.status
        if status in _NOT_NOW or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            wish = retry_after(reply.headers.get("Retry-After"), self._clock.now())
            raise TaskApiUnavailable(f"the token endpoint cannot do it now (HTTP {status})", retry_after=wish)
        if status in _NO_ENDPOINT or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise AuthenticationFailed(f"there is no token endpoint (HTTP {status}): check {_CHECK_ENDPOINT}")
        if status >= HTTPStatus.BAD_REQUEST:
            said = _json_object(reply.body)
            raise self._refusal(said.get("error") or f"HTTP {status}", said.get("error_description"))

    def _refusal(self, code: object, description: object) -> AuthenticationFailed | TaskApiUnavailable:
        name = self._words(code) if isinstance(code, str) else "refused"
        said = f"{name}: {self._words(description)}" if isinstance(description, str) and description else name
        if name in _PASSING_ERRORS:
            return TaskApiUnavailable(f"the token endpoint cannot do it now ({said})")
        return AuthenticationFailed(f"the token endpoint gives no token ({said}): {_advice(name)}")

    def _words(self, said: object) -> str:
        """What a server or a library says: short, printable, no secret in it."""
        text = self.without_secrets(" ".join(str(said).split())) or type(said).__name__
        return "".join(character for character in text if character.isprintable())[:LONGEST_DESCRIPTION]


def _spellings(credentials: Credentials) -> Sequence[tuple[str, str]]:
    """Client id and secret as a server may want them: form-encoded in HTTP Basic, says RFC 6749, section 2.3.1.

    Half of all servers have never heard of it, and take them as they are.
    """
    plain = (credentials.client_id, credentials.client_secret)
    encoded = (quote_plus(credentials.client_id), quote_plus(credentials.client_secret))
    return (plain,) if credentials.auth_method != "client_secret_basic" or encoded == plain else (encoded, plain)


def _understood(answer: Mapping[str, object]) -> _TokenAnswer:
    text = answer.get("access_token")
    kind = answer.get("token_type") or "bearer"
    if not isinstance(text, str) or not _USABLE_TOKEN.fullmatch(text):
        raise _nonsense()
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise _nonsense()
    return _TokenAnswer(text, expires_in=_life(answer.get("expires_in")))


def _life(value: object) -> float | None:
    """Seconds; None where the server does not say, or says that it has none."""
    if value is None:
        return None
    if not isinstance(value, int | float | str):
        raise _nonsense()
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        raise _nonsense() from None
    return seconds if 0 < seconds < math.inf else None


def _silence(words: str) -> TaskApiUnavailable:
    return TaskApiUnavailable(f"the token endpoint does not answer: {words}")


def _nonsense() -> TaskApiUnavailable:
    return TaskApiUnavailable(f"the token endpoint answers, but not with a bearer token: check {_CHECK_ENDPOINT}")


def _advice(code: str) -> str:
    return f"check {_CHECKS.get(code, _CHECK_CREDENTIALS)}"


def _json_object(body: Body) -> Mapping[str, object]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
