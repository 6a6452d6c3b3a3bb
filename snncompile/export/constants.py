"""What a graph computes from parameters and constants alone, computed by torch.

A decay that is the sigmoid of a parameter, or a weight that is the sign of one, is worked out while
the file is written, so that no runtime can round it differently.
"""

from typing import Any

import torch
from torch import fx

from snncompile.ir.operations import is_pure
from snncompile.ir.program import Program, is_neuron
from snncompile.ir.values import StepInterpreter


def known_values(program: Program, graph: fx.Graph) -> dict[fx.Node, Any]:
    """The values of the nodes that depend on no placeholder.

    Args:
        program: Whose modules, parameters and constants the nodes refer to.
        graph: One of its graphs.
    """
    interpreter = StepInterpreter(program, graph)
    known: dict[fx.Node, Any] = interpreter.env
    with torch.no_grad():
        for node in graph.nodes:
            if _is_known(program, node, known):
                known[node] = interpreter.run_node(node)
    return known


def _is_known(program: Program, node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    if node.op == "get_attr":
        return True
    if node.op == "call_module" or node.op in ("placeholder", "output") or is_neuron(node):
        return False
    return all(source in known for source in node.all_input_nodes) and is_pure(program, node)
