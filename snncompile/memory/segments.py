"""Cuts a step into segments: what lies in one runs again in the backward pass, from what it reads.

Cutting costs the values that cross: one bit a spike, four bytes a current. A segment costs, while
its backward pass runs, all that it computes. The cuts that take least memory at the moment when it
takes most are found exactly but for the steps in which segments' sizes are tried.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Final, NamedTuple

from snncompile.ir.program import Program, Segment
from snncompile.memory.units import Unit, Value, units_of

_SIZES_TRIED: Final = 48
_NEARLY_LEAST: Final = 1.05
"""How much more than the least memory cuts may take that keep less."""
_WHOLE_NUMBERS: Final = 4
"""How much worse than bytes of packed values those of unpacked ones are: a cut where currents cross
is for the largest layers, not for sparing them a little."""


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
    allowed = [(size, path) for size, path in paths if limit is None or path.saved <= limit]
    least = min((kept * path.weighed + size for size, path in allowed), default=0.0)
    near = (path for size, path in allowed if kept * path.weighed + size <= _NEARLY_LEAST * least)
    return min(near, default=_Path(0.0, 0.0, (0, len(units)))).borders


class _Path(NamedTuple):
    """Stretches of units one after the other: what they leave behind, weighed and in bytes."""

    weighed: float
    saved: float
    borders: tuple[int, ...]

    def to(self, end: int, left: tuple[float, float]) -> "_Path":
        """The path with one more stretch."""
        return _Path(self.weighed + left[1], self.saved + left[0], (*self.borders, end))


_END: Final = _Path(inf, inf, ())


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

    def cheapest(self, size: float) -> _Path | None:
        """The stretches of at most this size that leave least behind."""
        best: list[_Path | None] = [_Path(0.0, 0.0, (0,)), *(None for _ in range(self.count))]
        for begin in range(self.count):
            path = best[begin]
            for end in range(begin + 1, self.count + 1):
                if path is None or self.size[begin][end - begin - 1] > size:
                    break
                best[end] = min(path.to(end, self.saved[begin][end - begin - 1]), best[end] or _END)
        return best[self.count]


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


def _left(units: Sequence[Unit], begin: int) -> Iterator[tuple[float, float]]:
    """Bytes that are kept of the units from one on if a cut follows them; and weighed."""
    for end in range(begin + 1, len(units) + 1):
        values = [v for unit in units[begin:end] for v in unit.values if v.last >= end]
        weighed = (v.kept * (1 if v.bits < v.width else _WHOLE_NUMBERS) for v in values)
        yield sum(v.kept for v in values), sum(weighed)


def _segment(units: Sequence[Unit], begin: int, end: int) -> Segment:
    earlier = (value for unit in units[:begin] for value in unit.values)
    read = [v for v in earlier if any(begin <= reader < end for reader in v.readers)]
    nodes = tuple(node.name for unit in units[begin:end] for node in unit.nodes)
    return Segment(nodes, tuple((value.node.name, value.bits) for value in read))
