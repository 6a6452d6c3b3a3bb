"""What states start from: numbers, or tensors filled with one."""

from typing import Any

import torch
from torch import Tensor, fx

from snncompile.capture.sources import Earlier

Start = fx.Node | float
"""A state's value before the first step: a number, or a node computed before the loop."""


def fill_of(start: Start) -> float | None:
    """The number that a start is filled with; None where it is computed from anything else."""
    if not isinstance(start, fx.Node):
        return float(start)
    if start.target in {torch.zeros, torch.zeros_like, "new_zeros"}:
        return 0.0
    if start.target in {torch.ones, torch.ones_like, "new_ones"}:
        return 1.0
    value = start.args[1] if len(start.args) > 1 else None
    filled = start.target in {torch.full, torch.full_like} and isinstance(value, (int, float))
    return float(value) if filled else None  # type: ignore[arg-type]


def is_zero(start: Start) -> bool:
    """Whether a state starts at zero."""
    return fill_of(start) == 0.0


def starts_agree(starts: dict[Earlier, Start], state: Earlier, start: Start) -> bool:
    """Note what a state starts from; whether that agrees with what was noted before.

    Two tensors made separately agree when they are filled with one number and have one shape.
    """
    known = starts.setdefault(state, start)
    if known is start:
        return True
    same_number = fill_of(known) is not None and fill_of(known) == fill_of(start)
    return same_number and _shape(known) == _shape(start)


def _shape(start: Start) -> str | None:
    value = start.meta["val"] if isinstance(start, fx.Node) else None
    return str(tuple(value.shape)) if isinstance(value, Tensor) else None


def merge_fills(graph: fx.Graph, leaves: list[Any]) -> None:
    """Make one of all tensors that are made of the same number in the same shape, in place.

    A loop that hands two such tensors around in turn has equal steps only then.

    Args:
        graph: A recorded trace.
        leaves: What the model returned; rewritten in place as well.
    """
    seen: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target not in {torch.zeros, torch.ones, torch.full}:
            continue
        known = seen.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
        if known is not node:
            node.replace_all_uses_with(known)
            leaves[:] = [known if leaf is node else leaf for leaf in leaves]
            graph.erase_node(node)
