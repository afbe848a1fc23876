"""The stage that brings outcomes from the journal to the Task API."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterable, Sequence

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import AuthenticationFailed, NotNow, TaskApiError, TaskApiUnavailable
from ai_task_processor.domain.events import DeliveryHalted, Parked, Reported, ReportPostponed
from ai_task_processor.domain.outcome import Succeeded
from ai_task_processor.domain.ports import Entry, Journal, Observer, Receipt, Reporter, Verdict

CHUNK = 64
"""Outcomes taken from the journal at once."""

COMPANY = CHUNK // 2
LINGER = 0.02
"""Acknowledgements written down together where more are on their way, and seconds until fewer are written down too."""

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 900.0
"""Seconds until an outcome that was not taken is sent again: doubled with each failure, between these bounds."""

AUTHENTICATION_REST = 30.0
"""Seconds for which an outcome, or all of them, rests when the Task API does not let us in."""

PROBE_FLOOR = 1.0
"""Seconds that the other lanes rest while one tries whether outcomes are taken again."""

LONGEST_WISH = 3_600.0
"""Seconds for which a Retry-After of the Task API is obeyed, at most."""


class Delivery:
    """Delivers outcomes, oldest first; any number of lanes may step it at the same time."""

    def __init__(
        self, *, journal: Journal, reporter: Reporter, clock: Clock, observer: Observer, randomness: random.Random
    ) -> None:
        self._journal = journal
        self._reporter = reporter
        self._clock = clock
        self._observer = observer
        self._random = randomness
        self._taken: deque[Entry] = deque()
        self._taking = asyncio.Lock()
        self._looks = 0
        self._exhausted = 0  # the number of the last look that found less than there was room for
        self._next_at: float | None = None  # when there will be more, as of that look
        self._acknowledged: list[tuple[Entry, Receipt]] = []
        self._acknowledging = asyncio.Lock()
        self._enough = asyncio.Event()
        self._sending = 0
        self._halted = False
        self._halted_until = -math.inf
        self._probing = False
        self._kept_out = 0

    async def step(self) -> float:
        """Deliver one outcome, or several at once; answer 0, or how long there will be nothing to deliver.

        After a halt one lane tries whether it is over, and the others wait for what it learns.
        """
        rest = self._rest()
        if rest > 0:
            return rest
        probes = self._halted
        self._probing = probes
        try:
            return await self._deliver_next()
        finally:
            if probes:
                self._probing = False

    def _rest(self) -> float:
        remaining = self._halted_until - self._clock.now()
        return PROBE_FLOOR if remaining <= 0 and self._halted and self._probing else remaining

    async def _deliver_next(self) -> float:
        entries = await self._next()
        if not entries:
            async with self._acknowledging:  # a lane that rests leaves nothing to be written down
                await self._write_down()
            return math.inf if self._next_at is None else max(0.0, self._next_at - self._clock.now())
        await self._deliver(entries)
        return 0.0

    async def _next(self) -> Sequence[Entry]:
        """What is next to be delivered; nothing where there is nothing."""
        company: Sequence[Entry] = ()
        while not company and (self._taken or await self._has_found_more()):
            company = self._company(1 if self._halted else await self._reporter.at_once())
        return company

    async def _has_found_more(self) -> bool:
        """Take outcomes from the journal; many lanes that ask together for what is not there cost one look or two."""
        asked_at = self._looks
        async with self._taking:
            if not self._taken and self._exhausted <= asked_at:  # later looks began after we asked: they speak for us
                await self._look()
            return bool(self._taken)

    def _company(self, most: int) -> Sequence[Entry]:
        """Outcomes that travel together: the next one, and others unless it has failed before.

        One of them may be the reason why a whole request failed: no other is to fail with it twice.
        """
        company: list[Entry] = []
        while (
            self._taken and len(company) < most and not (company and (company[0].attempts or self._taken[0].attempts))
        ):
            company.append(self._taken.popleft())
        return company

    async def _look(self) -> None:
        self._looks += 1
        found = await self._journal.unreported(CHUNK)
        self._taken.extend(found)
        if len(found) < CHUNK:
            self._next_at = await self._journal.next_unreported()
            self._exhausted = self._looks

    async def _deliver(self, entries: Sequence[Entry]) -> None:
        """Report these, and do what follows for each; what was taken first, for it ends a halt."""
        verdicts = list(zip(entries, await self._report(entries), strict=True))
        taken = [(entry, verdict) for entry, verdict in verdicts if isinstance(verdict, Receipt)]
        if taken:
            await self._acknowledge(taken)
        if len(taken) < len(verdicts):
            await self._react(verdicts)

    async def _react(self, verdicts: Iterable[tuple[Entry, Verdict]]) -> None:
        """Do what follows for those that were not taken."""
        for error, company in _by_error(verdicts):
            match error:
                case TaskApiUnavailable(keyless=True):
                    rest = max(error.retry_after or 0.0, FIRST_BACKOFF)
                    self._hold(company, self._clock.now() + rest, str(error))
                case TaskApiUnavailable():
                    await self._postpone(company, error)
                case AuthenticationFailed():
                    await self._keep_out(company, str(error))
                case NotNow():
                    self._hold(company, error.until, str(error))
                case _:
                    await self._park(company, str(error))

    async def _report(self, entries: Sequence[Entry]) -> Sequence[Verdict]:
        self._sending += 1
        try:
            return await self._reporter.report(entries)
        finally:
            self._sending -= 1
            if not self._sending:
                self._enough.set()

    async def _acknowledge(self, taken: Sequence[tuple[Entry, Receipt]]) -> None:
        """Have it written down that these are reported.

        One lane writes for all, while the others deliver on; they wait for it where it does not keep up.
        """
        self._kept_out = 0
        self._halted = False
        self._acknowledged += taken
        if len(self._acknowledged) >= COMPANY:
            self._enough.set()
        if not self._acknowledging.locked() or len(self._acknowledged) >= CHUNK:
            async with self._acknowledging:
                await self._write_down()

    async def _write_down(self) -> None:
        while self._acknowledged:
            await self._wait_for_company()
            reported, self._acknowledged = self._acknowledged, []
            await self._journal.mark_reported([entry.task_id for entry, _ in reported])
            now = self._clock.now()
            for entry, receipt in reported:
                self._observer(_reported(entry, receipt, now))

    async def _wait_for_company(self) -> None:
        """A transaction for each would cost more than its PATCH; while others are being sent, more will come."""
        if not self._sending or len(self._acknowledged) >= COMPANY:
            return
        self._enough.clear()
        try:
            async with asyncio.timeout(LINGER):
                await self._enough.wait()
        except TimeoutError:
            return

    async def _park(self, entries: Sequence[Entry], reason: str) -> None:
        self._halted = False
        for entry in entries:
            await self._journal.park(entry.task_id, reason)
            self._observer(Parked(task_id=entry.task_id, correlation_id=entry.correlation_id, reason=reason))

    def _hold(self, entries: Sequence[Entry], until: float, reason: str) -> None:
        """Keep these outcomes in hand, for what is in the way is in the way of all of them."""
        self._taken.extendleft(reversed(entries))
        self._rest_until(until, reason)

    async def _postpone(self, entries: Sequence[Entry], error: TaskApiUnavailable) -> None:
        """Try these outcomes again later; a wish of the API to wait holds for the others too."""
        wished = min(error.retry_after or 0.0, LONGEST_WISH)
        if wished:
            self._rest_until(self._clock.now() + wished, str(error))
        else:
            self._halted = False
        await self._try_later(entries, max(wished, self._backoff(entries[0].attempts)), str(error))

    async def _keep_out(self, entries: Sequence[Entry], reason: str) -> None:
        """Try these again slowly; where what came before them was not let in either, it is not their fault."""
        self._kept_out += 1
        if self._kept_out > 1:
            self._rest_until(self._clock.now() + AUTHENTICATION_REST, reason)
        await self._try_later(entries, max(AUTHENTICATION_REST, self._backoff(entries[0].attempts)), reason)

    async def _try_later(self, entries: Sequence[Entry], seconds: float, reason: str) -> None:
        until = self._clock.now() + seconds
        await self._journal.postpone([entry.task_id for entry in entries], until)
        for entry in entries:
            self._observer(ReportPostponed(entry.task_id, entry.correlation_id, until=until, reason=reason))

    def _backoff(self, attempts: int) -> float:
        return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempts, 20)) * self._random.uniform(0.5, 1.0)

    def _rest_until(self, until: float, reason: str) -> None:
        now = self._clock.now()
        if self._halted_until <= now < until:
            self._observer(DeliveryHalted(until=until, reason=reason))
        self._halted = True
        self._halted_until = max(self._halted_until, until)


def _by_error(verdicts: Iterable[tuple[Entry, Verdict]]) -> Iterable[tuple[TaskApiError | NotNow, Sequence[Entry]]]:
    """The outcomes that were not taken, by the reason; one reason for all is one error."""
    found: dict[str, tuple[TaskApiError | NotNow, list[Entry]]] = {}
    for entry, verdict in verdicts:
        if not isinstance(verdict, Receipt):
            key = f"{type(verdict).__name__} {verdict}"
            found.setdefault(key, (verdict, []))[1].append(entry)
    return found.values()


def _reported(entry: Entry, receipt: Receipt, now: float) -> Reported:
    return Reported(
        task_id=entry.task_id,
        correlation_id=entry.correlation_id,
        type=entry.type,
        status="succeeded" if isinstance(entry.outcome, Succeeded) else "failed",
        receipt=receipt.value,
        waited=max(0.0, now - entry.settled_at),
    )
