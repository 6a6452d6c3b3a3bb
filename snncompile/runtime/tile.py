"""Lowers a region of a step to one graph over a tile of several steps.

Calls that fold run once on [tile * N, ...], one after the other without unfolding in between;
neurons run as scans over [tile, N, ...]; what has feedback keeps a loop over time, around itself
only. Invariant values come in from outside, computed once a call, and are repeated only where a
folded call needs one row for every step.
"""

from collections.abc import Callable
from operator import getitem, mul
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg

from snncompile.ir.dependence import Component
from snncompile.ir.layers import is_batch_norm, layer_class
from snncompile.ir.neurons import single_spike
from snncompile.ir.operations import folded_operands, is_part, is_reshape
from snncompile.ir.program import Program, is_neuron, value_of
from snncompile.kernels.settings import split
from snncompile.runtime.chunk import AnchoredLoop, Chunk
from snncompile.runtime.code import ROOT, compile_graph
from snncompile.runtime.events import by_events
from snncompile.runtime.observe import operands, results
from snncompile.runtime.pooling import pooling
from snncompile.runtime.region import Region, Regions, step_graph
from snncompile.runtime.scan import NeuronScan, loop
from snncompile.runtime.sequence import delayed, fold, last, repeated, unfold
from snncompile.runtime.spike_times import scan_times, weighed


def tile_graph(
    program: Program, regions: Regions, region: Region, *, anchored: bool = False
) -> fx.Graph:
    """A tile of a region, as a graph to compile.

    Args:
        program: The program.
        regions: Knows what else the step consists of.
        region: What to lower.
        anchored: What has feedback runs again in the backward pass, from states every few steps.

    Returns:
        A graph of ``(steps, *reads, *invariants, *states) -> (writes, states after)``, where
        reads and writes are sequences [steps, N, ...].
    """
    writer = _TileWriter(program, regions, region)
    writer.anchored = anchored
    for component in region.components:
        writer.write(component)
    return writer.finish()


