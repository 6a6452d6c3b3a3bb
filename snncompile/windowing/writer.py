"""Writes a step anew: its modules window by window, everything else as it was, no states."""

from collections.abc import Sequence

import networkx as nx
from torch import fx

from snncompile.ir.program import Program, is_neuron, output_of
from snncompile.ir.windows import SIDE, Span, stitch, windows
from snncompile.windowing.encoder import DRAW, Encoder, emits_spikes, keeps_spikes
from snncompile.windowing.handover import Below, Handover
from snncompile.windowing.modules import Module, find_modules
from snncompile.windowing.recording import record
from snncompile.windowing.settings import Settings
from snncompile.windowing.states import start, states_of
from snncompile.windowing.windowed import Windowed


def windowed_step(program: Program, settings: Settings) -> tuple[fx.Graph, int]:
    """The step of a program as one step without states.

    Args:
        program: A program that `snncompile.windowing.legality` lets pass.
        settings: How it is rewritten.

    Returns:
        The graph, whose placeholders are the program's inputs and, if numbers are drawn, the
        input `DRAW` after them; and how many numbers a sample draws.
    """
    writer = _StepWriter(program, settings)
    graph, drawn = writer.write(), writer.encoder.drawn
    for unused in graph.find_nodes(op="placeholder")[len(program.inputs) :]:
        if not drawn:
            graph.erase_node(unused)
    return graph, drawn


def spans(modules: Sequence[Module], settings: Settings) -> list[Span]:
    """The windows of every module: halves, and of every second module three quarters.

    The last one keeps halves, and so does one whose map cannot be cut into quarters.
    """
    found: list[Span] = ["half"] * len(modules)
    for i in range(1, len(modules) - 1, 2):
        quarters = all(side % SIDE["three-quarters"] == 0 for side in modules[i].size)
        if settings.spans == "alternating" and quarters:
            found[i] = "three-quarters"
    return found


class _StepWriter:
    """Holds what stands in the new step for nodes of the old one."""

    def __init__(self, program: Program, settings: Settings) -> None:
        self.program = program
        self.settings = settings
        self.graph = fx.Graph()
        inputs = program.placeholders()[: len(program.inputs)]
        self.copies = {node: self.graph.node_copy(node) for node in inputs}
        drawn = self.graph.placeholder(DRAW) if settings.encoding == "bernoulli" else None
        self.encoder = Encoder(self.graph, settings, drawn)
        self.states = states_of(program)
        self.exempt = set(inputs)
        self.below: Below | None = None

    def write(self) -> fx.Graph:
        modules = find_modules(self.program, self.settings.depth)
        taken = dict(zip(modules, spans(modules, self.settings), strict=True))
        for item in _in_order(self.program, modules):
            if isinstance(item, Module):
                self._module(item, taken[item])
            elif item not in self.copies and item not in self.states:
                self._node(item)
        outputs = tuple(self.copies[node] for node in output_of(self.program.step)[0])
        self.graph.output((outputs, ()))
        return self.graph

    def _node(self, node: fx.Node) -> None:
        if is_neuron(node):
            start(node, self.states, self.copies)
        self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
        kept = keeps_spikes(self.program, node) and node.all_input_nodes[0] in self.exempt
        if kept or emits_spikes(node):
            self.exempt.add(node)

    def _module(self, module: Module, span: Span) -> None:
        """Write a module and stitch what others read of it."""
        places = windows(*module.size, span)
        handover = Handover(self.program, module, places, self.settings, self.below)
        entries = module.entries() if self.settings.encoding != "none" else ()
        encoded = frozenset(entries) - self.exempt
        windowed = Windowed(
            self.program, self.graph, module, self.states, self.copies, encoded, self.encoder
        )
        done = windowed.write(places, handover)
        self.below = handover.left(done)
        for node in module.exits():
            pieces = [copies[node] for copies in done]
            self.copies[node] = record(self.graph, stitch, pieces, places)
            if span == "half" and emits_spikes(node):
                self.exempt.add(node)


def _in_order(program: Program, modules: Sequence[Module]) -> list[fx.Node | Module]:
    """Nodes outside of modules, and modules, each after what it reads."""
    owner: dict[fx.Node, fx.Node | Module] = {n: m for m in modules for n in m.nodes}
    nodes = [node for node in program.step.nodes if node.op != "output"]
    position: dict[fx.Node | Module, int] = {}
    graph: nx.DiGraph[fx.Node | Module] = nx.DiGraph()
    for i, node in enumerate(nodes):
        item = owner[node] if node in owner else node  # noqa: SIM401
        graph.add_node(item)
        position.setdefault(item, i)
        sources = [owner[s] if s in owner else s for s in node.all_input_nodes]  # noqa: SIM401
        graph.add_edges_from((source, item) for source in sources if source is not item)
    return list(nx.lexicographical_topological_sort(graph, key=position.__getitem__))
