"""How much is sent to the Task API at once: as much as it takes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

Result: TypeAlias = tuple[str, bytes]
"""The id of a task, and the body that reports its outcome."""

LARGEST = 1_000_000
SMALLEST = 16_000
"""Bytes of results that are sent together, between these bounds; a larger one travels alone."""


class ParcelSize:
    """Halved when a parcel was too large or got no answer, doubled when one was taken, up to what was too large."""

    def __init__(self) -> None:
        self._bytes = self._bound = LARGEST

    def parcels(self, results: Iterable[Result]) -> Iterator[Sequence[Result]]:
        """The results in order, as many together as may be."""
        parcel: list[Result] = []
        size = 0
        for result in results:
            if parcel and size + len(result[1]) > self._bytes:
                yield parcel
                parcel, size = [], 0
            parcel.append(result)
            size += len(result[1])
        if parcel:
            yield parcel

    def taken(self) -> None:
        """A parcel of this size was understood."""
        self._bytes = min(2 * self._bytes, self._bound)

    def lost(self) -> None:
        """No answer came; perhaps because it was too much."""
        self._bytes = max(self._bytes // 2, SMALLEST)

    def refused(self, parcel: Sequence[Result]) -> None:
        """The API said that this was too much."""
        self._bound = max(sum(len(body) for _, body in parcel) // 2, SMALLEST)
        self._bytes = min(self._bytes, self._bound)


def halves(parcel: Sequence[Result]) -> tuple[Sequence[Result], Sequence[Result]]:
    """Two parcels out of one."""
    middle = len(parcel) // 2
    return parcel[:middle], parcel[middle:]
