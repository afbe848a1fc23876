"""What an operator does with the state: look at rows and spaces, send rows again, forget spaces."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from msgspec import to_builtins
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table

from ai_task_processor.domain.errors import TaskProcessorError
from ai_task_processor.journal.operator import OperatorJournal, Row
from ai_task_processor.journal.state import State
from ai_task_processor.providers.models import canonical
from ai_task_processor.providers.space_store import SqlSpaceStore
from ai_task_processor.providers.spaces import Sighting
from ai_task_processor.storage.engine import Storage, open_storage

T = TypeVar("T")


class NoSuchTask(TaskProcessorError):
    """The journal does not hold a task of this id."""


def list_rows(url: str, states: Sequence[State], *, limit: int, as_json: bool) -> None:
    """Print rows in these states."""
    rows = _with_journal(url, lambda journal: journal.list_rows(states, limit=limit))
    if as_json:
        _print_json([asdict(row) for row in rows])
    else:
        _print_table(rows)


def show_row(url: str, task_id: str, *, as_json: bool) -> None:
    """Print all facts of one row; raises NoSuchTask."""
    row = _with_journal(url, lambda journal: journal.show(task_id))
    if row is None:
        raise NoSuchTask(f"the journal holds no task {task_id!r}; `journal list` shows what it holds")
    if as_json:
        _print_json(asdict(row))
    else:
        _print_facts(row)


def retry_rows(url: str, task_ids: Sequence[str], *, as_json: bool) -> None:
    """Send rows again, all parked ones where no id is given; print how many."""
    count = _with_journal(url, lambda journal: journal.retry(task_ids or None))
    if as_json:
        _print_json({"retried": count})
    else:
        others = "; the others named are not here, or wait for nothing" if count < len(set(task_ids)) else ""
        Console().print(f"{count} {'row' if count == 1 else 'rows'} will be tried again{others}")


def export_rows(url: str, *, texts: bool) -> None:
    """Print every row as a line of JSON."""

    async def export(journal: OperatorJournal) -> None:
        async for row in journal.export(texts=texts):
            sys.stdout.write(json.dumps(row) + "\n")

    _with_journal(url, export)


def list_spaces(url: str, *, as_json: bool) -> None:
    """Print which model of which provider has answered for which name."""
    sightings = sorted(_with_storage(url, lambda storage: SqlSpaceStore(storage).load()), key=lambda one: one.name)
    if as_json:
        _print_json(to_builtins(sightings))
    else:
        _print_spaces(sightings)


def forget_spaces(url: str, model: str, *, as_json: bool) -> None:
    """Drop what is known of a model, under the name that tasks give it and under its own; print how much that was."""

    async def forget(storage: Storage) -> int:
        store = SqlSpaceStore(storage)
        meant = [one for one in await store.load() if canonical(model) in {one.name, canonical(one.space.model)}]
        await store.forget(meant)
        return len(meant)

    count = _with_storage(url, forget)
    if as_json:
        _print_json({"forgotten": count})
    else:
        told = f"{count} {'space' if count == 1 else 'spaces'} forgotten"
        Console().print(f"{told}; a daemon that runs knows them until its restart")


def _with_journal(url: str, use: Callable[[OperatorJournal], Awaitable[T]]) -> T:
    return _with_storage(url, lambda storage: use(OperatorJournal(storage)))


def _with_storage(url: str, use: Callable[[Storage], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_storage(url, exclusive=False) as storage:
            return await use(storage)

    return asyncio.run(run())


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_table(rows: Sequence[Row]) -> None:
    table = Table(title=f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}")
    for heading in ("task", "type", "state", "accepted", "tries", "again at", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "task")
    for row in rows:
        tries = str(row.attempts + row.deliveries)
        why = row.reason or row.error or ""
        table.add_row(row.id, row.type, row.state, _moment(row.accepted_at), tries, _moment(row.not_before), why)
    Console().print(table)


def _print_spaces(sightings: Sequence[Sighting]) -> None:
    table = Table(title="Embedding spaces")
    for heading in ("tasks name", "ask for", "provider", "model", "dimensions", "vectors", "last seen"):
        table.add_column(heading, overflow="fold")
    for one in sightings:
        space = one.space
        facts = (space.provider, space.model, str(space.dimensions), f"{one.count:,}", _moment(one.last_seen))
        table.add_row(one.name, str(one.asked or ""), *facts)
    Console().print(table)


def _print_facts(row: Row) -> None:
    table = Table(show_header=False)
    for name, value in asdict(row).items():
        is_moment = name.endswith("_at") or name == "not_before"
        table.add_row(name, _moment(value) if is_moment else str(value if value is not None else ""))
    Console().print(table)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
