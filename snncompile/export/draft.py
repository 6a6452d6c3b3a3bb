"""A main graph with its interface, before it is a model; and the model it becomes."""

from dataclasses import dataclass, field

import onnx
from onnx import helper

from snncompile.export.graph import DOMAIN, GraphWriter, rename
from snncompile.export.neurons import FunctionLibrary

IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""For every opset the IR version of its time: runtimes of that time refuse newer ones."""


@dataclass
class Draft:
    """A main graph and what goes in and out.

    Attributes:
        graph: Its nodes and initializers.
        inputs: In the order of the file.
        outputs: In the order of the file; each with the value that it becomes.
        states: Names of the state inputs and of the outputs that follow them.
    """

    graph: GraphWriter
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list[onnx.ValueInfoProto])
    outputs: list[tuple[str, onnx.ValueInfoProto]] = field(
        default_factory=list[tuple[str, onnx.ValueInfoProto]]
    )
    states: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def output(self, value: str, info: onnx.ValueInfoProto) -> None:
        """Declare an output."""
        self.outputs.append((value, info))

    def model(self, functions: FunctionLibrary, name: str) -> onnx.ModelProto:
        """The model: outputs under their names, local functions, both versions pinned."""
        self._name_outputs()
        graph = helper.make_graph(
            self.graph.nodes,
            name,
            self.inputs,
            [info for _, info in self.outputs],
            list(self.graph.initializers.values()),
        )
        opsets = [helper.make_opsetid("", functions.opset), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            functions=functions.functions,
            ir_version=IR_VERSIONS[functions.opset],
            producer_name="snncompile",
        )

    def _name_outputs(self) -> None:
        made = {output for node in self.graph.nodes for output in node.output}
        names: dict[str, str] = {}
        copies: list[tuple[str, str]] = []
        for value, info in self.outputs:
            if value in made and value not in names:
                names[value] = info.name
            else:
                copies.append((value, info.name))
        rename(self.graph.nodes, names)
        for value, name in copies:
            self.graph.nodes.append(
                helper.make_node("Identity", [names.get(value, value)], [name], name)
            )
