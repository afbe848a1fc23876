"""The most urgent of more tasks than anybody needs, chosen while they go by."""

import itertools
from collections.abc import Generator
from typing import TypeAlias

from ai_task_processor.domain.task import Task, urgency

STRIDE = 4_096
"""Tasks that are put in order between two pauses."""

_Rank: TypeAlias = tuple[int, float, str]


class Shortlist:
    """The ``most`` most urgent of the tasks that were offered, each id once; all of them without ``most``.

    Holds :data:`STRIDE` tasks more than these, so that a list of any length costs the same memory. What takes time is
    done in steps of a few milliseconds. Ranks and not tasks are sorted, for the garbage collector passes over tuples of
    plain values.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._tasks: dict[str, Task] = {}
        self._ordered: list[_Rank] = []
        self._fresh: list[_Rank] = []
        self._last: _Rank | None = None  # of those in order, once they are as many as are wanted

    def __len__(self) -> int:
        return len(self._tasks)

    def offer(self, task: Task) -> None:
        """Keep ``task``, unless enough others are known to be more urgent."""
        rank = urgency(task)
        if task.id in self._tasks or (self._last is not None and rank >= self._last):
            return
        self._tasks[task.id] = task
        self._fresh.append(rank)

    def settle(self) -> Generator[None, None, None]:
        """Drop what is not among the most urgent, once it is worth the while; to be called every now and then."""
        if len(self._fresh) >= STRIDE:
            yield from self._merge()

    def taken(self) -> Generator[None, None, list[Task]]:
        """Take all of them, in the order of urgency; little by little, for to free them at once takes its time too."""
        yield from self._merge()
        taken: list[Task] = []
        while self._ordered:
            taken += [self._tasks.pop(rank[-1]) for rank in self._ordered[:STRIDE]]
            del self._ordered[:STRIDE]
            yield
        return taken

    def _merge(self) -> Generator[None, None, None]:
        """To sort two runs one after the other is linear."""
        self._fresh.sort()
        yield
        self._ordered = sorted(itertools.chain(self._ordered, self._fresh))
        self._fresh = []
        yield
        if self._most is not None:
            for rank in self._ordered[self._most :]:
                del self._tasks[rank[-1]]
            del self._ordered[self._most :]
            self._last = self._ordered[-1] if 0 < self._most <= len(self._ordered) else None
