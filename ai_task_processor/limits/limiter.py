"""The limiter: admits tasks, tokens and money to providers as long as every configured window has room."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

from ai_task_processor.domain.amount import ONE_TASK, UNITS, UNLIMITED, USD, Amount, Unit
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import JournalError, RateLimited
from ai_task_processor.domain.events import LimitReached
from ai_task_processor.domain.ports import Observer, WindowUsage
from ai_task_processor.limits.ledger import Bucket, Change, Decide, Ledger, LimitStore
from ai_task_processor.limits.tally import Tally
from ai_task_processor.limits.timeline import Timeline, shift_between
from ai_task_processor.limits.windows import KEYS, LENGTHS, Strategy, Window, window_of

REFRESH = 5.0
"""Seconds after which what replicas have booked is looked at, where nothing was booked here meanwhile."""

_NOTHING = Amount()
_WORDS: Mapping[Unit, str] = {"tasks": "tasks", "tokens": "tokens", "cost": "USD"}
_Place: TypeAlias = tuple[str, float]


@dataclass(slots=True)
class _Booking:
    """What one take left: per window the bucket it went into, and how much of it can still be given back."""

    amount: Amount
    ends: dict[str, float] = field(default_factory=dict)
    left: Amount = _NOTHING

    def places(self) -> tuple[_Place, ...]:
        return tuple(self.ends.items())


class Limiter:
    """A :class:`~ai_task_processor.domain.ports.RateLimiter` whose decisions are kept in a store.

    Where this process is the only one that writes, its memory decides and the store remembers. Where replicas share
    the store, the ledger in it decides, read and written in one transaction, and the memory is a reading of it that
    :meth:`take`, :meth:`refund`, :meth:`settle` and :meth:`refresh` renew.

    A booking is in the store before :meth:`take` returns. What a settlement gives back is in the store with the change
    after it. Whatever goes wrong on the
    way, what is counted is never less than what was admitted. A take that is cancelled in the middle stays booked; the
    task that was cancelled may still refund it, where it is certain that it was booked.

    A booking can be given back by the asyncio task that took it: only then is it certain which buckets it is in, and
    giving back from any other would let a window forget an admission too early.

    Limits, strategy and time zone may change between runs, and limits also in the middle of one (:meth:`adjust`): the
    admissions stay, and are counted in the windows there are now. A window that had no limit before begins empty.
    """

    def __init__(
        self, strategy: Strategy, zone: ZoneInfo, *, store: LimitStore, clock: Clock, observer: Observer, boot: str
    ) -> None:
        self._strategy = strategy
        self._zone = zone
        self._begin = partial(Timeline, clock, strategy, boot=boot)
        self._line = self._begin()
        self._begun = False
        self._tallies: Mapping[str, Tally] = {}
        self._store = store
        self._observer = observer
        self._lock = asyncio.Lock()
        self._adjusted = asyncio.Event()
        self._bookings: WeakKeyDictionary[asyncio.Task[object], _Booking] = WeakKeyDictionary()
        self._told: dict[str, float] = {}
        self._unsaved: set[_Place] = set()
        self._pace = 0.0

    @classmethod
    async def open(
        cls,
        limits: Mapping[str, int],
        *,
        strategy: Strategy,
        zone: ZoneInfo,
        store: LimitStore,
        clock: Clock,
        observer: Observer,
        boot: str = "",
    ) -> "Limiter":
        """Take up what an earlier run left; a limit of 0 is none, and without any limit the store is not touched.

        ``limits`` are named as :data:`~ai_task_processor.limits.windows.KEYS` are.
        ``boot`` is :func:`~ai_task_processor.limits.timeline.boot_id`. Raises JournalError.
        """
        limiter = cls(strategy, zone, store=store, clock=clock, observer=observer, boot=boot)
        await limiter.adjust(limits)
        return limiter

    async def adjust(self, limits: Mapping[str, int]) -> None:
        """Count by these limits from now on; what was admitted before stays counted. Raises JournalError."""
        limited = {key: limit for key, limit in limits.items() if limit > 0}
        async with self._lock:
            ledger = await self._store.load() if limited.keys() - self._tallies.keys() else Ledger()
            if limited and not self._begun:
                self._line, self._begun = self._begin(last=ledger.reading), True
            self._limit(limited, ledger)
            if self._tallies:
                await self._change(self._seen)
            if ledger.reading is not None and ledger.reading.strategy != self._strategy:
                await self._rewrite()
        self._adjusted.set()

    async def take(self, amount: Amount) -> None:
        """See :class:`~ai_task_processor.domain.ports.RateLimiter`. Raises RateLimited or JournalError."""
        if not self._counts(amount):
            return
        async with self._turn():
            booking = self._bookings[_current_task()] = _Booking(amount)
            try:
                await self._book(booking)
            except JournalError:
                self._give_back(booking.places(), booking.left)
                booking.left = _NOTHING
                raise
            self._tell_of_closings()

    async def refund(self, amount: Amount) -> None:
        """See :class:`~ai_task_processor.domain.ports.RateLimiter`.

        Gives back at most what the last take of the calling asyncio task booked. Raises JournalError.
        """
        async with self._turn():
            booking = self._bookings.get(_current_task())
            if booking is not None:
                await self._correct(booking, back=amount.at_most(booking.left))

    async def settle(self, actual: Amount) -> None:
        """See :class:`~ai_task_processor.domain.ports.RateLimiter`.

        Without a booking of the calling asyncio task nothing happens. Raises JournalError.
        """
        async with self._turn():
            booking = self._bookings.get(_current_task())
            if booking is not None:
                back, over = booking.left.above(actual), actual.above(booking.left)
                await self._correct(booking, back=back, over=over, hurry=self._counts(over))
                self._tell_of_closings()

    async def refresh(self) -> None:
        """Look at what others have booked meanwhile, where replicas share the store. Raises JournalError."""
        if self._tallies:
            async with self._turn():
                await self._change(self._seen)

    async def watch(self) -> None:
        """Refresh every few seconds, where replicas share the store."""
        while True:
            self._adjusted.clear()
            while self._tallies and self._line.shared:
                await asyncio.sleep(REFRESH)
                await self.refresh()
            await self._adjusted.wait()

    def _turn(self) -> AbstractAsyncContextManager[None]:
        """One after the other where the ledger decides; where memory does, several are written down together."""
        return self._lock if self._line.shared else nullcontext()

    def headroom(self) -> Amount:
        """See :class:`~ai_task_processor.domain.ports.RateLimiter`."""
        self._advance()
        return Amount(*(self._room(unit) for unit in UNITS))

    def opens_at(self, least: Amount = ONE_TASK) -> float | None:
        """See :class:`~ai_task_processor.domain.ports.RateLimiter`."""
        self._advance()
        moment = self._fits_at(least)
        if moment is not None:
            self._tell_of_closings(least)
        return moment

    def usage(self) -> Mapping[str, WindowUsage]:
        """See :class:`~ai_task_processor.domain.ports.RateLimiter`."""
        self._advance()
        return {key: self._usage_of(tally, KEYS[key][0]) for key, tally in self._tallies.items()}

    def _limit(self, limits: Mapping[str, int], ledger: Ledger) -> None:
        """Keep the windows that stay with what they hold; new ones take from the ledger what it has of them."""
        shift = shift_between(ledger.reading, self._strategy)
        tallies = {
            key: self._tallies.get(key) or Tally(self._window(key), limit, _of(key, ledger, shift))
            for key, limit in limits.items()
        }
        changed = [key for key, tally in tallies.items() if tally.limit != limits[key]]
        for key in changed:
            tallies[key].limit = limits[key]
        self._told = {key: time for key, time in self._told.items() if key in tallies and key not in changed}
        self._tallies = tallies

    def _window(self, key: str) -> Window:
        return window_of(KEYS[key][1], self._strategy, self._zone)

    def _counts(self, amount: Amount) -> bool:
        """Whether any window counts what this has."""
        return any(amount.of(KEYS[key][0]) > 0 for key in self._tallies)

    def _room(self, unit: Unit) -> int:
        rooms = (tally.room for key, tally in self._tallies.items() if KEYS[key][0] == unit)
        return min(rooms, default=UNLIMITED.of(unit))

    def _advance(self) -> float:
        """Let go of what does not count any more; answers the time."""
        time = self._line.now()
        for name, tally in self._tallies.items():
            tally.expire(time)
            if tally.used * 2 <= tally.limit:
                self._told.pop(name, None)
        return time

    def _admit(self, amount: Amount) -> None:
        full = [key for key, tally in self._tallies.items() if tally.room < amount.of(KEYS[key][0])]
        if not full:
            return
        self._tell_of_closings()
        until = self._fits_at(amount)
        raise RateLimited(
            f"no room for {_in_words(amount, full)}",
            until=self._line.wall(self._line.now()) if until is None else until,
        )

    def _fits_at(self, amount: Amount) -> float | None:
        wanted = ((tally, amount.of(KEYS[key][0])) for key, tally in self._tallies.items())
        moments = [tally.fits_at(count) for tally, count in wanted if count > 0]
        latest = max((moment for moment in moments if moment is not None), default=None)
        return None if latest is None else self._line.wall(latest)

    def _usage_of(self, tally: Tally, unit: Unit) -> WindowUsage:
        frees_at = tally.frees_at()
        reset_at = None if frees_at is None else self._line.wall(frees_at)
        return WindowUsage(tally.used, tally.limit, tally.room, reset_at, unit)

    async def _book(self, booking: _Booking) -> None:
        """Put a booking into the buckets of the moment at which it is durable.

        Where a slow store lets that moment fall behind a bucket, the booking moves on: what was admitted later than
        its bucket says would be forgotten too early.
        """
        ahead = self._pace
        while True:
            began, kept = self._line.now(), booking.places()
            await self._change(partial(self._placed, booking, kept, ahead))
            booking.left = booking.amount
            ended = self._line.at_most()
            self._pace = max(0.0, ended - began)
            if all(end > ended for end in booking.ends.values()):
                return
            ahead = 2 * self._pace

    async def _correct(self, booking: _Booking, *, back: Amount, over: Amount = _NOTHING, hurry: bool = True) -> None:
        """Count less or more; without ``hurry`` what is given back may wait for the next change of the store.

        Until then a restart would find more counted than was used, never less.
        """
        if not self._counts(back) and not self._counts(over):
            return
        booking.left = booking.left.above(back)
        if hurry or self._line.shared:
            await self._change(partial(self._corrected, booking, back, over))
        else:
            self._advance()
            self._give_back(booking.places(), back)
            self._unsaved.update(booking.places())

    async def _change(self, decide: Decide) -> None:
        self._line.ask()
        await self._store.change(decide)

    def _placed(self, booking: _Booking, kept: Sequence[_Place], ahead: float, ledger: Ledger | None) -> Change:
        """Admit a booking, which is in the buckets ``kept`` so far, and put it into those of now."""
        self._learn(ledger)
        self._advance()
        self._give_back(kept, booking.amount)
        self._admit(booking.amount)
        booking.ends = self._add(self._line.now() + ahead, booking.amount)
        if ledger is None:
            booking.left = booking.amount  # what memory says is booked, whatever becomes of the caller
        return self._changed({*kept, *booking.places()})

    def _corrected(self, booking: _Booking, back: Amount, over: Amount, ledger: Ledger | None) -> Change:
        self._learn(ledger)
        self._advance()
        self._give_back(booking.places(), back)
        added = self._add(self._line.now(), over)
        return self._changed({*booking.places(), *added.items()})

    def _add(self, time: float, amount: Amount) -> dict[str, float]:
        """Count an amount; answers the end of the bucket that it went into, for each window that counts it."""
        wanted = ((key, tally, amount.of(KEYS[key][0])) for key, tally in self._tallies.items())
        return {key: tally.add(time, count) for key, tally, count in wanted if count > 0}

    def _seen(self, ledger: Ledger | None) -> None:
        self._learn(ledger)
        self._advance()

    def _learn(self, ledger: Ledger | None) -> None:
        """Believe the ledger of a shared store, and forget what was believed before."""
        if ledger is None:
            return
        if ledger.line is not None:
            self._line.follow(ledger.line)
        for name, tally in self._tallies.items():
            tally.recall(_of(name, ledger, 0.0))

    def _give_back(self, places: Iterable[_Place], amount: Amount) -> None:
        for key, end in places:
            if key in self._tallies:  # its limit may have been taken away meanwhile
                self._tallies[key].remove(end, amount.of(KEYS[key][0]))

    def _changed(self, places: Iterable[_Place]) -> Change:
        known = ((name, end) for name, end in {*places, *self._unsaved} if name in self._tallies)
        held = ((name, end, self._tallies[name].held(end)) for name, end in known)
        self._unsaved.clear()
        buckets = tuple(Bucket(name, end, count) for name, end, count in held if count is not None)
        return Change(self._line.reading(), buckets, self._forgotten())

    def _forgotten(self) -> dict[str, float]:
        forgotten: dict[str, float] = {}
        for name, tally in self._tallies.items():
            if tally.forgotten is not None:
                forgotten[name] = tally.forgotten
                tally.forgotten = None
        return forgotten

    async def _rewrite(self) -> None:
        buckets = (Bucket(name, *bucket) for name, tally in self._tallies.items() for bucket in tally.buckets())
        await self._store.replace(Ledger(self._line.reading(), tuple(buckets)))

    def _tell_of_closings(self, least: Amount = _NOTHING) -> None:
        """Tell of each window that has no room for ``least``, or for anything, once.

        A window in steady use opens a little and is full again all the time. That is one closing; it is told again
        when the window had become half empty, or else once per length of the window.
        """
        time = self._line.now()
        for key, tally in self._tallies.items():
            unit, window = KEYS[key]
            opens_at = tally.fits_at(max(1, least.of(unit)))
            if opens_at is not None and time >= self._told.get(key, -math.inf) + LENGTHS[window]:
                self._told[key] = time
                until = self._line.wall(opens_at)
                self._observer(LimitReached(window=key, limit=_shown(unit, tally.limit), until=until))


def _in_words(amount: Amount, keys: Sequence[str]) -> str:
    wanted = (f"{_shown(KEYS[key][0], amount.of(KEYS[key][0])):,} {_WORDS[KEYS[key][0]]}" for key in keys)
    return " and ".join(f"{wants} in the limit per {KEYS[key][1]}" for wants, key in zip(wanted, keys, strict=True))


def _shown(unit: Unit, count: int) -> float:
    """A count as people read it: money in US dollars."""
    return count / USD if unit == "cost" else count


def _of(name: str, ledger: Ledger, shift: float) -> Iterable[tuple[float, int]]:
    return ((bucket.end + shift, bucket.count) for bucket in ledger.buckets if bucket.window == name)


def _current_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("the limiter is used from inside an asyncio task")
    return task
