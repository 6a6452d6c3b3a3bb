"""A plan: a program cut into stages, each compiled, and how they run one after the other.

A module that reads the whole sequence (a BatchNorm with statistics over T * N) splits the step: the
stage before it runs all its tiles, then the module sees the full sequence, then the next stage
runs. Without such modules there is one stage.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from snncompile.ir.dependence import Component, components
from snncompile.ir.operations import is_size
from snncompile.ir.program import Output, Program, Segment, output_of
from snncompile.runtime.chunk import Chunk
from snncompile.runtime.code import compile_graph
from snncompile.runtime.region import Region, Regions, step_graph
from snncompile.runtime.segmented import SegmentedTile
from snncompile.runtime.stage import Execution, Gathering, Stage, gathering
from snncompile.runtime.tile import tile_graph


@dataclass(frozen=True)
class Plan:
    """What runs in one call, for one program in one mode.

    Attributes:
        prepare: Computes the invariant values, ``(root, *inputs, *states) -> values``.
        invariants: Their names.
        stages: What runs, in order.
        inputs: Names of the inputs, in order.
        states: Names of the states, in order.
        outputs: Names of the step's outputs, with what becomes of their sequences.
        in_tiles: Tiles of several steps follow each other.
    """

    prepare: Callable[..., Any]
    invariants: tuple[str, ...]
    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    outputs: tuple[tuple[str, Output], ...]
    in_tiles: bool

    def gathering(self, output: Output) -> Gathering:
        """How the values of an output are gathered over time."""
        return gathering(output, in_tiles=self.in_tiles)


@dataclass(frozen=True)
class Pieces:
    """What runs at once.

    Attributes:
        tiled: Several steps; otherwise single ones.
        entire: All steps, if they are tiled.
        segments: What runs again in the backward pass.
    """

    tiled: bool
    entire: bool = False
    segments: tuple[Segment, ...] = ()


def make_plan(program: Program, pieces: Pieces) -> Plan:
    """Cut a program into stages and compile them.

    Args:
        program: The program, in the mode its modules are in now.
        pieces: What runs at once.

    Raises:
        InvalidProgramError: A module that reads the whole sequence takes part in feedback.
    """
    found = components(program)
    regions = Regions(program, found)
    outputs = tuple(zip(output_of(program.step)[0], program.outputs, strict=True))
    one_stage = pieces.entire and bool(pieces.segments)
    cut = _cut(program, regions, found, entire=one_stage)
    compiler = _Compiler(program, regions, pieces)
    stages = tuple(map(compiler.stage, cut))
    needed = {node for region in cut for node in region.invariants}
    ordered = tuple(node for node in program.step.nodes if node in needed)
    return Plan(
        compile_graph(program, _invariant_graph(program, regions, ordered)),
        tuple(node.name for node in ordered),
        stages,
        tuple(spec.name for spec in program.inputs),
        tuple(state.name for state in program.states),
        tuple((node.name, output) for node, output in outputs),
        compiler.in_tiles,
    )


def begin(
    plan: Plan,
    root: nn.Module,
    inputs: tuple[Tensor, ...],
    states: Iterable[Tensor],
    span: tuple[int, int, int],
) -> Execution:
    """Start a call: compute what is the same at every step.

    Args:
        plan: The plan.
        root: Where the program's modules live.
        inputs: Sequences [T, N, ...], and statics as they are.
        states: The states before the first step, each [N, ...].
        span: The number of steps, of steps in a tile, and of single steps that run again together
            (0 where values are kept).

    Returns:
        The call; its stages are still to be run, in the plan's order.
    """
    steps, tile, chunk = span
    fixed = plan.prepare(root, *inputs, *states)
    return Execution(
        root,
        steps,
        tile,
        chunk,
        dict(zip(plan.invariants, fixed, strict=True)),
        dict(zip(plan.states, states, strict=True)),
        {(name, "stack"): value for name, value in zip(plan.inputs, inputs, strict=True)},
    )


def _cut(
    program: Program, regions: Regions, found: Iterable[Component], *, entire: bool
) -> list[Region]:
    """Stages at even levels; between them, at odd ones, modules that read whole sequences."""
    level: dict[fx.Node, int] = {}
    layers: dict[int, list[Component]] = {}
    given = {spec.name for spec in program.inputs}
    for component in found:
        if component.kind == "invariant" or component.nodes[0].name in given:
            continue
        sources = {s for node in component.nodes for s in regions.graph.predecessors(node)}
        own = max((level.get(source, 0) for source in sources), default=0)
        own += not entire and own % 2 != (component.kind == "whole")
        layers.setdefault(own, []).append(component)
        level.update(dict.fromkeys(component.nodes, own))
    final = max(layers, default=0)
    final += final % 2
    layers.setdefault(final, [])
    passed = [node for node in regions.outputs if node not in level]
    return [regions.region(layers[i], passed if i == final else ()) for i in sorted(layers)]


class _Compiler:
    """Compiles the stages of one program."""

    def __init__(self, program: Program, regions: Regions, pieces: Pieces) -> None:
        self.program = program
        self.regions = regions
        self.segments = pieces.segments
        self.tiled = pieces.tiled
        self.in_tiles = pieces.tiled and not pieces.entire

    def stage(self, region: Region) -> Stage:
        """Compile a stage."""
        entire = any(component.kind == "whole" for component in region.components)
        tiled = self.tiled or entire
        function = self._tile(region) if tiled else self._step(region)
        again = self.segments and not tiled
        return Stage(
            function,
            tiled,
            entire,
            Chunk(self.program, region, function) if again else None,
            tuple(node.name for node in region.reads),
            tuple(node.name for node in region.invariants),
            tuple(node.name for node in region.states),
            self._writes(region),
        )

    def _step(self, region: Region) -> Callable[..., Any]:
        return compile_graph(self.program, step_graph(self.program, region), boxed=True)

    def _tile(self, region: Region) -> Callable[..., Any]:
        if self.segments:
            return SegmentedTile(self.program, self.regions, region, self.segments)
        graph = tile_graph(self.program, self.regions, region)
        return compile_graph(self.program, graph, boxed=True)

    def _writes(self, region: Region) -> tuple[tuple[str, tuple[Gathering, ...]], ...]:
        """What a stage writes, and how it is gathered over time."""
        inside = {node for component in region.components for node in component.nodes}
        gathered: dict[fx.Node, list[Gathering]] = {node: [] for node in region.writes}
        for node in region.writes:
            if node in inside and self.regions.feeds(node, inside):
                gathered[node].append("stack")
        outputs = zip(output_of(self.program.step)[0], self.program.outputs, strict=True)
        for node, output in outputs:
            way = gathering(output, in_tiles=self.in_tiles)
            if node in gathered and way not in gathered[node]:
                gathered[node].append(way)
        return tuple((node.name, tuple(gathered[node])) for node in region.writes)


def _invariant_graph(program: Program, regions: Regions, wanted: tuple[fx.Node, ...]) -> fx.Graph:
    """What is the same at every step; sequences and states give only their sizes."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in program.placeholders()}
    sequences = {spec.name for spec in program.inputs if spec.kind == "sequence"}
    for node in program.step.nodes:
        if node not in regions.invariant or node in copies:
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if is_size(node) and node.all_input_nodes[0].name in sequences:
            axis: Any = node.args[1]
            copies[node].args = (copies[node.all_input_nodes[0]], axis + 1)
    graph.output(tuple(copies[node] for node in wanted))
    return graph
