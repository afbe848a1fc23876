"""The neighbours of the pipeline's stages, simple enough to be seen through."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from ai_task_processor.domain.amount import ONE_TASK, UNLIMITED, Amount
from ai_task_processor.domain.errors import NotNow, RateLimited, TaskApiError
from ai_task_processor.domain.events import Event
from ai_task_processor.domain.outcome import Outcome, Succeeded, Vector
from ai_task_processor.domain.ports import Entry, Receipt, Verdict, WindowUsage, Wish
from ai_task_processor.domain.task import Page, Task, urgency
from ai_task_processor.domain.work import Batch, Rejection, Work

E = TypeVar("E", bound=Event)

VECTOR = Vector(b"\x00\x00\x80?")


def task(task_id: str, **facts: object) -> Task:
    known = {"type": "echo", "content": "text", "created_at": 0.0, "correlation_id": f"c-{task_id}"}
    return Task(id=task_id, **(known | facts))  # type: ignore[arg-type]  # facts are keywords of Task


def page(*tasks: Task, listed: int | None = None, unusable: Sequence[str] = ()) -> Page:
    return Page(
        tuple(sorted(tasks, key=urgency)), listed=len(tasks) if listed is None else listed, unusable=tuple(unusable)
    )


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


class ScriptedSource:
    """Answers each fetch with the next of its pages or errors, and with an empty page after the last."""

    def __init__(self, *answers: Page | Exception) -> None:
        self.answers = list(answers)
        self.limits: list[int] = []
        self.new: list[int | None] = []
        self.most: list[int | None] = []

    async def fetch(self, wish: Wish) -> Page:
        self.limits.append(wish.limit)
        self.new.append(wish.new)
        self.most.append(wish.most)
        answer = await self.listed(wish.limit)
        wanted = [task for task in answer.tasks if wish.types is None or task.type in wish.types]
        foreign = Counter(task.type for task in answer.tasks if task not in wanted)
        return replace(answer, tasks=tuple(wanted[: wish.most]), foreign=foreign)

    async def listed(self, _limit: int) -> Page:
        """The next page."""
        answer = self.answers.pop(0) if self.answers else page()
        if isinstance(answer, Exception):
            raise answer
        return answer


class ScriptedReporter:
    """Takes every outcome, unless ``answers`` has something else for its task."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Receipt | Exception]] = {}
        self.most = 1
        self.reported: list[Entry] = []
        self.companies: list[int] = []
        self.announced: list[str] = []

    async def at_once(self) -> int:
        return self.most

    async def report(self, entries: Sequence[Entry]) -> Sequence[Verdict]:
        self.reported += entries
        self.companies.append(len(entries))
        return [await self._verdict(entry) for entry in entries]

    async def _verdict(self, entry: Entry) -> Verdict:
        try:
            return self._answer(entry.task_id)
        except (TaskApiError, NotNow) as error:
            return error

    async def announce(self, task: Task) -> Receipt:
        self.announced.append(task.id)
        return self._answer(task.id)

    def _answer(self, task_id: str) -> Receipt:
        script = self.answers.get(task_id)
        answer = script.pop(0) if script else Receipt.TAKEN
        if isinstance(answer, Exception):
            raise answer
        return answer


class Echo:
    """A processor whose batches succeed, unless ``fault`` raises for the ids of a batch."""

    type = "echo"

    def __init__(self, fault: Callable[[Sequence[str]], None] = lambda _: None) -> None:
        self._fault = fault
        self.performed: list[tuple[str, ...]] = []

    def plan(self, task: Task) -> Work | Rejection:
        return Work(task, str(task.content), None) if task.content else Rejection("content is empty")

    async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
        ids = tuple(work.task.id for work in batch.works)
        self.performed.append(ids)
        self._fault(ids)
        return dict.fromkeys(ids, Succeeded(VECTOR, model=batch.key, provider="echo", tokens=1))


class OneWindow:
    """A limiter with a single window that a test opens and closes."""

    def __init__(self, room: int | None = None, opens_at: float | None = None) -> None:
        self.room = room
        self.closed_until = opens_at

    async def take(self, amount: Amount) -> None:
        if not amount.within(self.headroom()):
            raise RateLimited("full", until=self.closed_until or 0.0)

    async def refund(self, amount: Amount) -> None:
        pass

    async def settle(self, actual: Amount) -> None:
        pass

    def headroom(self) -> Amount:
        return UNLIMITED if self.room is None else replace(UNLIMITED, tasks=self.room)

    def opens_at(self, least: Amount = ONE_TASK) -> float | None:  # noqa: ARG002 - the port's signature
        return self.closed_until

    def usage(self) -> Mapping[str, WindowUsage]:
        return {}
