"""How much of what is due the limits let through now."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from ai_task_processor.domain.amount import USD, Amount
from ai_task_processor.domain.ports import RateLimiter, WindowUsage
from ai_task_processor.domain.task import Task
from ai_task_processor.domain.work import Rejection, Work
from ai_task_processor.pipeline.batching import fitting
from ai_task_processor.pipeline.planning import Plan

Planned: TypeAlias = tuple[Task, Plan]


class Rations:
    """Gives out what ``limiter`` has room for, the most urgent first.

    Where the first task of a kind does not fit, its kind waits for it, however large it is: smaller ones that went
    before would take its place again and again.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._awaited: dict[str, Amount] = {}  # by batch key: what there must be room for

    def waiting(self) -> Mapping[str, float]:
        """The batch keys of which nothing is to be begun, and until when (Unix seconds)."""
        moments = {key: self._limiter.opens_at(amount) for key, amount in self._awaited.items()}
        still = {key: moment for key, moment in moments.items() if moment is not None}
        self._awaited = {key: self._awaited[key] for key in still}
        return still

    def affordable(self, plans: Iterable[Planned]) -> Sequence[Planned]:
        """The plans, in the place of each that no limit will ever let through the reason."""
        room = self._limiter.headroom()
        return [(task, plan if _amount(plan).within(room) else self._judged(plan)) for task, plan in plans]

    def _judged(self, plan: Plan) -> Plan:
        amount = _amount(plan)
        too_small = ((key, used) for key, used in self._limiter.usage().items() if amount.of(used.unit) > used.limit)
        return next((Rejection(_never(amount, key, used)) for key, used in too_small), plan)

    def fitting(self, plans: Sequence[Planned]) -> Sequence[Planned]:
        """The first of these, as many as there is room for together; where that is none, their kind has to wait."""
        count = fitting((_amount(plan) for _, plan in plans), self._limiter.headroom())
        if plans and not count:
            task, plan = plans[0]
            self._awaited[task.batch_key] = _amount(plan)
        return plans[:count]


def _amount(plan: Plan) -> Amount:
    return plan.amount if isinstance(plan, Work) else Amount()


def _never(amount: Amount, key: str, used: WindowUsage) -> str:
    """Why a task can never be done, for its author."""
    name = key.replace("_", " ")
    if used.unit == "cost":
        cost, limit = amount.cost / USD, used.limit / USD
        return f"The text may cost {cost:.8f} US dollars; this installation allows a {name} of {limit:.8f}. Shorten it."
    return (
        f"The text may have {amount.of(used.unit)} {used.unit}; this installation allows {used.limit} {name}. "
        "Shorten it, or split it into several tasks."
    )
