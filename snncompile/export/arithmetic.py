# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""ONNX recipes for what torch does element by element: arithmetic, comparisons, casts.

A recipe takes the graph, then the arguments of the torch call with tensors as `Value`; it appends
nodes in the order of torch's own operations and returns the name of the result. Operands are cast
to the dtype that torch promotes them to.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from snncompile.errors import ExportError
from snncompile.export.graph import GraphWriter, Number, Value

Operand: TypeAlias = Value | Number
Result: TypeAlias = str | tuple[str, ...]
Recipe: TypeAlias = Callable[..., Result]


def operand(graph: GraphWriter, value: Operand, dtype: torch.dtype) -> str:
    """A tensor or a number as an operand of the given dtype."""
    if isinstance(value, Value):
        return graph.cast(value.name, value.tensor.dtype, dtype)
    return graph.constant(value, dtype)


def promoted(*values: Operand) -> torch.dtype:
    """The dtype that torch computes in."""
    first, *rest = (v.tensor if isinstance(v, Value) else v for v in values)
    dtype = first.dtype if isinstance(first, Tensor) else torch.get_default_dtype()
    for value in rest:
        dtype = torch.result_type(first, value)
        first = torch.empty((1,) * _rank(first, value), dtype=dtype)
    return dtype


def _rank(*values: Tensor | Number) -> int:
    return max((value.dim() for value in values if isinstance(value, Tensor)), default=0)


def _binary(kind: str) -> Recipe:
    def recipe(graph: GraphWriter, left: Operand, right: Operand) -> str:
        dtype = promoted(left, right)
        return graph.op(kind, operand(graph, left, dtype), operand(graph, right, dtype))

    return recipe


def _scaled(kind: str) -> Recipe:
    """Torch's add and sub with a factor on the second operand."""

    def recipe(graph: GraphWriter, left: Operand, right: Operand, *, alpha: Number = 1) -> str:
        dtype = promoted(left, right)
        second = operand(graph, right, dtype)
        if alpha != 1:
            second = graph.op("Mul", second, graph.constant(alpha, dtype))
        return graph.op(kind, operand(graph, left, dtype), second)

    return recipe


def divide(
    graph: GraphWriter, left: Operand, right: Operand, *, rounding_mode: str | None = None
) -> str:
    """True division, also of integers."""
    if rounding_mode is not None:
        raise ExportError(f"rounding_mode={rounding_mode!r} has no recipe; divide, then floor")
    dtype = promoted(left, right)
    dtype = dtype if dtype.is_floating_point else torch.float32
    return graph.op("Div", operand(graph, left, dtype), operand(graph, right, dtype))


def power(graph: GraphWriter, base: Operand, exponent: Operand) -> str:
    """A square is a product, as in torch; other exponents are Pow."""
    dtype = promoted(base, exponent)
    value = operand(graph, base, dtype)
    if exponent == 2:  # noqa: PLR2004
        return graph.op("Mul", value, value)
    return graph.op("Pow", value, operand(graph, exponent, dtype))


def _comparison(kind: str, *, negate: bool = False) -> Recipe:
    def recipe(graph: GraphWriter, left: Operand, right: Operand) -> str:
        dtype = promoted(left, right)
        truth = graph.op(kind, operand(graph, left, dtype), operand(graph, right, dtype))
        return graph.op("Not", truth) if negate else truth

    return recipe


def _logical(kind: str) -> Recipe:
    def recipe(graph: GraphWriter, *values: Value) -> str:
        names = (graph.cast(value.name, value.tensor.dtype, torch.bool) for value in values)
        return graph.op(kind, *names)

    return recipe


def _bitwise(kind: str) -> Recipe:
    logical = _logical(kind)

    def recipe(graph: GraphWriter, *values: Value) -> Result:
        if any(value.tensor.dtype != torch.bool for value in values):
            raise ExportError("bitwise operators are exported for bool only; compare first")
        return logical(graph, *values)

    return recipe


def unary(kind: str) -> Recipe:
    """A float function of one tensor."""

    def recipe(graph: GraphWriter, value: Value) -> str:
        return graph.op(kind, value.name)

    return recipe


def identity(graph: GraphWriter, value: Value) -> str:
    """The value itself: no node."""
    return value.name


def clamp(
    graph: GraphWriter,
    value: Value,
    min: Operand | None = None,  # noqa: A002
    max: Operand | None = None,  # noqa: A002
) -> str:
    """Max with the lower, then Min with the upper bound, so that bounds may be tensors."""
    result, dtype = value.name, value.tensor.dtype
    if min is not None:
        result = graph.op("Max", result, operand(graph, min, dtype))
    if max is not None:
        result = graph.op("Min", result, operand(graph, max, dtype))
    return result


