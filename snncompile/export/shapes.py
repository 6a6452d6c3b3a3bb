"""ONNX recipes for what moves elements without computing: shapes, indices, joins, fills.

The batch may be any size and, where steps are folded, stands for time and batch together; so a
first size is never written as a number but left to ONNX to infer or read off a tensor.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any, TypeAlias, cast

import torch
from torch import SymInt, Tensor
from torch.nn import functional

from snncompile.errors import ExportError
from snncompile.export.arithmetic import Operand, Recipe, operand, promoted
from snncompile.export.graph import GraphWriter, Number, Value

Size: TypeAlias = int | Value
Index: TypeAlias = int | slice | EllipsisType | None

_END = 2**63 - 1
"""Where a slice without an end stops."""


def reshape(graph: GraphWriter, value: Value, *sizes: Size | Sequence[Size]) -> str:
    """Another shape; one size that is not a number is inferred."""
    return graph.op("Reshape", value.name, graph.shape(_inferred(_flat(sizes))))


def _flat(sizes: Sequence[Any]) -> list[Size]:
    nested = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
    return list(cast("Sequence[Size]", sizes[0] if nested else sizes))


def _inferred(sizes: list[Size]) -> list[Size]:
    unknown = [i for i, size in enumerate(sizes) if isinstance(size, Value)]
    if len(unknown) == 1 and -1 not in sizes:
        sizes[unknown[0]] = -1
    return sizes


def flatten(graph: GraphWriter, value: Value, start_dim: int = 0, end_dim: int = -1) -> str:
    """Dimensions start to end as one."""
    start, end = (dim % value.tensor.dim() for dim in (start_dim, end_dim))
    sizes = list(value.tensor.shape)
    before = sizes[:start]
    if any(isinstance(size, SymInt) for size in before):
        before = [0, *before[1:]]
    return graph.op("Reshape", value.name, graph.ints(*before, -1, *sizes[end + 1 :]))


def unsqueeze(graph: GraphWriter, value: Value, dim: int) -> str:
    """A new dimension of size one."""
    return graph.op("Unsqueeze", value.name, graph.ints(dim))


def squeeze(graph: GraphWriter, value: Value, dim: int | Sequence[int] | None = None) -> str:
    """Without dimensions of size one, given or all."""
    sizes = value.tensor.shape
    dims = range(len(sizes)) if dim is None else [dim] if isinstance(dim, int) else dim
    ones = [d for d in dims if not isinstance(sizes[d], SymInt) and sizes[d] == 1]
    return graph.op("Squeeze", value.name, graph.ints(*ones)) if ones else value.name


def permute(graph: GraphWriter, value: Value, *dims: int | Sequence[int]) -> str:
    """Dimensions in another order."""
    order = [int(dim) % value.tensor.dim() for dim in _flat(dims)]  # type: ignore[arg-type]
    return graph.op("Transpose", value.name, perm=order)


def transpose(graph: GraphWriter, value: Value, dim0: int, dim1: int) -> str:
    """Two dimensions exchanged."""
    order = list(range(value.tensor.dim()))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return graph.op("Transpose", value.name, perm=order)


def getitem(graph: GraphWriter, value: Value, index: Index | tuple[Index, ...]) -> str:
    """Integers, slices, None and an ellipsis; the batch may only be taken whole."""
    parts = _without_ellipsis(index if isinstance(index, tuple) else (index,), value.tensor.dim())
    sliced = _slices(graph, value.name, [part for part in parts if part is not None])
    picked = _picked(graph, sliced, [part for part in parts if part is not None])
    kept = [part for part in parts if not isinstance(part, int)]
    new = [position for position, part in enumerate(kept) if part is None]
    return graph.op("Unsqueeze", picked, graph.ints(*new)) if new else picked


def _without_ellipsis(index: tuple[Any, ...], dims: int) -> list[int | slice | None]:
    given = sum(part is not None and part is not Ellipsis for part in index)
    parts: list[int | slice | None] = []
    for part in index:
        if isinstance(part, EllipsisType):
            parts += [slice(None)] * (dims - given)
        elif part is None or (isinstance(part, (int, slice)) and not isinstance(part, bool)):
            parts.append(part)  # pyright: ignore[reportUnknownArgumentType]
        else:
            raise ExportError("an index that is a tensor has no recipe; use slices or torch.where")
    return parts


def _slices(graph: GraphWriter, value: str, parts: Sequence[int | slice]) -> str:
    ranges = [(axis, p) for axis, p in enumerate(parts) if isinstance(p, slice)]
    ranges = [(axis, p) for axis, p in ranges if p != slice(None)]
    for _, part in ranges:
        if not all(isinstance(end, int | None) for end in (part.start, part.stop, part.step)):
            raise ExportError("a slice whose ends depend on a size has no recipe; use numbers")
    if not ranges:
        return value
    starts = graph.ints(*(part.start or 0 for _, part in ranges))
    ends = graph.ints(*(_END if part.stop is None else part.stop for _, part in ranges))
    axes = graph.ints(*(axis for axis, _ in ranges))
    steps = graph.ints(*(part.step or 1 for _, part in ranges))
    return graph.op("Slice", value, starts, ends, axes, steps)


def _picked(graph: GraphWriter, value: str, parts: Sequence[int | slice]) -> str:
    for axis in reversed(range(len(parts))):
        part = parts[axis]
        if isinstance(part, int):
            value = graph.op("Gather", value, graph.constant(part, torch.int64), axis=axis)
    return value


def concatenate(graph: GraphWriter, values: Sequence[Value], dim: int = 0) -> str:
    """Tensors end to end."""
    dtype = promoted(*values)
    return graph.op("Concat", *(operand(graph, value, dtype) for value in values), axis=dim)


def stack(graph: GraphWriter, values: Sequence[Value], dim: int = 0) -> str:
    """Tensors along a new dimension."""
    dtype = promoted(*values)
    axes = graph.ints(dim)
    parts = [graph.op("Unsqueeze", operand(graph, value, dtype), axes) for value in values]
    return graph.op("Concat", *parts, axis=dim)


def expand(graph: GraphWriter, value: Value, *sizes: Size | Sequence[Size]) -> str:
    """Broadcast to sizes; -1 keeps one, and so does the size of a batch that is there already."""
    wanted = _flat(sizes)
    before = [1] * (len(wanted) - value.tensor.dim()) + list(value.tensor.shape)
    kept = [isinstance(old, SymInt) or new == -1 for new, old in zip(wanted, before, strict=True)]
    counts: list[Size] = [1 if keep else size for keep, size in zip(kept, wanted, strict=True)]
    return graph.op("Expand", value.name, graph.shape(counts))


def repeat(graph: GraphWriter, value: Value, *repeats: Size | Sequence[Size]) -> str:
    """Copies along every dimension."""
    counts = _flat(repeats)
    missing = len(counts) - value.tensor.dim()
    name = value.name
    if missing:
        name = graph.op("Unsqueeze", name, graph.ints(*range(missing)))
    return graph.op("Tile", name, graph.shape(counts))


def chunk(graph: GraphWriter, value: Value, chunks: int, dim: int = 0) -> tuple[str, ...]:
    """Equal parts along a dimension; the last may be smaller."""
    return split(graph, value, -(-_static(value.tensor, dim) // chunks), dim)


def split(
    graph: GraphWriter, value: Value, size: int | Sequence[int], dim: int = 0
) -> tuple[str, ...]:
    """Parts of given sizes along a dimension."""
    length = _static(value.tensor, dim)
    sizes = [size] * -(-length // size) if isinstance(size, int) else list(size)
    axes, parts, start = graph.ints(dim), list[str](), 0
    for part in sizes:
        ends = graph.ints(min(start + part, length))
        parts.append(graph.op("Slice", value.name, graph.ints(start), ends, axes))
        start += part
    return tuple(parts)


def _static(tensor: Tensor, dim: int) -> int:
    size = tensor.shape[dim]
    if isinstance(size, SymInt):
        raise ExportError("the batch cannot be split; split another dimension")
    return size


def pad(
    graph: GraphWriter, tensor: Value, pad: Sequence[int], mode: str = "constant",
    value: Number | None = None,
) -> str:  # fmt: skip
    """Padding of the last dimensions, listed from the last one, as torch does."""
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        raise ExportError(f"padding mode {mode!r} has no recipe; use one of {', '.join(modes)}")
    rank, count = tensor.tensor.dim(), len(pad) // 2
    before = [0] * (rank - count) + [pad[2 * i] for i in reversed(range(count))]
    after = [0] * (rank - count) + [pad[2 * i + 1] for i in reversed(range(count))]
    inputs = [tensor.name, graph.ints(*before, *after)]
    if mode == "constant":
        inputs.append(graph.constant(value or 0, tensor.tensor.dtype))
    return graph.op("Pad", *inputs, mode=modes[mode])


def _filled_like(filling: Number) -> Recipe:
    def recipe(graph: GraphWriter, value: Value, *, dtype: torch.dtype | None = None) -> str:
        return full_like(graph, value, filling, dtype=dtype)

    return recipe


def full_like(
    graph: GraphWriter, value: Value, filling: Operand, *, dtype: torch.dtype | None = None
) -> str:
    """A number everywhere."""
    wanted = dtype or value.tensor.dtype
    return graph.op("Expand", operand(graph, filling, wanted), graph.op("Shape", value.name))


def _filled(filling: Number) -> Recipe:
    def recipe(
        graph: GraphWriter, *sizes: Size | Sequence[Size], dtype: torch.dtype | None = None,
        device: object = None,
    ) -> str:  # fmt: skip
        wanted = graph.constant(filling, dtype or torch.get_default_dtype())
        return graph.op("Expand", wanted, graph.shape(_flat(sizes)))

    return recipe


def full(
    graph: GraphWriter, sizes: Sequence[Size], filling: Operand, *,
    dtype: torch.dtype | None = None, device: object = None,
) -> str:  # fmt: skip
    """A number everywhere, in a given shape."""
    wanted = operand(graph, filling, dtype or torch.get_default_dtype())
    return graph.op("Expand", wanted, graph.shape(sizes))


def size(graph: GraphWriter, value: Value, dim: int) -> str:
    """One size of a tensor, as a vector of one element."""
    axis = dim % value.tensor.dim()
    return graph.op("Shape", value.name, start=axis, end=axis + 1)


def index_select(graph: GraphWriter, value: Value, dim: int, index: Value) -> str:
    """The rows that a tensor of numbers names."""
    return graph.op("Gather", value.name, index.name, axis=dim)


SHAPES: Mapping[Callable[..., Any] | str, Recipe] = {
    torch.reshape: reshape,
    "view": reshape,
    torch.flatten: flatten,
    torch.unsqueeze: unsqueeze,
    torch.squeeze: squeeze,
    torch.permute: permute,
    torch.transpose: transpose,
    operator.getitem: getitem,
    torch.index_select: index_select,
    torch.cat: concatenate,
    torch.concat: concatenate,
    torch.stack: stack,
    "expand": expand,
    "repeat": repeat,
    torch.chunk: chunk,
    torch.split: split,
    functional.pad: pad,
    torch.zeros_like: _filled_like(0),
    torch.ones_like: _filled_like(1),
    torch.full_like: full_like,
    torch.zeros: _filled(0),
    torch.ones: _filled(1),
    torch.full: full,
    torch.ops.aten.sym_size.int: size,
}
"""Recipes by function, or by the name of a tensor's method."""