class _TileWriter:
    """Holds every value of the region in the form in which it was made: folded or not."""

    anchored = False

    def __init__(self, program: Program, regions: Regions, region: Region) -> None:
        self.program = program
        self.regions = regions
        self.region = region
        self.graph = fx.Graph()
        self.steps = self.graph.placeholder("steps")
        self.sequences = {node: self.graph.placeholder(node.name) for node in region.reads}
        self.invariant = {node: self.graph.placeholder(node.name) for node in region.invariants}
        self.initial = {node: self.graph.placeholder(node.name) for node in region.states}
        self.folded: dict[fx.Node, fx.Node] = {}
        self.final: dict[fx.Node, fx.Node] = {}
        self.times: dict[fx.Node, fx.Node] = {}

    def write(self, component: Component) -> None:
        match component.kind:
            case "batchwise":
                self._batchwise(component.nodes[0])
            case "neuron":
                self._scan(component)
            case "whole":
                self._whole(component.nodes[0])
            case "stepwise" | "recurrent":
                self._loop(component)
            case "delay" | "invariant":
                pass

    def finish(self) -> fx.Graph:
        writes = tuple(self._sequence(node) for node in self.region.writes)
        for state in self.region.states:
            following = self.regions.next[state.name]
            if state not in self.final:
                self.final[state] = self._call(last, self._sequence(following), name=state.name)
        self.graph.output((writes, tuple(self.final[state] for state in self.region.states)))
        return self.graph

    # The two forms of a value ---------------------------------------------------------------------

    def _sequence(self, node: fx.Node) -> fx.Node:
        """The value as [steps, N, ...]."""
        if node not in self.sequences:
            self.sequences[node] = self._made_sequence(node)
        return self.sequences[node]

    def _made_sequence(self, node: fx.Node) -> fx.Node:
        if node in self.invariant:
            return self._call(repeated, self.invariant[node], self.steps, name=node.name)
        if node in self.initial:
            following = self._sequence(self.regions.next[node.name])
            return self._call(delayed, self.initial[node], following, name=node.name)
        return self._call(unfold, self.folded[node], self.steps, name=node.name)

    def _fold(self, node: fx.Node) -> fx.Node:
        """The value as [steps * N, ...]."""
        if node not in self.folded:
            self.folded[node] = self._call(fold, self._sequence(node), name=node.name)
        return self.folded[node]

    def _call(self, function: Any, *args: Any, name: str) -> fx.Node:  # noqa: ANN401
        return self.graph.create_node("call_function", function, args, name=name)

    # The kinds of components ----------------------------------------------------------------------

    def _batchwise(self, node: fx.Node) -> None:
        if is_part(node):
            self._part(node)
            return
        if any(self._weighs(node, spikes) for spikes in self.times):
            self._weigh(node)
            return
        if "events" in node.meta:
            self._add_up(node)
            return
        repeats = folded_operands(self.program, node, self.regions.invariant) or frozenset()

        def operand(source: fx.Node) -> fx.Node:
            fixed = source in self.invariant and source not in repeats
            return self.invariant[source] if fixed else self._fold(source)

        operands = {source: operand(source) for source in node.all_input_nodes}
        if (kernel := pooling(self.program, node)) is not None:
            self._pool(node, *kernel, operands[node.all_input_nodes[0]])
            return
        longer = self._longer(node, operands) if is_reshape(node) else None
        copied = self.graph.node_copy(node, operands.__getitem__)
        if longer is not None:
            copied.args = (copied.args[0], longer)
        self.folded[node] = copied

    def _pool(
        self, node: fx.Node, function: Callable[..., Any], options: tuple[Any, ...], value: fx.Node
    ) -> None:
        """A pooling by kernels; a layer is handed on, for its settings may change."""
        layer = [self.graph.get_attr(str(node.target))] if node.op == "call_module" else []
        self.folded[node] = self._call(function, *layer, *options, value, name=node.name)

    def _longer(self, node: fx.Node, operands: dict[fx.Node, fx.Node]) -> tuple[Any, ...]:
        """The shape of a reshape when there are `steps` times as many rows."""
        shape: Any = node.args[1]
        first, *others = map_arg(tuple(shape), operands.__getitem__)
        rows = first if first == -1 else self._call(mul, self.steps, first, name=node.name)
        return (rows, *others)

    def _part(self, node: fx.Node) -> None:
        source, item = node.args
        assert isinstance(source, fx.Node)
        form = self.folded if source in self.folded else self.sequences
        form[node] = self._call(getitem, form[source], item, name=node.name)

    def _scan(self, component: Component) -> None:
        neuron = next(node for node in component.nodes if is_neuron(node))
        current, *states = operands(neuron)
        given = map_arg(tuple(neuron.kwargs.items()), self.invariant.__getitem__)
        tensors: list[fx.Node] = []
        target = NeuronScan(neuron.target, split(given, fx.Node, tensors))  # type: ignore[arg-type]
        wanted = self._wanted(component, neuron)
        initial = tuple(self.initial[state] for state in states)
        spikes = self._timed(neuron) if wanted == (0,) else None
        if spikes is None:
            args: Any = (self._sequence(current), initial, tuple(tensors), wanted)
            call = self._call(target, *args, name=neuron.name)
        else:
            readers = {user for user in spikes.users if self._weighs(user, spikes)}
            dense = self.regions.is_read(spikes, {*component.nodes, *readers})
            args = (target, self._sequence(current), initial, tuple(tensors), dense)
            call = self._call(scan_times, *args, name=neuron.name)
            self.times[spikes] = self._call(getitem, call, 2, name=f"{neuron.name}_times")
        self.sequences[neuron] = self._call(getitem, call, 0, name=neuron.name)
        final = self._call(getitem, call, 1, name=neuron.name)
        for i, state in enumerate(states):
            self.final[state] = self._call(getitem, final, i, name=state.name)
        for node in component.nodes:
            if is_part(node) and node.args[1] in wanted:
                self._part(node)

    def _timed(self, neuron: fx.Node) -> fx.Node | None:
        """The spikes of a neuron whose spike times are enough for somebody in this region."""
        parts = [part for part in neuron.users if part.args[1] == 0]
        if neuron.target is not single_spike or len(parts) != 1:
            return None
        spikes = parts[0]
        inside = {node for component in self.region.components for node in component.nodes}
        return spikes if any(self._weighs(u, spikes) for u in inside & {*spikes.users}) else None

    def _weighs(self, node: fx.Node, spikes: fx.Node) -> bool:
        """Whether a node is a Linear that reads the spikes [N, M] of single-spike neurons."""
        if node.op != "call_module" or node.args[:1] != (spikes,):
            return False
        linear = layer_class(self.program, node) is nn.Linear
        return linear and node.name not in self.program.whole and value_of(spikes).dim() == 2  # noqa: PLR2004

    def _weigh(self, node: fx.Node) -> None:
        """A Linear that adds its columns at the times of the spikes."""
        (spikes,) = node.all_input_nodes
        layer = self.graph.create_node("get_attr", str(node.target))
        args = (layer, self._sequence(spikes), self.times[spikes])
        self.folded[node] = self._call(weighed, *args, name=node.name)

    def _add_up(self, node: fx.Node) -> None:
        """A synapse that adds up its weights where few of its inputs are active."""
        (spikes,) = node.all_input_nodes
        layer = self.graph.create_node("get_attr", str(node.target))
        args: tuple[Any, ...] = (layer, self._fold(spikes), node.meta["events"])
        if node.meta["events"].decay is not None:
            args += (self.steps,)
        self.folded[node] = self._call(by_events, *args, name=node.name)

    def _wanted(self, component: Component, neuron: fx.Node) -> tuple[int, ...]:
        """Which results of a neuron something reads at every step."""
        wanted: set[int] = set()
        for user in neuron.users:
            if not is_part(user):
                return tuple(range(results(neuron)))
            if user not in component.nodes or self.regions.is_read(user, component.nodes):
                wanted.add(int(user.args[1]))  # type: ignore[arg-type]
        for i, state in enumerate(operands(neuron)[1:], start=1):
            if self.regions.is_read(state, component.nodes):
                wanted.add(i)
        return tuple(sorted(wanted))

    def _loop(self, component: Component) -> None:
        inner = self.regions.region((component,))
        groups: dict[str, Any] = {
            "sequences": tuple(self._sequence(node) for node in inner.reads),
            "invariants": tuple(self.invariant[node] for node in inner.invariants),
            "states": tuple(self.initial[node] for node in inner.states),
        }
        name = component.nodes[-1].name
        call = self._looped(inner, groups, again=self.anchored and component.kind == "recurrent")
        written = self._call(getitem, call, 0, name=name)
        final = self._call(getitem, call, 1, name=name)
        for i, node in enumerate(inner.writes):
            self.sequences[node] = self._call(getitem, written, i, name=node.name)
        for i, state in enumerate(inner.states):
            self.final[state] = self._call(getitem, final, i, name=state.name)

    def _looped(self, inner: Region, groups: dict[str, Any], *, again: bool) -> fx.Node:
        graph = step_graph(self.program, inner)
        if again:
            step = compile_graph(self.program, graph, boxed=True)
            target: Any = AnchoredLoop(Chunk(self.program, inner, step))
            args: Any = (ROOT, self.steps)
            return self.graph.call_function(target, args, groups)
        args = (compile_graph(self.program, graph), ROOT, self.steps)
        return self.graph.call_function(loop, args, groups)

    def _whole(self, node: fx.Node) -> None:
        """A BatchNorm takes its statistics over [T * N]; any other module takes [T, N, ...]."""
        joint = is_batch_norm(self.program.module(node))
        form = self._fold if joint else self._sequence
        first = node.all_input_nodes[0]

        def operand(source: fx.Node) -> fx.Node:
            fixed = source in self.invariant and source is not first
            return self.invariant[source] if fixed else form(source)

        operands = {source: operand(source) for source in node.all_input_nodes}
        copied = self.graph.node_copy(node, operands.__getitem__)
        (self.folded if joint else self.sequences)[node] = copied
