"""Chooses, for one call, what runs again: for as little memory as can be, or for a budget of it.

With a budget, what is kept beyond the least is what spares most work for its bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt

from snncompile.errors import InputError
from snncompile.ir.program import Program, Segment
from snncompile.memory.autograd import kept_by_autograd
from snncompile.memory.segments import as_segments, cuts
from snncompile.memory.units import Unit, units_of

_NEARLY_LEAST = 1.5
"""How much more memory than the least a tile may take: longer ones are faster."""


@dataclass(frozen=True)
class CallSize:
    """The size of a call.

    Attributes:
        steps: T.
        samples: The batch.
        tile: How many steps run at once.
    """

    steps: int
    samples: int
    tile: int

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return ceil(self.steps / self.tile)


def segments_for(program: Program, call: CallSize) -> tuple[Segment, ...]:
    """What runs again in a call.

    Args:
        program: A program with `recompute`.
        call: Its size.

    Raises:
        InputError: The states between tiles alone are beyond the budget.
    """
    asked = program.recompute
    if asked is None or asked.budget is None:
        return () if asked is None else asked.segments
    units = units_of(program)
    left = asked.budget - anchors(units, call)
    if left < 0:
        raise InputError(
            f"recompute: the states between {call.tiles} tiles of steps take "
            f"{readable(anchors(units, call))}, more than the budget of {readable(asked.budget)}; "
            "take longer tiles (schedule='layers' has one), fewer steps or a smaller batch"
        )
    values = call.steps * call.samples
    borders = cuts(units, kept=call.steps / call.tile, limit=left / values)
    segments = as_segments(units, borders)
    return _kept_for(segments, units, left / values, kept_by_autograd(program))


def _kept_for(
    segments: tuple[Segment, ...],
    units: Sequence[Unit],
    limit: float,
    known: Mapping[str, Mapping[int, float]],
) -> tuple[Segment, ...]:
    """Segments of which some keep what autograd keeps, as far as the limit goes."""
    work = {unit.nodes[0].name: unit.work for unit in units}
    kept = {value.node.name: value.kept for unit in units for value in unit.values}
    left = limit - sum(kept[name] for name in {n for s in segments for n, _ in s.keeps})
    parts = [{k: v for n in s.nodes for k, v in known.get(n, {}).items()} for s in segments]
    costs = [sum(part.values()) for part in parts]
    spared = [sum(work.get(name, 0.0) for name in segment.nodes) for segment in segments]
    chosen = list(segments)
    for i in sorted(range(len(segments)), key=lambda i: -spared[i] / max(costs[i], 1.0)):
        if costs[i] <= left:
            left -= costs[i]
            chosen[i] = replace(segments[i], again=False)
    return tuple(chosen)


def anchors(units: Sequence[Unit], call: CallSize) -> float:
    """Bytes of the states before every tile but the first, whose states are one number each."""
    return (call.tiles - 1) * call.samples * sum(unit.states for unit in units)


def tile_for(program: Program, steps: int) -> int:
    """The longest tile of steps that takes nearly the least memory.

    Modules that read whole sequences have the values of all steps at once in any case.
    """
    asked = program.recompute
    if asked is None or program.whole:
        return steps
    units = units_of(program)
    size = max(_sizes(asked.segments, units), default=0.0)
    states = sum(unit.states for unit in units)
    lengths: list[int] = sorted({steps, *(1 << i for i in range(steps.bit_length()))} - {0})
    needed = {k: (ceil(steps / k) - 1) * states + k * size for k in lengths if k <= steps}
    least = min(needed.values())
    kept = steps * sum(v.kept for unit in units for v in unit.values if v.bits < 8)  # noqa: PLR2004
    near = [k for k, value in needed.items() if value + kept <= _NEARLY_LEAST * (least + kept)]
    return max(near)


def _sizes(segments: Sequence[Segment], units: Sequence[Unit]) -> list[float]:
    by_name = {unit.nodes[0].name: unit for unit in units}
    parts = [[by_name[n] for n in segment.nodes if n in by_name] for segment in segments]
    return [sum(u.computed for u in part) + max(u.largest for u in part) for part in parts if part]


def chunk_for(program: Program, steps: int) -> int:
    """How many single steps run again together, for the least memory."""
    units = units_of(program)
    states, size = sum(u.states for u in units), sum(u.computed for u in units)
    best = round(sqrt(steps * states / size)) if size else steps
    return max(1, min(steps, best))


def readable(size: float) -> str:
    """A number of bytes for people: ``3.2 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
