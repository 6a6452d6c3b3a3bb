"""The names that values have in the text of a program and in errors about it.

A value is called after what makes it, in the order of the graph: a layer by its target, a
neuron's values by what they are, a function's by the function. What fx calls the nodes plays no
part, except for placeholders, whose names are those of the program's inputs and states.
"""

import inspect
import re

from torch import fx

from snncompile.ir.program import is_neuron, is_spiking
from snncompile.ir.spelling import function, is_getitem

_KINDS = {"call_module": "module", "call_method": "method", "get_attr": "attribute"}


def value_name(node: fx.Node) -> str:
    """The name that a node's value has in the text, e.g. ``%spikes_1``."""
    return f"%{value_names(node.graph)[node][0]}"


def place(node: fx.Node) -> str:
    """How an error names a node: its value, what it is, and where the user has it.

    ``%norm_1 (module block.norm)``, ``%spikes (lif of layer1.neuron)``, ``%x (placeholder)``.
    """
    operation, module = node.op, node.meta.get("module")
    if not isinstance(node.target, str):
        operation = function(node.target) + (f" of {module}" if module else "")
    elif node.op not in ("placeholder", "output"):
        operation = f"{_KINDS[node.op]} {node.target}"
    return f"{value_name(node)} ({operation})"


def line_of(node: fx.Node) -> fx.Node:
    """The node on whose line a node stands: an item of a neuron is on the neuron's."""
    source = node.args[0] if is_getitem(node) else None
    return source if isinstance(source, fx.Node) and is_neuron(source) else node


def value_names(graph: fx.Graph) -> dict[fx.Node, tuple[str, ...]]:
    """For every node the names of its values, unique in the graph, arguments first."""
    taken: set[str] = set()
    names: dict[fx.Node, tuple[str, ...]] = {}
    nodes = sorted(graph.nodes, key=lambda node: node.op != "placeholder")
    for node in nodes:
        if line_of(node) is node:
            names[node] = tuple(_unique(base, taken) for base in _bases(node))
    for node in nodes:
        if line_of(node) is not node:
            values = names.get(line_of(node), ())
            names[node] = _item(values, node.args[1]) or (node.name,)
    return names


def _bases(node: fx.Node) -> tuple[str, ...]:
    """What a node's values are called before they are made unique."""
    if node.op == "placeholder":
        return (node.name,)
    if isinstance(node.target, str) or not is_neuron(node):
        named = node.target if isinstance(node.target, str) else function(node.target)
        return (re.sub(r"\W+", "_", named).strip("_"),)
    parameters = inspect.signature(node.target).parameters.values()
    tensors = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return ("spikes" if is_spiking(node) else "output", *tensors[1:])


def _item(names: tuple[str, ...], index: object) -> tuple[str, ...]:
    """The name at an index, as a tuple; an empty one where there is none."""
    return names[index : index + 1] if isinstance(index, int) and index >= 0 else ()


def _unique(base: str, taken: set[str]) -> str:
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name
