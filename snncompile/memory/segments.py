"""Cuts a step into segments: what lies in one runs again in the backward pass, from what it reads.

Cutting costs the values that cross: one bit a spike, four bytes a current. A segment costs, while
its backward pass runs, all that it computes. The cuts that take least memory at the moment when it
takes most are found exactly but for the steps in which segments' sizes are tried.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from snncompile.ir.program import Program, Segment
from snncompile.memory.units import Unit, Value, units_of

_SIZES_TRIED: Final = 48
_NEARLY_LEAST: Final = 1.05
"""How much more than the least memory cuts may take that keep less."""


def least_memory(program: Program) -> tuple[Segment, ...]:
    """The segments that take least memory when all steps run at once."""
    units = units_of(program)
    return as_segments(units, cuts(units, kept=1.0, limit=None))


def as_segments(units: Sequence[Unit], borders: Sequence[int]) -> tuple[Segment, ...]:
    """Segments by their borders, 0 and the number of units among them."""
    return tuple(_segment(units, begin, end) for begin, end in pairwise(borders))


def cuts(units: Sequence[Unit], *, kept: float, limit: float | None) -> tuple[int, ...]:
    """The borders of the segments that take least memory.

    Args:
        units: The step.
        kept: How many times as long values are kept as a segment is: steps by steps in a tile.
        limit: The most bytes of kept values for one step and sample; None for no limit. Where
            even one segment is beyond it, that one segment is what comes back.

    Returns:
        Positions between units, from 0 to their number.
    """
    parts = _Parts(units)
    paths = [(size, path) for size in parts.sizes() if (path := parts.cheapest(size))]
    allowed = [(size, path) for size, path in paths if limit is None or path[0] <= limit]
    least = min((kept * saved + size for size, (saved, _) in allowed), default=0.0)
    near = (p for size, p in allowed if kept * p[0] + size <= _NEARLY_LEAST * least)
    return min(near, default=(0.0, (0, len(units))))[1]


class _Parts:
    """All stretches of units, with what each takes while it runs and what it leaves behind."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.count = len(units)
        self.size = [list(_sizes(units, i)) for i in range(self.count)]
        self.saved = [list(_left(units, i)) for i in range(self.count)]

    def sizes(self) -> list[float]:
        """Sizes to try, the smallest that allows any cuts at all first."""
        least = max((row[0] for row in self.size), default=0.0)
        every = sorted({size for row in self.size for size in row if size >= least})
        return every[:: max(1, len(every) // _SIZES_TRIED)] + every[-1:]

    def cheapest(self, size: float) -> tuple[float, tuple[int, ...]] | None:
        """The least that stretches of at most this size leave behind, and their borders."""
        best = [(0.0, (0,))] + [(float("inf"), (0,))] * self.count
        for begin in range(self.count):
            saved, borders = best[begin]
            for end in range(begin + 1, self.count + 1):
                if self.size[begin][end - begin - 1] > size:
                    break
                total = saved + self.saved[begin][end - begin - 1]
                if total < best[end][0]:
                    best[end] = (total, (*borders, end))
        return best[self.count] if best[self.count][0] < float("inf") else None


def _sizes(units: Sequence[Unit], begin: int) -> Iterator[float]:
    """Bytes that the units from one on take, with what they read and the largest gradient."""
    total = largest = 0.0
    packed = [v for unit in units[:begin] for v in unit.values if v.bits < v.width]
    read: dict[Value, float] = {}
    for position, unit in enumerate(units[begin:], start=begin):
        total += unit.computed
        largest = max(largest, unit.largest)
        read.update((v, v.kept * v.width / v.bits) for v in packed if position in v.readers)
        yield total + largest + sum(read.values())


def _left(units: Sequence[Unit], begin: int) -> Iterator[float]:
    """Bytes that are kept of the units from one on if a cut follows them."""
    for end in range(begin + 1, len(units) + 1):
        values = (value for unit in units[begin:end] for value in unit.values)
        yield sum(value.kept for value in values if value.last >= end)


def _segment(units: Sequence[Unit], begin: int, end: int) -> Segment:
    earlier = (value for unit in units[:begin] for value in unit.values)
    read = [v for v in earlier if any(begin <= reader < end for reader in v.readers)]
    nodes = tuple(node.name for unit in units[begin:end] for node in unit.nodes)
    return Segment(nodes, tuple((value.node.name, value.bits) for value in read))
