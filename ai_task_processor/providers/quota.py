"""What a provider's headers say of its own limits."""

from collections.abc import Mapping

from ai_task_processor.domain.quota import Allowance, Quota
from ai_task_processor.providers.retry_after import seconds_in


def quota(headers: Mapping[str, str]) -> Quota | None:
    """Read ``x-ratelimit-{remaining,limit,reset}-{requests,tokens}``; None where they say nothing.

    A number below zero means that the server has no figure, and is passed over.
    """
    requests, tokens = _allowance(headers, "requests"), _allowance(headers, "tokens")
    return None if requests is None and tokens is None else Quota(requests, tokens)


def _allowance(headers: Mapping[str, str], unit: str) -> Allowance | None:
    remaining = _count(headers.get(f"x-ratelimit-remaining-{unit}", ""))
    if remaining is None:
        return None
    limit = _count(headers.get(f"x-ratelimit-limit-{unit}", ""))
    return Allowance(remaining, limit or None, seconds_in(headers.get(f"x-ratelimit-reset-{unit}", "")))


def _count(value: str) -> int | None:
    digits = value.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < _LONGEST else None


_LONGEST = 16
"""Digits of a number that can be meant seriously."""
