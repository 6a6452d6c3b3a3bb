"""Programs that also hand out what their neurons receive and emit."""

from dataclasses import replace
from operator import getitem
from typing import Any

from torch import fx

from snncompile.ir.operations import is_part
from snncompile.ir.program import Output, Program, output_of


def observable(program: Program) -> Program:
    """The program with, as further stacked outputs, all operands and results of its neurons.

    Args:
        program: Unchanged; its root is shared.

    Returns:
        A program with the same node names. The further outputs are those of the neurons in
        execution order; for each its operands (current, states), then its results.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(program.step, copies)
    observed: list[fx.Node] = []
    for neuron in program.neurons():
        observed += [copies[operand] for operand in operands(neuron)]
        observed += [_item(graph, copies[neuron], i) for i in range(results(neuron))]
    values, following = output_of(program.step)
    shown = (*(copies[value] for value in values), *observed)
    graph.output((shown, tuple(copies[value] for value in following)))
    extra = tuple(Output(node.name, "stack") for node in observed)
    return replace(program, step=graph, outputs=(*program.outputs, *extra))


def operands(neuron: fx.Node) -> list[fx.Node]:
    """The current and the states that a neuron reads."""
    return [operand for operand in neuron.args if isinstance(operand, fx.Node)]


def results(neuron: fx.Node) -> int:
    """How many tensors a neuron returns."""
    return len(neuron.meta["val"])


def _item(graph: fx.Graph, neuron: fx.Node, item: int) -> fx.Node:
    for user in neuron.users:
        if is_part(user) and user.args[1] == item:
            return user
    args: Any = (neuron, item)
    node = graph.create_node("call_function", getitem, args, name=f"{neuron.name}_result{item}")
    node.meta["val"] = neuron.meta["val"][item]
    return node
