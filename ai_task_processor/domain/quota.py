"""What a provider says of its own limits, beside an answer."""

from msgspec import Struct


class Allowance(Struct, frozen=True):
    """One limit of a provider: ``remaining`` of ``limit`` may still be used, all of it again in ``reset`` seconds.

    ``limit`` and ``reset`` are None where the provider does not say.
    """

    remaining: int
    limit: int | None = None
    reset: float | None = None


class Quota(Struct, frozen=True):
    """The limits that a provider told of; None for one that it did not."""

    requests: Allowance | None = None
    tokens: Allowance | None = None
