"""Understanding a task by the processor of its type."""

import traceback
from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from ai_task_processor.domain.ports import Processor
from ai_task_processor.domain.task import Task
from ai_task_processor.domain.work import Rejection, Work


class Defect(Struct, frozen=True):
    """A processor raised where it must not: a defect of ours, not of the task."""

    traceback: str


Plan: TypeAlias = Work | Rejection | Defect


def planned(task: Task, processors: Mapping[str, Processor]) -> Plan:
    """What is to be done for ``task``; a type that nobody handles is rejected."""
    processor = processors.get(task.type)
    if processor is None:
        known = ", ".join(sorted(processors))
        return Rejection(f"type {task.type[:100]!r} is not known here; known types: {known}")
    try:
        return processor.plan(task)
    except Exception:  # noqa: BLE001  # as around a batch: what a processor does wrong harms its own task only
        return Defect(traceback.format_exc())
