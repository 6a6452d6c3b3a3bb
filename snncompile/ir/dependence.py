"""What depends on what in a step, from step to step: which parts of it need a loop over time.

An edge runs from a node to every node that reads it, and, carried by the loop, from the node that
computes a state's next value to that state's placeholder. What lies on a cycle of this graph has
real feedback and keeps a loop over time; everything else can run over the whole sequence, one
component after the other (loop distribution; Allen and Kennedy, 1987).
"""

from dataclasses import dataclass
from operator import getitem
from typing import Literal, TypeAlias

import networkx as nx
from torch import fx

from snncompile.errors import InvalidProgramError
from snncompile.ir.layers import is_batch_norm, uses_batch_statistics
from snncompile.ir.operations import folded_operands, is_pure, is_size
from snncompile.ir.program import Program, is_neuron

Kind: TypeAlias = Literal[
    "invariant", "batchwise", "stepwise", "neuron", "delay", "recurrent", "whole"
]


@dataclass(frozen=True)
class Component:
    """A strongly connected component of the dependence graph.

    Attributes:
        kind: How it runs over a sequence. "invariant": once a call, it is the same at every step.
            "batchwise": once, with the steps folded into the batch; the placeholder of a sequence
            is batchwise too. "stepwise": a loop over time, since nothing better is known.
            "neuron": one neuron and its own states, a scan. "delay": a state whose next value
            does not depend on it, a shift by one step. "recurrent": real feedback, a loop over
            time. "whole": reads the whole sequence at once.
        nodes: Its nodes, in the order of the step; state placeholders belong to the component
            that their next value makes them part of.
    """

    kind: Kind
    nodes: tuple[fx.Node, ...]


def dependence_graph(program: Program) -> "nx.DiGraph[fx.Node]":
    """The step's nodes (all but its output) with data edges and loop-carried edges."""
    graph: nx.DiGraph[fx.Node] = nx.DiGraph()
    for node in program.step.nodes:
        if node.op != "output":
            graph.add_node(node)
            graph.add_edges_from((source, node) for source in node.all_input_nodes)
    placeholders = {node.name: node for node in program.placeholders()}
    for name, value in program.next_states().items():
        graph.add_edge(value, placeholders[name])
    return graph


def components(program: Program) -> tuple[Component, ...]:
    """The components of a program's step, each after those it depends on.

    The answer depends on the training flags of the program's modules: a BatchNorm that trains
    does not fold.

    Args:
        program: The program; its nodes hold ``meta["val"]``.

    Raises:
        InvalidProgramError: A module that reads the whole sequence takes part in feedback.
    """
    graph = dependence_graph(program)
    position = {node: i for i, node in enumerate(graph)}
    condensed: nx.DiGraph[int] = nx.condensation(graph)
    members: dict[int, set[fx.Node]] = {key: condensed.nodes[key]["members"] for key in condensed}
    first = {key: min(map(position.__getitem__, nodes)) for key, nodes in members.items()}
    order = nx.lexicographical_topological_sort(condensed, key=first.__getitem__)
    classifier = _Classifier(program)
    ordered = (tuple(sorted(members[key], key=position.__getitem__)) for key in order)
    return tuple(classifier.component(nodes, graph) for nodes in ordered)


class _Classifier:
    """Finds the kind of one component after the other, in topological order."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sequences = {spec.name for spec in program.inputs if spec.kind == "sequence"}
        self.next = program.next_states()
        self.invariant: set[fx.Node] = set()

    def component(self, nodes: tuple[fx.Node, ...], graph: "nx.DiGraph[fx.Node]") -> Component:
        first = next(iter(nodes))
        cyclic = len(nodes) > 1 or graph.has_edge(first, first)
        kind = self._cycle(nodes) if cyclic else self._single(first)
        if kind == "invariant":
            self.invariant.update(nodes)
        return Component(kind, nodes)

    def _single(self, node: fx.Node) -> Kind:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr" or (is_size(node) and node.all_input_nodes[0].op == "placeholder"):
            return "invariant"
        if reads_whole(self.program, node):
            return "whole"
        known = all(source in self.invariant for source in node.all_input_nodes)
        if known and is_pure(self.program, node):
            return "invariant"
        folds = folded_operands(self.program, node, self.invariant) is not None
        return "batchwise" if folds else "stepwise"

    def _placeholder(self, node: fx.Node) -> Kind:
        if node.name in self.next:
            return "delay"
        return "batchwise" if node.name in self.sequences else "invariant"

    def _cycle(self, nodes: tuple[fx.Node, ...]) -> Kind:
        for node in nodes:
            if reads_whole(self.program, node):
                raise InvalidProgramError(
                    f"%{node.name} reads the whole sequence at once but takes part in feedback, "
                    "where a step needs the one before; take it out of the feedback path"
                )
        return "neuron" if self._is_scan(nodes) else "recurrent"

    def _is_scan(self, nodes: tuple[fx.Node, ...]) -> bool:
        """Whether this is one neuron whose every state is its own, driven from outside."""
        neuron = next((node for node in nodes if is_neuron(node)), None)
        operands = [] if neuron is None else [a for a in neuron.args if isinstance(a, fx.Node)]
        if neuron is None or not operands or len(operands) < len(neuron.args):
            return False
        current, *states = operands
        settings = set(neuron.all_input_nodes) - set(operands)
        following = {self.next[state.name] for state in states if state.name in self.next}
        owned = all(self._follows(state, neuron, i) for i, state in enumerate(states, start=1))
        only = set(nodes) == {neuron, *states, *following} and current not in nodes
        return owned and only and settings <= self.invariant

    def _follows(self, state: fx.Node, neuron: fx.Node, item: int) -> bool:
        """Whether the state's next value is that item of what the neuron returns."""
        value = self.next.get(state.name)
        return value is not None and value.target is getitem and value.args == (neuron, item)


def reads_whole(program: Program, node: fx.Node) -> bool:
    """Whether a node runs on the whole sequence: not a BatchNorm that uses what it learned."""
    if node.op != "call_module" or node.name not in program.whole:
        return False
    module = program.module(node)
    return not is_batch_norm(module) or uses_batch_statistics(module)
