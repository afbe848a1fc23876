"""Errors, chosen by what the caller does next.

::

    TaskProcessorError
    ├ ConfigurationError            do not start: exit code 78, every fault in one list
    ├ JournalError                  stop: nothing is safe
    ├ TaskApiError
    │ ├ TaskApiUnavailable          next round
    │ ├ TaskApiRejected             give up on this one
    │ └ AuthenticationFailed        not ready, try again slowly
    ├ ProviderError
    │ ├ ProviderUnavailable         retry; counts for the breaker
    │ ├ ProviderThrottled           retry when it says; does not count
    │ ├ ProviderRejected            the task's own fault; does not count
    │ └ ProviderAccountRefused      quota, billing or key: pause the provider
    └ NotNow                        defer; counts as no attempt
      ├ BreakerOpen
      ├ RateLimited
      └ ProviderPaused
"""

from collections.abc import Sequence


class TaskProcessorError(Exception):
    """Everything that this program raises on purpose."""


class ConfigurationError(TaskProcessorError):
    """The configuration cannot be used; ``faults`` has one sentence for each thing to mend."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class JournalError(TaskProcessorError):
    """The state file or database cannot be used; the message says what to do about it."""


class TaskApiError(TaskProcessorError):
    """The Task API did not do what was asked."""


class TaskApiUnavailable(TaskApiError):
    """The Task API cannot answer now. ``retry_after`` is its own wish in seconds, if it gave one.

    ``keyless`` is True where nothing was taken because no token can be had, so that the same holds for every request.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, keyless: bool = False) -> None:
        self.retry_after = retry_after
        self.keyless = keyless
        super().__init__(message)


class TaskApiRejected(TaskApiError):
    """The Task API refuses this request, and would refuse it again."""


class AuthenticationFailed(TaskApiError):
    """No token can be had, or the API refuses a fresh one."""


class ProviderError(TaskProcessorError):
    """A provider did not give what was asked."""


class ProviderUnavailable(ProviderError):
    """The provider is down, too slow, or gave an answer that cannot be believed.

    ``retry_after`` is its own wish in seconds, if it gave one. ``sent`` is False only where it is certain that the
    provider never saw the request. ``own_fault`` is True where the provider is known to serve others while it fails
    these inputs.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, sent: bool = True, own_fault: bool = False
    ) -> None:
        self.retry_after = retry_after
        self.sent = sent
        self.own_fault = own_fault
        super().__init__(message)


class ProviderThrottled(ProviderError):
    """The provider is well but wants fewer requests; ``retry_after`` in seconds, if it gave one."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ProviderRejected(ProviderError):
    """The provider refuses the inputs; the message is for the task's author.

    ``every_input`` is True where each input alone would be refused too (an unknown model), so that splitting the
    batch cannot help.
    """

    def __init__(self, message: str, *, every_input: bool = False) -> None:
        self.every_input = every_input
        super().__init__(message)


class ProviderAccountRefused(ProviderError):
    """The account is the trouble: quota used up, billing, or a key that is not accepted."""


class NotNow(TaskProcessorError):
    """It cannot be done before ``until`` (Unix seconds)."""

    def __init__(self, message: str, *, until: float) -> None:
        self.until = until
        super().__init__(message)


class BreakerOpen(NotNow):
    """A circuit breaker keeps calls away from something that is down."""


class RateLimited(NotNow):
    """A configured limit leaves no room before ``until``."""


class ProviderPaused(NotNow):
    """The provider refuses our account, is throttling us, or is not prepared yet."""
