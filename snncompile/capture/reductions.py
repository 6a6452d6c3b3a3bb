"""Recognises sums, means and maxima over time of what the steps put out."""

import operator
from typing import Any, Literal

import torch
from torch import fx

from snncompile.ir.program import Output, Program, output_of

_REDUCTIONS: dict[Any, Literal["sum", "mean", "max"]] = {
    torch.sum: "sum",
    torch.mean: "mean",
    torch.amax: "max",
    torch.max: "max",
}


def name_reductions(program: Program) -> None:
    """Make each sum, mean or maximum over time of a stacked output an output of its own.

    Args:
        program: The program, changed in place.
    """
    graph = program.epilogue
    if graph is None:
        return
    values, nexts = output_of(program.step)
    kept: list[tuple[fx.Node, Output]] = []
    for node, output, value in zip(
        list(graph.find_nodes(op="placeholder")), program.outputs, values, strict=False
    ):
        found = [_reduction(user) for user in node.users] if output.reduce == "stack" else []
        for reducer, reduced in [pair for pair in found if pair and output.axis == 0]:
            with graph.inserting_before(node):
                made = graph.placeholder(f"{node.name}_{_REDUCTIONS[reducer.target]}")
            made.meta["val"] = reduced.meta["val"]
            reduced.replace_all_uses_with(made)
            for dead in dict.fromkeys((reduced, reducer)):
                graph.erase_node(dead)
            kept.append((value, Output(made.name, _REDUCTIONS[reducer.target])))
        if node.users:
            kept.append((value, output))
        else:
            graph.erase_node(node)
    program.outputs = tuple(output for _, output in kept)
    program.step.output_node().args = ((tuple(value for value, _ in kept), nexts),)


def _reduction(user: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """A call when it reduces the first axis of what it reads, and the node of its values."""
    dim = user.kwargs.get("dim", user.args[1] if len(user.args) > 1 else None)
    dim = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
    if user.target not in _REDUCTIONS or dim != 0 or set(user.kwargs) - {"dim"}:
        return None
    if len(user.args) + len(user.kwargs) > 2:  # noqa: PLR2004
        return None
    if user.target is not torch.max:
        return user, user
    items = list(user.users)
    values = len(items) == 1 and items[0].target is operator.getitem and items[0].args[1] == 0
    return (user, items[0]) if values else None