def where(graph: GraphWriter, condition: Value, then: Operand, other: Operand) -> str:
    """One of two operands, element by element."""
    dtype = promoted(then, other)
    return graph.op(
        "Where", condition.name, operand(graph, then, dtype), operand(graph, other, dtype)
    )


def masked_fill(graph: GraphWriter, value: Value, mask: Value, filling: Operand) -> str:
    """The value where the mask is false."""
    dtype = value.tensor.dtype
    return graph.op("Where", mask.name, operand(graph, filling, dtype), value.name)


def to(graph: GraphWriter, value: Value, dtype: object, *rest: object) -> str:
    """A cast; a device means nothing in a file."""
    wanted = next((item for item in (dtype, *rest) if isinstance(item, torch.dtype)), None)
    wanted = dtype.tensor.dtype if isinstance(dtype, Value) else wanted
    return graph.cast(value.name, value.tensor.dtype, wanted or value.tensor.dtype)


def _cast_to(dtype: torch.dtype) -> Recipe:
    def recipe(graph: GraphWriter, value: Value) -> str:
        return graph.cast(value.name, value.tensor.dtype, dtype)

    return recipe


def square(graph: GraphWriter, value: Value) -> str:
    """The product with itself."""
    return graph.op("Mul", value.name, value.name)


def rsqrt(graph: GraphWriter, value: Value) -> str:
    """One over the root."""
    return graph.op("Reciprocal", graph.op("Sqrt", value.name))


_UNARY: Mapping[Callable[..., Any], str] = {
    torch.relu: "Relu", functional.relu: "Relu", torch.sigmoid: "Sigmoid", torch.tanh: "Tanh",
    functional.sigmoid: "Sigmoid", functional.tanh: "Tanh", torch.exp: "Exp", torch.log: "Log",
    torch.abs: "Abs", operator.abs: "Abs", torch.sqrt: "Sqrt", torch.sign: "Sign",
    torch.round: "Round", torch.floor: "Floor", torch.ceil: "Ceil", torch.erf: "Erf",
    torch.reciprocal: "Reciprocal", torch.sin: "Sin", torch.cos: "Cos", operator.neg: "Neg",
    torch.neg: "Neg",
}  # fmt: skip
_BINARY: Mapping[Callable[..., Any], str] = {
    operator.add: "Add", operator.sub: "Sub", operator.mul: "Mul", torch.mul: "Mul",
    operator.matmul: "MatMul", torch.matmul: "MatMul", torch.maximum: "Max", torch.minimum: "Min",
}  # fmt: skip
_COMPARISONS: Mapping[Callable[..., Any], str] = {
    operator.gt: "Greater", torch.gt: "Greater", operator.ge: "GreaterOrEqual",
    torch.ge: "GreaterOrEqual", operator.lt: "Less", torch.lt: "Less",
    operator.le: "LessOrEqual", torch.le: "LessOrEqual", operator.eq: "Equal", torch.eq: "Equal",
}  # fmt: skip

ARITHMETIC: Mapping[Callable[..., Any] | str, Recipe] = {
    **{target: unary(kind) for target, kind in _UNARY.items()},
    **{target: _binary(kind) for target, kind in _BINARY.items()},
    **{target: _comparison(kind) for target, kind in _COMPARISONS.items()},
    operator.ne: _comparison("Equal", negate=True),
    torch.ne: _comparison("Equal", negate=True),
    torch.add: _scaled("Add"),
    torch.sub: _scaled("Sub"),
    operator.truediv: divide,
    torch.div: divide,
    operator.pow: power,
    torch.pow: power,
    torch.square: square,
    torch.rsqrt: rsqrt,
    operator.and_: _bitwise("And"),
    operator.or_: _bitwise("Or"),
    operator.xor: _bitwise("Xor"),
    operator.invert: _bitwise("Not"),
    torch.logical_and: _logical("And"),
    torch.logical_or: _logical("Or"),
    torch.logical_xor: _logical("Xor"),
    torch.logical_not: _logical("Not"),
    torch.clamp: clamp,
    torch.where: where,
    torch.masked_fill: masked_fill,
    torch.detach: identity,
    "to": to,
    "type_as": to,
    "float": _cast_to(torch.float32),
    "bool": _cast_to(torch.bool),
    "long": _cast_to(torch.int64),
    "contiguous": identity,
    "clone": identity,
}
"""Recipes by function, or by the name of a tensor's method that torch has no function for."""
