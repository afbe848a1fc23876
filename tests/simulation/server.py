"""The simulated Task API with its token endpoint, and the wire between it and the daemon."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import unquote, urlsplit

import numpy as np
import orjson
from multidict import CIMultiDict

from ai_task_processor.task_api.requests import NoAnswer, Reply, Request, broken_off
from tests.simulation import faults
from tests.simulation.faults import Weather
from tests.simulation.invariants import Ledger
from tests.simulation.life import Life
from tests.simulation.machine import Machine
from tests.simulation.scenario import CRASHING, MALFORMED, NAMELESS, POISON, UNKNOWN, UNWELCOME, Planned, Scenario

PENDING, IN_PROGRESS, SUCCEEDED, FAILED = "pending", "in_progress", "succeeded", "failed"
FINISHED = frozenset({SUCCEEDED, FAILED})

LATE_BY = 90.0
"""Seconds after which a request that everybody has given up still takes effect."""

FETCH, PATCH, TOKEN = "fetch", "patch", "token"

_STATUS = {
    faults.ERROR_BEFORE: 500,
    faults.ERROR_AFTER: 500,
    faults.GATEWAY: 502,
    faults.BUSY: 503,
    faults.BUSY_WITH_WISH: 503,
    faults.THROTTLED: 429,
    faults.THROTTLED_WITH_WISH: 429,
    faults.FORBIDDEN: 403,
}


@dataclass(eq=False, slots=True)
class Item:
    """A task at the Task API.

    ``acknowledged_at`` is the server's step at which the daemon heard that its last PATCH has ended the matter.
    ``era`` counts how often the daemon was told, on a page that it asked for after its last acknowledgement, that the
    task is pending again. ``finals`` are the bodies that took effect, by the era in which they were sent.
    """

    plan: Planned
    created_at: float
    state: str = PENDING
    body: bytes = b""
    judged: bytes = b""
    foreign: bool = False
    gone: bool = False
    era: int = 0
    finals: dict[int, set[bytes]] = field(default_factory=dict)
    history: list[tuple[float, str]] = field(default_factory=list)
    acknowledged_at: int | None = None
    acknowledged_to: Life | None = None
    written: bool = False
    not_before: dict[int, float] = field(default_factory=dict)

    def change(self, state: str, now: float) -> None:
        self.state = state
        self.history.append((now, state))

    def state_at(self, moment: float) -> str:
        """The state that somebody sees who is behind."""
        return next((state for at, state in reversed(self.history) if at <= moment), PENDING)


@dataclass(slots=True)
class Answer:
    """What the server says, and which task it thereby acknowledges to whom."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    acknowledges: Item | None = None
    relists: Sequence[Item] = ()


@dataclass(slots=True)
class Exchange:
    """One request on its way."""

    life: Life
    route: str
    request: Request
    sent_at: float
    step: int
    fault: str
    answer: "asyncio.Future[Reply]"
    item: Item | None = None
    era: int = 0


