"""Short-lived signed tokens, made and checked without being stored."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import TaskProcessorError
from ai_task_processor.server.credentials import Credentials

ALGORITHM = "HS256"


class TokenRefused(TaskProcessorError):
    """The token is not one of ours, or its time is over; the message says which."""


class Tokens:
    """Issues tokens that live for ``seconds``, and reads them back.

    The signing key is derived from the server's own key and the credentials: tokens survive a restart, and end with
    the credentials that they were given for.
    """

    def __init__(self, server_key: bytes, credentials: Credentials, *, seconds: int, clock: Clock) -> None:
        bound_to = f"{credentials.client_id}\0{credentials.client_secret}".encode()
        self._key = OctKey.import_key(hmac.digest(server_key, bound_to, hashlib.sha256))
        self._client_id = credentials.client_id
        self._clock = clock
        self.seconds = seconds

    def issue(self, scopes: Iterable[str]) -> str:
        """A new token for the one client there is."""
        now = int(self._clock.now())
        claims: dict[str, object] = {
            "sub": self._client_id,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + self.seconds,
            "jti": secrets.token_hex(8),
        }
        return jwt.encode({"alg": ALGORITHM}, claims, self._key)

    def scopes(self, token: str) -> frozenset[str]:
        """What the bearer of ``token`` may do. Raises TokenRefused."""
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM]).claims
        except (JoseError, ValueError) as error:
            raise TokenRefused("the token was not issued by this server, or for other credentials") from error
        if self._clock.now() >= claims["exp"]:
            raise TokenRefused("the token has expired")
        return frozenset(claims["scope"].split())
