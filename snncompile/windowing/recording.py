"""Records a function of tensors as nodes of a graph."""

from collections.abc import Callable
from typing import Any, cast

from torch import fx
from torch.fx.node import map_aggregate
from torch.fx.proxy import GraphAppendingTracer


def record(graph: fx.Graph, function: Callable[..., Any], *args: Any) -> fx.Node:  # noqa: ANN401
    """Append the calls that a function makes.

    Args:
        graph: Where to.
        function: Calls torch on what it is given, and returns one tensor.
        *args: Its arguments, with nodes of the graph in place of tensors.

    Returns:
        The node that computes what it returns.
    """
    tracer = GraphAppendingTracer(graph)

    def stands_for(argument: Any) -> Any:  # noqa: ANN401
        return fx.Proxy(argument, tracer) if isinstance(argument, fx.Node) else argument

    return cast("fx.Proxy", function(*map_aggregate(args, stands_for))).node