class TaskServer:
    """The application: creates tasks, lists them, takes their new states; and the token endpoint before it."""

    def __init__(self, scenario: Scenario, ledger: Ledger, machine: Machine, tell: Callable[[str], None]) -> None:
        self.items: dict[str, Item] = {}
        self._scenario = scenario
        self._traits = scenario.api
        self._ledger = ledger
        self._machine = machine
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._chance = random.Random(f"server {scenario.seed}")
        self._honours_limit = scenario.api.honours_limit
        self._tokens: dict[str, float] = {}
        self._issued = self._step = 0
        self._polls_not_before: dict[int, float] = {}
        self._plan()

    def _plan(self) -> None:
        for task in self._scenario.tasks:
            self._loop.call_at(task.at, self.create, task)
        for moment in self._traits.revocations:
            self._loop.call_at(moment, self._tokens.clear)
        for moment in self._traits.deploys:
            self._loop.call_at(moment, self._deploy)
        for moment, what in self._traits.touches:
            self._loop.call_at(moment, self._touch, what)

    # --- What others do to it -----------------------------------------------------------------------------------------

    def create(self, task: Planned) -> None:
        """Somebody creates a task."""
        self.items[task.id] = Item(task, created_at=self._loop.time())
        self._allow(self.items[task.id])
        self._tell(f"task {task.id} created: {task.kind}")

    def _allow(self, item: Item) -> None:
        """The text may be paid for once more."""
        if item.plan.text:
            self._ledger.allowed[item.plan.text] = self._ledger.allowed.get(item.plan.text, 0) + 1

    def _deploy(self) -> None:
        self._honours_limit = not self._honours_limit
        self._tell(f"deploy: the limit is {'honoured' if self._honours_limit else 'ignored'}")

    def _touch(self, what: str) -> None:
        """Somebody sets a finished task back to pending, or finishes or deletes a pending one."""
        wanted = FINISHED if what == "set back" else {PENDING}
        found = [
            item
            for item in self.items.values()
            if item.state in wanted and not item.gone and not item.foreign and item.plan.kind != NAMELESS
        ]
        if not found:
            return
        item = self._chance.choice(found)
        self._tell(f"task {item.plan.id}: {what}")
        self._ledger.counts[f"touched: {what}"] += 1
        if what == "set back":
            item.change(PENDING, self._loop.time())
        elif what == "rival":
            item.foreign = True
            item.change(SUCCEEDED, self._loop.time())
        else:
            item.gone = True

    # --- Requests -----------------------------------------------------------------------------------------------------

    def receive(self, life: Life, request: Request) -> Exchange:
        """Take a request; it goes its way also when nobody waits for the answer any more."""
        path = urlsplit(request.url).path
        route = TOKEN if path == "/oauth2/token" else FETCH if path.endswith("/pending") else PATCH
        weather = self._weather(route)
        now = self._loop.time()
        fault = weather.fault(now, self._scenario.healed, self._chance)
        exchange = Exchange(life, route, request, now, self._next_step(), fault, self._loop.create_future())
        self._ledger.counts[f"{route}: {fault or 'well'}"] += 1
        if route == PATCH:
            self._expect(exchange, unquote(path.rsplit("/", 1)[-1]))
        if route == FETCH:
            self._expect_poll(exchange)
        self._tell(f"{request.method} {path}{_shown(request)} {fault or 'well'}")
        delay = self._delay(route) + (LATE_BY if fault == faults.LATE else 0)
        self._loop.call_later(delay, self._arrive, exchange)
        return exchange

    def _weather(self, route: str) -> Weather:
        return {FETCH: self._traits.fetch, PATCH: self._traits.patch, TOKEN: self._traits.token}[route]

    def _expect(self, exchange: Exchange, task_id: str) -> None:
        """See whether this PATCH may be sent at all."""
        item = exchange.item = self.items.get(task_id)
        if item is None:
            self._ledger.violated(f"a PATCH for {task_id!r}, which was never listed")
            return
        exchange.era = item.era
        if item.acknowledged_at is not None and self._knows_better(exchange.life, item):
            self._ledger.violated(f"a PATCH for {task_id} after its acknowledgement")
        if (
            not self._scenario.clocks_differ
            and exchange.sent_at < item.not_before.get(exchange.life.facts.number, 0) - 0.01
        ):
            self._ledger.violated(f"a PATCH for {task_id} before its Retry-After was over")

    def _knows_better(self, life: Life, item: Item) -> bool:
        """Whether a life could know that the task's last PATCH was acknowledged: but for one whose lease was over."""
        if (life.facts.number, item.plan.id) in self._ledger.adopted:
            self._ledger.counts["late PATCHes"] += 1
            return False
        return item.acknowledged_to is life or item.written

    def written_down(self, task_id: str) -> None:
        """The journal has committed that the task is finished."""
        item = self.items.get(task_id)
        if item is not None and item.acknowledged_at is not None:
            item.written = True

    def _expect_poll(self, exchange: Exchange) -> None:
        self._ledger.polls.append(exchange.life.facts.number)
        if exchange.sent_at < self._polls_not_before.get(exchange.life.facts.number, 0.0) - 0.01:
            self._ledger.violated("a poll before its Retry-After was over")

    def _arrive(self, exchange: Exchange) -> None:
        """The request takes effect, unless it is lost; then its answer sets out, unless that is lost."""
        answer = None if exchange.fault in faults.WITHOUT_EFFECT else self._performed(exchange)
        self._loop.call_later(self._delay(exchange.route), self._answer, exchange, answer)

    def _next_step(self) -> int:
        self._step += 1
        return self._step

    def _delay(self, route: str) -> float:
        return self._weather(route).delay(self._loop.time(), self._scenario.healed, self._chance)

    def _performed(self, exchange: Exchange) -> Answer:
        if exchange.route == TOKEN:
            return self._token(exchange)
        token = exchange.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._tokens.get(token, -1.0) <= self._loop.time():
            return Answer(self._traits.refusal, b'{"message":"Unauthorized"}')
        if exchange.route == FETCH:
            return self._page(exchange)
        return self._change(exchange)

    def _answer(self, exchange: Exchange, answer: Answer | None) -> None:
        """What the daemon hears; an acknowledgement counts from now on, if it is heard."""
        future, fault = exchange.answer, exchange.fault
        if future.done() or fault in {faults.HANG_BEFORE, faults.HANG_AFTER, faults.LATE}:
            return
        if fault in {faults.REFUSED, faults.RESET_BEFORE, faults.RESET_AFTER}:
            future.set_exception(NoAnswer("the connection is gone"))
            future.exception()  # the daemon may have died meanwhile: nobody has to look
            return
        if fault == faults.WEB_PAGE:
            answer = Answer(200, b"<html>maintenance</html>", {"content-type": "text/html"})
        elif fault == faults.INVALID_CLIENT:
            answer = Answer(401, b'{"error":"invalid_client"}', {"content-type": "application/json"})
        elif fault in _STATUS:
            answer = Answer(_STATUS[fault], b'{"message":"not now"}', self._wish(exchange, fault))
        assert answer is not None
        self._heard(exchange, answer)
        reply = Reply(answer.status, CIMultiDict(answer.headers), answer.body)
        cut_off = ConnectionResetError("the connection is gone")
        future.set_result(broken_off(reply, cut_off) if fault == faults.TRUNCATED else reply)

    def _wish(self, exchange: Exchange, fault: str) -> dict[str, str]:
        """The header Retry-After, in one of its two forms, and a note to see whether it is obeyed."""
        if fault not in {faults.BUSY_WITH_WISH, faults.THROTTLED_WITH_WISH}:
            return {}
        wish = self._chance.choice(self._weather(exchange.route).wishes)
        life, until = exchange.life.facts.number, self._loop.time() + min(wish, 3_600)
        if exchange.item is not None:
            exchange.item.not_before[life] = until
        elif exchange.route == FETCH:
            self._polls_not_before[life] = until
        if self._scenario.clocks_differ or self._chance.random() < 0.5:
            return {"retry-after": str(wish)}
        return {"retry-after": formatdate(self._machine.wall() + wish + 1, usegmt=True)}

    def _heard(self, exchange: Exchange, answer: Answer) -> None:
        if answer.acknowledges is not None:
            item = answer.acknowledges
            item.acknowledged_at, item.acknowledged_to, item.written = self._next_step(), exchange.life, False
        if exchange.fault == faults.TRUNCATED:
            return
        for item in answer.relists:
            if item.acknowledged_at is not None and item.acknowledged_at < exchange.step:
                item.era += 1
                item.acknowledged_at = item.acknowledged_to = None
                self._allow(item)

    # --- Routes -------------------------------------------------------------------------------------------------------

    def _token(self, exchange: Exchange) -> Answer:
        assert b"grant_type=client_credentials" in (exchange.request.body or b"")
        self._issued += 1
        token = f"token-{self._issued}"
        life = self._traits.token_life
        self._tokens[token] = self._loop.time() + life
        says: dict[str, object] = {"access_token": token, "token_type": "bearer"}
        if self._traits.says_life != "not at all":
            says["expires_in"] = int(life) if self._traits.says_life == "number" else str(int(life))
        return Answer(200, orjson.dumps(says), {"content-type": "application/json"})

    def _page(self, exchange: Exchange) -> Answer:
        limit = int(_limit(exchange.request))
        largest = self._traits.largest_limit
        if largest is not None and limit > largest:
            return Answer(400, b'{"message":"limit is too large"}')
        seen_at = self._loop.time() - self._traits.lag
        pending = [item for item in self.items.values() if not item.gone and item.state_at(seen_at) == PENDING]
        if self._traits.order == "newest":
            pending.reverse()
        elif self._traits.order == "any":
            self._chance.shuffle(pending)
        if self._honours_limit:
            pending = pending[:limit]
        entries = [item.plan.entry for item in pending]
        if self._chance.random() < self._traits.duplicates:
            entries += entries[: len(entries) // 2]
        self._tell(f"  page of {len(entries)}")
        return Answer(200, orjson.dumps(entries), relists=pending)

    def _change(self, exchange: Exchange) -> Answer:
        item = exchange.item
        assert item is not None
        if item.gone:
            return Answer(404, b'{"message":"Task not found"}', acknowledges=item)
        if self._traits.strict and item.state in FINISHED:
            return Answer(409, b'{"message":"already finished"}', acknowledges=item)
        body = exchange.request.body or b""
        said = orjson.loads(body)
        if said["state"] == IN_PROGRESS:
            return self._begin(item)
        return self._refused(item, said) or self._finish(exchange, item, body, said)

    def _begin(self, item: Item) -> Answer:
        if item.state in FINISHED:
            return Answer(409, b"", acknowledges=item)
        item.change(IN_PROGRESS, self._loop.time())
        return Answer(200, b"{}")

    def _refused(self, item: Item, said: Mapping[str, object]) -> Answer | None:
        if item.plan.kind == UNWELCOME and said["state"] == SUCCEEDED:
            return Answer(413, b'{"message":"request entity too large"}')
        if self._traits.refuses_error and "error" in said:
            return Answer(400, b'{"message":["property error should not exist"]}')
        return None

    def _finish(self, exchange: Exchange, item: Item, body: bytes, said: Mapping[str, object]) -> Answer:
        """Set the state, then run the callback: in this order, as real servers do."""
        finals = item.finals.setdefault(exchange.era, set())
        finals.add(body)
        if len(finals) > 1:
            self._ledger.violated(f"two different final bodies for {item.plan.id}")
        item.body = body
        item.change(str(said["state"]), self._loop.time())
        self._tell(f"  {item.plan.id} is {item.state}")
        healing = self._loop.time() < self._scenario.healed
        if healing and self._chance.random() < self._traits.callback_throws:
            return Answer(500, b'{"message":"the callback threw"}')
        return Answer(200, b"{}", acknowledges=item)

    # --- At the end ---------------------------------------------------------------------------------------------------

    def is_at_rest(self) -> bool:
        """Whether every task is as it will stay."""
        return all(self.expected(item) for item in self.items.values())

    def expected(self, item: Item) -> bool:
        """Whether the task has ended as it must."""
        if item.foreign or item.gone:
            return True
        if item.plan.kind in {NAMELESS, UNWELCOME}:
            return item.state in {PENDING, IN_PROGRESS}
        if item.plan.kind == UNKNOWN:
            return item.state == (FAILED if self._scenario.settings["unknown_task_types"] == "fail" else PENDING)
        if item.plan.kind in {MALFORMED, POISON, CRASHING}:
            return item.state == FAILED
        return item.state == SUCCEEDED and self._has_own_vector(item)

    def _has_own_vector(self, item: Item) -> bool:
        if item.judged == item.body:
            return True
        result = orjson.loads(item.body)["result"]
        if self._scenario.settings["result_format"] == "detailed":
            result = result["embedding"]
        vector = np.array(result, "<f4").tobytes()
        charge = self._ledger.by_vector.get(vector)
        if charge is None or charge.text != item.plan.text or len(result) != (item.plan.dimensions or 768):
            self._ledger.violated(f"{item.plan.id} has a vector that is not its own")
            return False
        item.judged = item.body
        return True


class Wire:
    """The way to the Task API and its token endpoint as one life of the daemon sees it."""

    def __init__(self, server: TaskServer, life: Life) -> None:
        self._server = server
        self._life = life

    async def send(self, request: Request) -> Reply:
        """Send, and wait as long as the client is willing to."""
        self._life.door()
        exchange = self._server.receive(self._life, request)
        self._life.point(f"{exchange.route} sent")
        try:
            async with asyncio.timeout(request.step_seconds):
                reply = await exchange.answer
        except TimeoutError as error:
            raise NoAnswer("no answer came") from error
        self._life.point(f"{exchange.route} answered")
        return reply

    async def aclose(self) -> None:
        """Nothing is open."""


def _limit(request: Request) -> str:
    return urlsplit(request.url).query.removeprefix("limit=")


def _shown(request: Request) -> str:
    if request.method == "GET":
        return f"?limit={_limit(request)}"
    if request.url.endswith("/oauth2/token"):
        return ""
    return f" {(request.body or b'')[:60].decode(errors='replace')}"
