"""What a training step keeps for its backward pass, segment by segment, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from snncompile.ir.names import value_name
from snncompile.ir.program import Program, Segment, origin
from snncompile.memory.autograd import Kept, kept_by_autograd
from snncompile.memory.choice import CallSize, chunk_for, readable, segments_for
from snncompile.memory.segments import least_memory
from snncompile.memory.units import Unit, units_of


@dataclass(frozen=True)
class KeptBySegment:
    """What one segment keeps.

    Attributes:
        name: Its modules in the user's model.
        bytes: What it keeps in one call, the values that earlier segments keep for it included
            once, where they are made.
        again: It runs again in the backward pass.
        why: What is kept, and the reason.
    """

    name: str
    bytes: int
    again: bool
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {readable(self.bytes)}, {self.why}"


def kept_in(program: Program, size: CallSize) -> tuple[KeptBySegment, ...]:
    """What a training step of a program keeps, as estimated from shapes.

    Args:
        program: The program, with `recompute` or without.
        size: Of the call.

    Returns:
        One entry a segment, in the order of the step; one for all, where single steps run again.
    """
    units, known = units_of(program), kept_by_autograd(program)
    if program.recompute is not None and size.tile == 1:
        return (_chunks(program, units, size),)
    segments = segments_for(program, size)
    plain = not segments
    if plain:
        segments = tuple(replace(part, again=False) for part in least_memory(program))
    entries = _Entries(program, units, known, size)
    return tuple(entries.of(segment, plain=plain) for segment in segments)


class _Entries:
    def __init__(
        self, program: Program, units: Sequence[Unit], known: dict[str, Kept], size: CallSize
    ) -> None:
        self.units = {unit.nodes[0].name: unit for unit in units}
        self.nodes = {node.name: node for node in program.step.nodes}
        self.values = {v.node.name: v for unit in units for v in unit.values}
        self.known = known
        self.size = size
        self.counted: set[str] = set()

    def of(self, segment: Segment, *, plain: bool) -> KeptBySegment:
        modules = dict.fromkeys(
            origin(self.nodes[n]) for n in segment.nodes if "module" in self.nodes[n].meta
        )
        inside = [self.units[name] for name in segment.nodes if name in self.units]
        name = ", ".join(modules) or segment.nodes[0]
        work = readable_work(sum(u.work for u in inside) * self.size.steps * self.size.samples)
        if segment.again:
            return KeptBySegment(name, self._read(segment, inside), True, self._why(segment, work))
        kept = {k: v for n in segment.nodes for k, v in self.known.get(n, {}).items()}
        reason = "nothing runs again" if plain else f"within the budget, spares {work}"
        why = f"what autograd keeps: {reason}"
        return KeptBySegment(name, self._bytes(sum(kept.values())), False, why)

    def _read(self, segment: Segment, inside: Sequence[Unit]) -> int:
        """Bytes of the values that it reads and no segment before it does, and of its states."""
        fresh = [name for name, _ in segment.keeps if name not in self.counted]
        self.counted.update(fresh)
        states = sum(unit.states for unit in inside) * self.size.samples * (self.size.tiles - 1)
        return self._bytes(sum(self.values[name].kept for name in fresh)) + int(states)

    def _why(self, segment: Segment, work: str) -> str:
        named = [(value_name(self.nodes[name]), bits) for name, bits in segment.keeps]
        read = [f"{name} at {bits} bit{'s' * (bits > 1)}" for name, bits in named]
        states = f", states before {self.size.tiles} tiles" if self.size.tiles > 1 else ""
        return f"runs again ({work}) from {', '.join(read) or 'the inputs'}{states}"

    def _bytes(self, one: float) -> int:
        return round(one * self.size.steps * self.size.samples)


def _chunks(program: Program, units: Sequence[Unit], size: CallSize) -> KeptBySegment:
    """What is kept where single steps run again in chunks."""
    chunk = chunk_for(program, size.steps)
    count = -(-size.steps // chunk)
    states = sum(unit.states for unit in units) * size.samples * (count - 1)
    why = f"{count} chunks of {chunk} steps run again from the states before them"
    return KeptBySegment("all steps", round(states), True, why)


def readable_work(operations: float) -> str:
    """A number of operations for people: ``3.2 GFLOP``."""
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP"):
        if operations < 1000:  # noqa: PLR2004
            return f"{operations:.3g} {unit}"
        operations /= 1000
    return f"{operations:.3g} TFLOP"
