"""Writes part of a step as one ONNX Scan over time.

The Scan stands in the main graph; its body is the part's nodes for one step, with neurons as calls
of local functions. States go round the loop; what the part reads from outside comes in step by
step, or from the graph around it when it is the same at every step. Weights used in a body belong
to it, which is where runtimes can lay them out for their kernels.
"""

from dataclasses import dataclass

import onnx
import torch
from onnx import helper
from torch import fx

from snncompile.export.dimensions import Dimensions
from snncompile.export.emitter import Emitter, Written
from snncompile.export.graph import GraphWriter, Value
from snncompile.export.synapses import Weight
from snncompile.export.timeline import Timeline


@dataclass(frozen=True)
class Part:
    """Part of a step that loops over time.

    Attributes:
        nodes: Its calls, in order.
        states: Its states' placeholders, and for each the node of its next value.
        exports: Its nodes that are read elsewhere.
    """

    nodes: tuple[fx.Node, ...]
    states: dict[fx.Node, fx.Node]
    exports: tuple[fx.Node, ...]

    def reads(self, timeline: Timeline) -> list[fx.Node]:
        """The sequences that it reads from outside."""
        inside = {*self.nodes, *self.states}
        sources = [s for node in self.nodes for s in node.all_input_nodes]
        outside = [s for s in (*sources, *self.states.values()) if s not in inside]
        return [
            source
            for source in dict.fromkeys(outside)
            if not timeline.emitter.is_known(source) and not timeline.is_invariant(source)
        ]


class ScanWriter:
    """Writes one Scan.

    Attributes:
        body: Its body.
    """

    def __init__(self, emitter: Emitter, timeline: Timeline, dimensions: Dimensions) -> None:
        self.emitter = emitter
        self.timeline = timeline
        self.dimensions = dimensions
        self.body: GraphWriter = timeline.graph.nested()
        self._env: dict[fx.Node, Written] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def write(self, part: Part, initial: dict[fx.Node, str]) -> dict[fx.Node, str]:
        """Append the Scan to the main graph.

        Args:
            part: What loops.
            initial: The value of every state before the first step.

        Returns:
            The value of every state after the last step. The sequences of the exports are put on
            the timeline.
        """
        for state in part.states:
            self._env[state] = self._input(state, "before")
        reads = part.reads(self.timeline)
        for node in reads:
            self._env[node] = self._input(node, "now")
        sequences = [self.timeline.sequence_of(node).name for node in reads] or [self._tick()]
        for node in part.nodes:
            self._env[node] = self.emitter.write(self.body, node, self._lookup)
        for node in (*part.states.values(), *part.exports):
            self._output(node)
        results = self._append([*(initial[s] for s in part.states), *sequences], part)
        for node, name in zip(part.exports, results[len(part.states) :], strict=True):
            self.timeline.put_sequence(node, Value(name, node.meta["val"]))
        return dict(zip(part.states, results, strict=False))

    def _lookup(self, node: fx.Node) -> object:
        if node in self._env:
            return self._env[node]
        return self.timeline.invariant(node)

    def _input(self, node: fx.Node, moment: str) -> Value:
        like = node.meta["val"]
        name = self.body.names.take(f"{node.name}.{moment}")
        self._inputs.append(self.dimensions.step(name, like))
        return Value(name, like)

    def _tick(self) -> str:
        """Something to scan over for a part that reads no sequence."""
        name = self.body.names.take("tick")
        self._inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
        graph = self.timeline.graph
        return graph.op("Expand", graph.constant(0.0, torch.float32), self.timeline.steps)

    def _output(self, node: fx.Node) -> None:
        value = self._lookup(node)
        assert isinstance(value, Value)
        name = value.name
        if isinstance(value, Weight):
            name = self.body.weight(value.name, value.data)
        like = node.meta["val"]
        made = {output for made in self.body.nodes for output in made.output}
        if name not in made or name in {info.name for info in self._outputs}:
            self.body.scope = node.name
            name = self.body.op("Identity", name)
        self._outputs.append(self.dimensions.step(name, like))

    def _append(self, inputs: list[str], part: Part) -> list[str]:
        first = next(iter((*part.nodes, *part.states)))
        scope = str(first.meta.get("module") or first.name)
        graph = self.timeline.graph
        graph.scope = scope
        names = [*(f"{state.name}.after" for state in part.states), *(n.name for n in part.exports)]
        outputs = [graph.names.take(f"{name}.sequence" if i >= len(part.states) else name)
                   for i, name in enumerate(names)]  # fmt: skip
        body = helper.make_graph(
            self.body.nodes, f"{scope}.step", self._inputs, self._outputs,
            list(self.body.initializers.values()),
        )  # fmt: skip
        node = helper.make_node(
            "Scan", inputs, outputs, graph.names.take(f"{scope}.scan"), body=body,
            num_scan_inputs=len(inputs) - len(part.states),
        )  # fmt: skip
        graph.nodes.append(node)
        return outputs
