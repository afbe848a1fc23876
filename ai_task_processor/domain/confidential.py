"""Values that hold a secret."""

from typing import Any

from msgspec import Struct


class Confidential(Struct, frozen=True):
    """A value that does not show its fields, for one of them is secret: neither to ``repr`` nor to rich."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []
