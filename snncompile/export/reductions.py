"""ONNX recipes for sums, means, extremes and normalized exponentials over dimensions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import SymInt
from torch.nn import functional

from snncompile.errors import ExportError
from snncompile.export.arithmetic import Recipe
from snncompile.export.graph import GraphWriter, Value

Dims: TypeAlias = int | Sequence[int] | None


def _axes(value: Value, dim: Dims) -> list[int]:
    rank = value.tensor.dim()
    if dim is None or (not isinstance(dim, int) and not dim):
        return list(range(rank))
    return [axis % rank for axis in ((dim,) if isinstance(dim, int) else dim)]


def total(
    graph: GraphWriter, value: Value, dim: Dims = None, keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> str:  # fmt: skip
    """A sum; integers and bools add up as int64."""
    before = value.tensor.dtype
    after = dtype or (before if before.is_floating_point else torch.int64)
    name = graph.cast(value.name, before, after)
    return graph.reduce("ReduceSum", name, _axes(value, dim), keep=keepdim)


def mean(graph: GraphWriter, value: Value, dim: Dims = None, keepdim: bool = False) -> str:
    """The sum divided by the count, in this order, as torch does."""
    axes = _axes(value, dim)
    summed = graph.reduce("ReduceSum", value.name, axes, keep=keepdim)
    sizes = [value.tensor.shape[axis] for axis in axes]
    if not any(isinstance(size, SymInt) for size in sizes):
        count = graph.constant(float(torch.Size(sizes).numel()), value.tensor.dtype)
        return graph.op("Div", summed, count)
    measured = graph.op("Gather", graph.op("Shape", value.name), graph.ints(*axes))
    product = graph.op("ReduceProd", measured, keepdims=0)
    return graph.op("Div", summed, graph.cast(product, torch.int64, value.tensor.dtype))


def _extreme(kind: str) -> Recipe:
    def recipe(graph: GraphWriter, value: Value, dim: Dims = None, keepdim: bool = False) -> str:
        return graph.reduce(kind, value.name, _axes(value, dim), keep=keepdim)

    return recipe


def _extreme_of(kind: str, pairwise: str) -> Recipe:
    """torch.max and torch.min: of all, of two tensors, or along a dimension with the place."""

    def recipe(
        graph: GraphWriter,
        value: Value,
        dim: int | Value | None = None,
        keepdim: bool = False,
    ) -> str | tuple[str, ...]:
        if isinstance(dim, Value):
            return graph.op(pairwise, value.name, dim.name)
        extreme = graph.reduce(f"Reduce{pairwise}", value.name, _axes(value, dim), keep=keepdim)
        if dim is None:
            return extreme
        return extreme, graph.op(kind, value.name, axis=dim, keepdims=int(keepdim))

    return recipe


def _position(kind: str) -> Recipe:
    def recipe(
        graph: GraphWriter,
        value: Value,
        dim: int | None = None,
        keepdim: bool = False,
    ) -> str:
        if dim is None:
            raise ExportError("the position in a flattened tensor has no recipe; give dim")
        return graph.op(kind, value.name, axis=dim, keepdims=int(keepdim))

    return recipe


def _along(kind: str) -> Recipe:
    def recipe(
        graph: GraphWriter, value: Value, dim: int, *rest: object, **settings: object
    ) -> str:
        if settings.get("dtype") is not None:
            raise ExportError("a dtype here has no recipe; cast before")
        return graph.op(kind, value.name, axis=dim)

    return recipe


def cumulative_sum(graph: GraphWriter, value: Value, dim: int) -> str:
    """Partial sums along a dimension."""
    return graph.op("CumSum", value.name, graph.constant(dim, torch.int64))


REDUCTIONS: Mapping[Callable[..., Any] | str, Recipe] = {
    torch.sum: total,
    torch.mean: mean,
    torch.amax: _extreme("ReduceMax"),
    torch.amin: _extreme("ReduceMin"),
    torch.max: _extreme_of("ArgMax", "Max"),
    torch.min: _extreme_of("ArgMin", "Min"),
    torch.argmax: _position("ArgMax"),
    torch.argmin: _position("ArgMin"),
    torch.softmax: _along("Softmax"),
    functional.softmax: _along("Softmax"),
    torch.log_softmax: _along("LogSoftmax"),
    functional.log_softmax: _along("LogSoftmax"),
    torch.cumsum: cumulative_sum,
}
"""Recipes by function."""
