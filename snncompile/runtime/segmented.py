"""A tile of steps whose segments run again in the backward pass, one after the other.

Every segment keeps what it reads, and its states before the tile.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from snncompile.ir.dependence import Component
from snncompile.ir.program import Program, Segment
from snncompile.memory.levels import levels
from snncompile.runtime.again import Packed, PackedValues, learning_modules, run_again
from snncompile.runtime.code import compile_graph
from snncompile.runtime.region import Region, Regions
from snncompile.runtime.tile import tile_graph


@dataclass(frozen=True)
class _Part:
    """A segment, compiled over a tile: ``function(root, [steps, *reads, ...])``."""

    again: bool
    function: Callable[..., Any]
    reads: tuple[str, ...]
    invariants: tuple[str, ...]
    states: tuple[str, ...]
    writes: tuple[str, ...]
    learning: tuple[str, ...]

    def run(self, root: nn.Module, operands: list[Any], packed: dict[int, Packed]) -> Any:  # noqa: ANN401
        if self.again:
            return run_again(self.function, root, operands, packed, self.learning)
        return self.function(root, operands)


class SegmentedTile:
    """A tile of a region, segment by segment.

    Args:
        program: The program.
        regions: Knows what else the step consists of.
        region: What to run.
        segments: What runs again together; components in none of them make one more.
    """

    def __init__(
        self, program: Program, regions: Regions, region: Region, segments: Sequence[Segment]
    ) -> None:
        self.region = region
        self.levels = {node.name: known for node, known in levels(program).items()}
        inside = {node for component in region.components for node in component.nodes}
        passed = [node for node in region.writes if node not in inside]
        drawn = [(regions.region(part), again) for part, again in _groups(region, segments)]
        if passed:
            drawn.append((regions.region((), passed), False))
        self.parts = [_compiled(program, regions, part, again=again) for part, again in drawn]
        self.wanted = {node.name for node in region.writes}
        self.last = {name: i for i, part in enumerate(self.parts) for name in part.reads}

    def __call__(self, root: nn.Module, box: list[Any]) -> Any:  # noqa: ANN401
        """Run the tile; see `snncompile.runtime.stage.Stage.function`."""
        steps, *given = box
        box.clear()
        region = self.region
        count = len(given) - len(region.states)
        crossing = (*region.reads, *region.invariants)
        values: dict[str, Any] = dict(zip(_names(crossing), given[:count], strict=True))
        states: dict[str, Any] = dict(zip(_names(region.states), given[count:], strict=True))
        given.clear()
        packed = PackedValues(self.levels)
        for i, part in enumerate(self.parts):
            kept = packed.of(part.reads, values) if part.again else {}
            operands = [steps, *(values[name] for name in (*part.reads, *part.invariants))]
            operands += [states.pop(name) for name in part.states]
            for name in part.reads:
                if self.last[name] == i and name not in self.wanted:
                    del values[name]
            written, after = part.run(root, operands, kept)
            values.update(zip(part.writes, written, strict=True))
            states.update(zip(part.states, after, strict=True))
            del written, after
        following = tuple(states[node.name] for node in region.states)
        return tuple(values[node.name] for node in region.writes), following


def _groups(region: Region, segments: Sequence[Segment]) -> list[tuple[list[Component], bool]]:
    """The components of a region by the segment that they belong to, in order; whether again."""
    home = {name: i for i, segment in enumerate(segments) for name in segment.nodes}
    groups: dict[int, list[Component]] = {}
    for component in region.components:
        groups.setdefault(home.get(component.nodes[0].name, len(segments)), []).append(component)
    known = [*(segment.again for segment in segments), True]
    return [(groups[i], known[i]) for i in sorted(groups)]


def _compiled(program: Program, regions: Regions, region: Region, *, again: bool) -> _Part:
    nodes: list[fx.Node] = [node for component in region.components for node in component.nodes]
    return _Part(
        again,
        compile_graph(program, tile_graph(program, regions, region, anchored=True), boxed=True),
        _names(region.reads),
        _names(region.invariants),
        _names(region.states),
        _names(region.writes),
        learning_modules(program, nodes),
    )


def _names(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)
