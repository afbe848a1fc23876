# ruff: noqa: INP001 - a script beside the pages that it renews, not a package
"""Renews the tables in these pages that are made from the code: `make docs`."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ai_task_processor.ops.catalogue import CATALOGUE
from ai_task_processor.settings import SECRETS, Settings

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / ".env.example"
PAGES = ("docs/configuration.md", "docs/operations.md")

_REGION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤"}


def main() -> None:
    """Write every page anew whose tables are out of date, and say which."""
    for name in PAGES:
        page = ROOT / name
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{name} renewed\n")


def renewed(page: str) -> str:
    """The text of a page with its generated regions made anew."""
    return _REGION.sub(lambda region: f"{region[1]}\n{TABLES[region[2]]()}\n{region[3]}", page)


# --- Settings ---------------------------------------------------------------------------------------------------------


def settings_table() -> str:
    """Every setting, in the groups and the order of `.env.example`."""
    described: list[str] = []
    parts: list[str] = []
    for group, names in _groups():
        rows = "\n".join(_setting(name) for name in names)
        parts.append(f"## {group}\n\n| setting | default | values | meaning |\n|---|---|---|---|\n{rows}\n")
        described += names
    missing = [name for name in Settings.model_fields if name not in described]
    if missing:
        raise SystemExit(f"not in .env.example: {', '.join(missing).upper()}")
    return "\n".join(parts)


def _groups() -> Iterator[tuple[str, list[str]]]:
    sections = re.split(r"^# --- (.+?) -+$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        yield title, [name.lower() for name in re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", body, re.MULTILINE)]


def _setting(name: str) -> str:
    field = Settings.model_fields[name]
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name.upper()}` | {_default(name, field)} | {_values(field)} | {meaning} |"


def _default(name: str, field: FieldInfo) -> str:
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if value == "" or (name in SECRETS and name != "state_url"):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _values(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind in {int, float, Decimal}:
        bounds = [
            f"{sign} {getattr(limit, bound):g}"
            for limit in field.metadata
            for bound, sign in _BOUNDS.items()
            if hasattr(limit, bound)
        ]
        return " ".join(["whole number" if kind is int else "number", ", ".join(bounds)])
    return {tuple: "list", Mapping: "JSON object"}.get(get_origin(kind), "text")


# --- Metrics ----------------------------------------------------------------------------------------------------------


def metrics_table() -> str:
    """Every metric of the catalogue."""
    rows = "\n".join(
        f"| `{one.full_name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
        for one in CATALOGUE
    )
    return f"| metric | kind | labels | meaning |\n|---|---|---|---|\n{rows}\n"


TABLES: Mapping[str, Callable[[], str]] = {"settings": settings_table, "metrics": metrics_table}


if __name__ == "__main__":
    main()
