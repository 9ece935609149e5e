"""A set of whole numbers that lie side by side, nearly all of them: as few ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """Ranges [first, stop), in order; none touches the next."""

    def __init__(self) -> None:
        self._edges: list[int] = []  # first, stop, first, stop, …

    def add(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Takes in the numbers from `first` on and below `stop`; answers which of them were in before, as ranges."""
        if first >= stop:
            return []
        edges = self._edges
        left, right = bisect_left(edges, first), bisect_right(edges, stop)
        met = [(max(edges[i], first), min(edges[i + 1], stop)) for i in range(left - left % 2, right, 2)]
        edges[left:right] = [first] * (left % 2 == 0) + [stop] * (right % 2 == 0)
        return [(begin, end) for begin, end in met if begin < end]

    def holes(self, stop: int) -> Iterator[tuple[int, int]]:
        """The ranges below `stop` that are not in, in order."""
        place = 0
        for first, behind in self:
            if first >= stop:
                break
            if place < first:
                yield place, first
            place = behind
        if place < stop:
            yield place, stop

    def __contains__(self, number: int) -> bool:
        return bisect_right(self._edges, number) % 2 == 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._edges[::2], self._edges[1::2], strict=True)

    @property
    def stop(self) -> int:
        """The number behind the last one; 0 where there is none."""
        return self._edges[-1] if self._edges else 0


def total(ranges: Iterable[tuple[int, int]]) -> int:
    """How many numbers are in ranges."""
    return sum(stop - first for first, stop in ranges)
