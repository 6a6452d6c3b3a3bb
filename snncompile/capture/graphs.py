"""What the captures ask of fx graphs: copies of calls, and which nodes depend on which."""

from collections.abc import Callable, Iterable

from torch import fx
from torch.fx.node import map_arg


def copy_call(graph: fx.Graph, node: fx.Node, argument: Callable[[fx.Node], fx.Node]) -> fx.Node:
    """Copy a call into another graph, with its arguments mapped by `argument`."""
    args = map_arg(node.args, argument)
    kwargs = map_arg(node.kwargs, argument)
    made = graph.create_node(node.op, node.target, args, dict(kwargs))
    made.meta.update(node.meta)
    return made


def arguments_of(node: fx.Node) -> list[fx.Node]:
    """The nodes among a call's arguments, in order, each as often as it is written."""
    found: list[fx.Node] = []

    def note(argument: fx.Node) -> fx.Node:
        found.append(argument)
        return argument

    map_arg((node.args, node.kwargs), note)
    return found


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The given nodes and everything that they are computed from."""
    return _closure(nodes, lambda node: node.all_input_nodes)


def descendants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The given nodes and everything that is computed from them."""
    return _closure(nodes, lambda node: node.users)


def _closure(
    nodes: Iterable[fx.Node], following: Callable[[fx.Node], Iterable[fx.Node]]
) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(following(node))
    return seen
