"""Turns a buffer that is filled step by step into a stack of what fills it.

``out = torch.zeros(T, N, C)`` and then ``out[t] = spikes`` in every step is a stack along time.
"""

from typing import Any

import torch
from torch import fx

from snncompile.capture.canonical import assign


def buffers_to_stacks(graph: fx.Graph, leaves: list[Any]) -> None:
    """Rewrite, in place, every buffer whose positions along one axis are all written in order.

    Args:
        graph: A recorded trace.
        leaves: What the model returned; rewritten in place as well.
    """
    for node in list(graph.nodes):
        chain = _chain(node)
        if chain is None or any(link in leaves for link in chain[:-1]):
            continue
        axis, values = _axis(chain[0]), [link.args[2] for link in chain]
        with graph.inserting_after(node):
            stack = graph.call_function(torch.stack, (values, axis))
        stack.meta.update(node.meta)
        node.replace_all_uses_with(stack)
        leaves[:] = [stack if leaf is node else leaf for leaf in leaves]
        for link in reversed(chain):
            graph.erase_node(link)


def _chain(last: fx.Node) -> list[fx.Node] | None:
    """The writes that fill a buffer completely, first to last, if `last` is the last of them."""
    if last.target is not assign or _axis(last) is None:
        return None
    chain = [last]
    while isinstance(chain[0].args[0], fx.Node) and chain[0].args[0].target is assign:
        chain.insert(0, chain[0].args[0])
    axis = _axis(last)
    size = last.meta["val"].shape[axis]
    positions = [_position(link, axis) for link in chain]
    only_written = all(len(link.users) == 1 for link in chain[:-1])
    tensors = all(isinstance(link.args[2], fx.Node) for link in chain)
    complete = int(size) == len(chain) and positions == list(range(len(chain)))
    return chain if complete and only_written and tensors else None


def _axis(link: fx.Node) -> int | None:
    index = link.args[1]
    parts = index if isinstance(index, tuple) else (index,)
    if not isinstance(parts[-1], int) or any(part != slice(None) for part in parts[:-1]):
        return None
    return len(parts) - 1


def _position(link: fx.Node, axis: int | None) -> int | None:
    if _axis(link) != axis:
        return None
    index = link.args[1]
    return index[-1] if isinstance(index, tuple) else index  # type: ignore[return-value]
