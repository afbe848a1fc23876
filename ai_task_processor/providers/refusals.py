"""What a provider's refusal becomes for the task's author: bounded, and without the text."""

import re
from collections.abc import Sequence

from ai_task_processor.domain.errors import ProviderRejected
from ai_task_processor.providers.models import estimated_tokens, known

MESSAGE_LIMIT = 300
"""Characters of a provider's message that are passed on."""

_RECOGNISABLE = 16
"""Characters of a text that give it away; a shorter text is looked for in quotation marks."""

_TOO_LONG = re.compile(
    r"maximum context length|exceeds? the (?:maximum |available )?context|must have less than \d+ tokens"
    r"|tokens\) is (?:too large to process|larger than the max context)",
    re.IGNORECASE,
)
_ALLOWED = re.compile(
    r"(?:maximum context length (?:is|of)|must have less than|current batch size:|max context size \() ?(\d+)",
    re.IGNORECASE,
)
_MEASURED = re.compile(
    r"(?:requested|has|resulted in|contains at least|given:?|input \() ?(\d+)(?: (?:input )?tokens|$)", re.IGNORECASE
)


class InputTooLong(ProviderRejected):
    """A text has more tokens than the model reads: ``measured`` and ``allowed``, as well as they are known."""

    def __init__(self, message: str, *, measured: int, allowed: int | None) -> None:
        self.measured = measured
        self.allowed = allowed
        super().__init__(message)


def says_too_long(message: str) -> bool:
    """Whether a provider's message means that an input is longer than the model reads."""
    return _TOO_LONG.search(message) is not None


def too_long(message: str, texts: Sequence[str], model: str) -> InputTooLong:
    """The error for a message that :func:`says_too_long`; lengths that it does not give are estimated."""
    facts = known(model)
    allowed = _number(_ALLOWED, message) or (facts.max_tokens if facts else None)
    exact = _number(_MEASURED, message)
    measured = exact or max(map(estimated_tokens, texts))
    length = f"{'' if exact else 'about '}{measured} tokens"
    limit = f"at most {allowed}" if allowed else "fewer"
    return InputTooLong(
        f"The text is too long: it has {length}; {model} takes {limit}.", measured=measured, allowed=allowed
    )


def shortened(text: str, error: InputTooLong) -> str:
    """A little less than what should fit, for tokens are not spread evenly; less each time it is asked."""
    fits = (error.allowed or 0) / error.measured
    return text[: max(1, int(len(text) * min(0.9, 0.95 * fits if fits else 0.5)))]


def told(message: str, texts: Sequence[str]) -> str:
    """The provider's own words, on one line and cut; a general word instead where they quote one of the texts."""
    line = " ".join(message.split())
    if any(_quotes(line, text) for text in texts):
        return "it gave a reason that repeats the text, left out here"
    return line if len(line) <= MESSAGE_LIMIT else f"{line[:MESSAGE_LIMIT]}…"


def _quotes(line: str, text: str) -> bool:
    beginning = " ".join(text.split())[:_RECOGNISABLE]
    if len(beginning) == _RECOGNISABLE:
        return beginning in line
    return any(f"{mark}{beginning}{mark}" in line for mark in "\"'`")


def _number(pattern: re.Pattern[str], message: str) -> int | None:
    match = pattern.search(message)
    return int(match[1]) if match else None
