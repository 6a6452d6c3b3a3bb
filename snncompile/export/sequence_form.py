"""The sequence form: whole sequences in one run, layer by layer; and the unrolled form.

Layers run once over all steps folded into the batch, every neuron is one Scan, and so is what has
real feedback. States are inputs and outputs here too, so that a long sequence can be cut into
chunks and each chunk continue where the one before stopped.

The unrolled form is the same for a fixed number of steps, with every step of a neuron written out
in place of the Scan: for few steps, and for runtimes without control flow.
"""

import torch
from torch import Tensor, fx

from snncompile.errors import ExportError
from snncompile.export.dimensions import Dimensions
from snncompile.export.draft import Draft
from snncompile.export.emitter import Emitter
from snncompile.export.graph import GraphWriter, Value
from snncompile.export.scan import Part, ScanWriter
from snncompile.export.surroundings import Before, write_after, write_before
from snncompile.export.timeline import Timeline
from snncompile.export.unrolling import Unroller
from snncompile.ir.dependence import Component, components
from snncompile.ir.names import place
from snncompile.ir.operations import folded_operands, is_part, is_size
from snncompile.ir.program import output_of


def write_sequence(
    emitter: Emitter, graph: GraphWriter, dimensions: Dimensions, probes: tuple[fx.Node, ...] = ()
) -> Draft:
    """Write a program over whole sequences as a main graph.

    Args:
        emitter: Writes the nodes.
        graph: An empty main graph.
        dimensions: How sizes are declared.
        probes: Nodes whose sequences become further outputs, ``probe0`` and so on.

    Returns:
        The graph with its interface.

    Raises:
        ExportError: A node has no recipe or reads the whole sequence at once.
    """
    draft = Draft(graph)
    before = write_before(emitter, draft, dimensions)
    timeline = Timeline(emitter, graph, before.steps)
    _write(draft, dimensions, (timeline, before), probes)
    return draft


def write_unrolled(
    emitter: Emitter, graph: GraphWriter, dimensions: Dimensions, probes: tuple[fx.Node, ...] = ()
) -> Draft:
    """Write a program over sequences of `program.time` steps, every step written out.

    The arguments, the result and the errors are those of `write_sequence`.
    """
    draft = Draft(graph)
    before = write_before(emitter, draft, dimensions, unrolled=True)
    timeline = Timeline(emitter, graph, before.steps, emitter.program.time)
    _write(draft, dimensions, (timeline, before), probes)
    return draft


def _write(
    draft: Draft,
    dimensions: Dimensions,
    start: tuple[Timeline, Before],
    probes: tuple[fx.Node, ...],
) -> None:
    timeline, before = start
    program = timeline.emitter.program
    timeline.emitter.fold(program.step)
    for node, value in before.invariants.items():
        timeline.put_invariant(node, value)
    for node, value in before.sequences.items():
        timeline.put_sequence(node, value)
    writer = _StepsWriter(timeline, dimensions, before, probes)
    writer.write()
    write_after(draft, dimensions, timeline, before)
    for (_, name), node in zip(draft.states, before.initial, strict=True):
        draft.output(writer.after[node], dimensions.step(name, node.meta["val"]))
    for i, node in enumerate(probes):
        value = timeline.sequence_of(node)
        info = dimensions.sequence(f"probe{i}", value.tensor, program.time)
        draft.output(value.name, info)


