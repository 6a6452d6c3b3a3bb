"""A region: nodes of a step that run together, and what crosses its border.

The whole step is a region when a program runs step by step; a component with feedback is one; so is
the part of a step between two modules that read whole sequences.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import fx

from snncompile.ir.dependence import Component, dependence_graph
from snncompile.ir.program import Program, is_neuron, output_of
from snncompile.runtime.step_neuron import neuron_step


@dataclass(frozen=True)
class Region:
    """Nodes that run together.

    Attributes:
        components: What it consists of, each after those it depends on.
        reads: Nodes outside with one value a step that it reads.
        invariants: Nodes outside whose value is the same at every step that it reads.
        states: Placeholders of its states.
        writes: Its nodes that are read outside, or are outputs of the step.
    """

    components: tuple[Component, ...]
    reads: tuple[fx.Node, ...]
    invariants: tuple[fx.Node, ...]
    states: tuple[fx.Node, ...]
    writes: tuple[fx.Node, ...]


class Regions:
    """Draws regions in one program's step."""

    def __init__(self, program: Program, components: Iterable[Component]) -> None:
        self.graph = dependence_graph(program)
        self.order = {node: i for i, node in enumerate(self.graph)}
        self.next = program.next_states()
        self.outputs = set(output_of(program.step)[0])
        self.invariant = {n for c in components if c.kind == "invariant" for n in c.nodes}

    def region(
        self, components: Iterable[Component], also_writes: Collection[fx.Node] = ()
    ) -> Region:
        """The region of some components.

        Args:
            components: What runs together, each after those it depends on.
            also_writes: Nodes, inside or outside, that it writes in any case.
        """
        components = tuple(components)
        nodes = {node for component in components for node in component.nodes}
        sources = {s for node in nodes for s in self.graph.predecessors(node)} | {*also_writes}
        outside = self._ordered(sources - nodes)
        return Region(
            components,
            reads=tuple(node for node in outside if node not in self.invariant),
            invariants=tuple(node for node in outside if node in self.invariant),
            states=tuple(node for node in self._ordered(nodes) if node.name in self.next),
            writes=self._ordered({n for n in nodes if self.is_read(n, nodes)} | {*also_writes}),
        )

    def is_read(self, node: fx.Node, nodes: Collection[fx.Node]) -> bool:
        """Whether a node's value is needed outside of `nodes`, be it as an output."""
        return node in self.outputs or self.feeds(node, nodes)

    def feeds(self, node: fx.Node, nodes: Collection[fx.Node]) -> bool:
        """Whether nodes other than `nodes` read a node's value at every step."""
        return any(user not in nodes for user in self.graph.successors(node))

    def _ordered(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        return tuple(sorted(nodes, key=self.order.__getitem__))


def step_graph(program: Program, region: Region) -> fx.Graph:
    """One time step of a region, as a graph to compile.

    Returns:
        A graph of ``(*reads, *invariants, *states) -> (writes, next states)``.
    """
    graph = fx.Graph()
    crossing = (*region.reads, *region.invariants, *region.states)
    copies = {node: graph.placeholder(node.name) for node in crossing}
    inside = {node for component in region.components for node in component.nodes}
    for node in program.step.nodes:
        if node in inside and node not in copies:
            neuron = is_neuron(node)
            copied = neuron_step(graph, node, copies) if neuron else None
            copies[node] = copied or graph.node_copy(node, copies.__getitem__)
    following = program.next_states()
    writes = tuple(copies[node] for node in region.writes)
    graph.output((writes, tuple(copies[following[state.name]] for state in region.states)))
    return graph