class _StepsWriter:
    """Writes the components of the step, one after the other."""

    def __init__(
        self,
        timeline: Timeline,
        dimensions: Dimensions,
        before: Before,
        probes: tuple[fx.Node, ...],
    ) -> None:
        self.emitter = timeline.emitter
        self.program = timeline.emitter.program
        self.timeline = timeline
        self.dimensions = dimensions
        self.before = before
        self.after: dict[fx.Node, str] = {}
        named = self.program.next_states()
        self.next = {n: named[n.name] for n in self.program.placeholders() if n.name in named}
        self.wanted = {*output_of(self.program.step)[0], *probes}
        self.done: set[fx.Node] = set()
        self.invariant: set[fx.Node] = set()

    def write(self) -> None:
        for component in components(self.program):
            nodes = [n for n in component.nodes if n not in self.done and not self._is_given(n)]
            if component.kind == "invariant":
                self.invariant.update(component.nodes)
            if nodes:
                self._component(component, nodes)

    def _is_given(self, node: fx.Node) -> bool:
        is_input = node.op == "placeholder" and node not in self.next
        return is_input or self.emitter.is_known(node)

    def _component(self, component: Component, nodes: list[fx.Node]) -> None:
        if component.kind == "invariant":
            for node in nodes:
                self._invariant(node)
        elif component.kind == "batchwise":
            for node in nodes:
                self._batchwise(node)
        elif component.kind == "delay":
            self._delay(nodes[0])
        elif component.kind == "whole":
            raise ExportError(
                f"export: {place(nodes[0])} reads the whole sequence at once, which a file for any "
                "number of steps cannot hold; call eval() on the model, or replace the layer"
            )
        else:
            self._loop(nodes)

    def _invariant(self, node: fx.Node) -> None:
        if is_size(node):
            self.timeline.put_invariant(node, self._size(node))
        else:
            value = self.emitter.write(self.timeline.graph, node, self.timeline.invariant)
            self.timeline.put_invariant(node, value)

    def _size(self, node: fx.Node) -> Value:
        """A size of one step, read off the sequence where the tensor is one."""
        source, dim = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(dim, int)
        sequential = not self.timeline.is_invariant(source)
        value = self.timeline.sequence_of(source) if sequential else self.timeline.invariant(source)
        assert isinstance(value, Value)
        axis = dim % value.tensor.dim() + sequential
        name = self.timeline.graph.op("Shape", value.name, start=axis, end=axis + 1)
        return Value(name, node.meta["val"])

    def _batchwise(self, node: fx.Node) -> None:
        repeated = folded_operands(self.program, node, self.invariant) or frozenset()

        def lookup(source: fx.Node) -> object:
            same = source in self.invariant and source not in repeated
            return self.timeline.invariant(source) if same else self.timeline.folded(source)

        value = self.emitter.write(self.timeline.graph, node, lookup)
        self.timeline.put_folded(node, value)

    def _delay(self, state: fx.Node) -> None:
        """A shift by one step: the initial value, then all values but the last."""
        graph, following = self.timeline.graph, self.timeline.sequence_of(self.next[state])
        graph.scope = state.name
        first = graph.op("Unsqueeze", self.before.initial[state], graph.ints(0))
        rest = graph.op("Slice", following.name, graph.ints(0), graph.ints(-1), graph.ints(0))
        delayed = graph.op("Concat", first, rest, axis=0)
        self.timeline.put_sequence(state, Value(delayed, state.meta["val"]))
        last = graph.constant(-1, torch.int64)
        self.after[state] = graph.op("Gather", following.name, last, axis=0)

    def _loop(self, nodes: list[fx.Node]) -> None:
        """A neuron with its states, or whatever else goes step by step."""
        parts = [user for node in nodes for user in node.users if is_part(user)]
        inside = set(nodes) | set(parts)
        calls = [n for n in self.program.step.nodes if n in inside and n.op.startswith("call")]
        states = {node: self.next[node] for node in nodes if node in self.next}
        exports = tuple(n for n in (*states, *calls) if self._is_read(n, inside))
        part = Part(tuple(calls), states, exports)
        initial = {state: self.before.initial[state] for state in states}
        steps = self.timeline.unrolled
        writer = (
            ScanWriter(self.emitter, self.timeline, self.dimensions)
            if steps is None
            else Unroller(self.emitter, self.timeline, steps)
        )
        self.after.update(writer.write(part, initial))
        self.done |= inside

    def _is_read(self, node: fx.Node, inside: set[fx.Node]) -> bool:
        """Whether anything outside needs a node's sequence."""
        if not isinstance(node.meta["val"], Tensor):
            return False
        carried = {state for state, value in self.next.items() if value is node}
        readers = {user for user in node.users if user.op != "output"} | carried
        return node in self.wanted or not readers <= inside
