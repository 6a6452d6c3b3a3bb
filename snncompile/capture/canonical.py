# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""One spelling for what torch lets people write in several ways.

``x + y``, ``x.add(y)``, ``x += y`` and ``torch.add(x, y)`` become ``operator.add(x, y)``; ``view``,
``flatten``, ``squeeze`` and their kin become ``reshape``; ``select`` becomes indexing; casts
become ``to(dtype)``. Passes and the exporter meet one name a meaning.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import SymInt, Tensor


class Call(NamedTuple):
    """A call as the graph will hold it; tensors are still tensors."""

    op: str
    target: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_BINARY: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "subtract": operator.sub,
    "mul": operator.mul,
    "multiply": operator.mul,
    "div": operator.truediv,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "pow": operator.pow,
    "matmul": operator.matmul,
    "mod": operator.mod,
    "remainder": operator.mod,
    "gt": operator.gt,
    "greater": operator.gt,
    "ge": operator.ge,
    "greater_equal": operator.ge,
    "lt": operator.lt,
    "less": operator.lt,
    "le": operator.le,
    "less_equal": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
}
_REVERSED = {
    "radd": "add",
    "rsub": "sub",
    "rmul": "mul",
    "rdiv": "truediv",
    "rtruediv": "truediv",
    "rfloordiv": "floordiv",
    "rpow": "pow",
    "rmatmul": "matmul",
    "rmod": "mod",
}
_UNARY: dict[str, Callable[..., Any]] = {
    "neg": operator.neg,
    "negative": operator.neg,
    "invert": operator.invert,
}
_RESHAPES = frozenset(
    ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
)
_CASTS = frozenset(
    ("to", "float", "double", "half", "bfloat16", "int", "long", "bool", "type", "type_as")
)
COPIES = frozenset(("contiguous", "clone", "alias"))
"""Calls whose result equals their first argument: a functional graph needs no copy."""

UNRECORDED = frozenset(("requires_grad_", "retain_grad", "register_hook"))
"""Calls that change how autograd watches a tensor, not its value."""


def name_of(function: Callable[..., Any]) -> str:
    """The bare name of a torch function: ``__iadd__``, ``add_`` and ``add`` are all "add"."""
    name: str = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    if name.startswith("__") and name.endswith("__"):
        bare = name[2:-2]
        in_place = bare.startswith("i") and (bare[1:] in _BINARY)
        return bare[1:] if in_place else bare
    return name.rstrip("_") or name


def canonical(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    result: Any,  # noqa: ANN401
) -> Call:
    """The one spelling of a call.

    Args:
        function: What torch was asked to run.
        args: Its arguments; tensors are fake.
        kwargs: Its keyword arguments.
        result: What it returned.

    Returns:
        The call to record.
    """
    name, args = name_of(function), tuple(map(_number, args))
    name, args = (_REVERSED[name], args[::-1]) if name in _REVERSED else (name, args)
    if name in _BINARY and len(args) == 2 and not kwargs:  # noqa: PLR2004
        return Call("call_function", _BINARY[name], args, {})
    if name in _UNARY:
        return Call("call_function", _UNARY[name], args[:1], {})
    if name in _RESHAPES and isinstance(result, Tensor):
        return Call("call_function", torch.reshape, (args[0], _sizes(result)), {})
    if name in _CASTS and isinstance(result, Tensor):
        return Call("call_method", "to", (args[0], result.dtype), {})
    special = _SPECIAL.get(name)
    if special is not None:
        return special(args, kwargs)
    return _plain(function, name, args, kwargs)


def _number(value: Any) -> Any:  # noqa: ANN401
    """A number of numpy as one of Python; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value  # pyright: ignore[reportUnknownVariableType]


def _plain(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call:
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    if type(function).__name__ in {"method_descriptor", "wrapper_descriptor", "method-wrapper"}:
        counterpart = getattr(torch, name, None)
        if callable(counterpart) and name not in {"expand", "repeat"}:
            return Call("call_function", counterpart, args, kwargs)
        return Call("call_method", name, args, kwargs)
    counterpart = getattr(torch, name, None) if name != function.__name__ else None
    return Call("call_function", counterpart or function, args, kwargs)


def _sizes(result: Tensor) -> tuple[Any, ...]:
    """The shape to reshape to, with -1 for the one size that is not a number."""
    sizes = list(result.shape)
    symbolic = [i for i, size in enumerate(sizes) if isinstance(size, SymInt)]
    if len(symbolic) == 1:
        sizes[symbolic[0]] = -1
    return tuple(sizes)


def index_along(axis: int, index: int) -> Any:  # noqa: ANN401
    """The index that picks one position of one axis: ``x[index]`` when the axis is the first."""
    return index if axis == 0 else (*(slice(None),) * axis, index)


def axis_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The axis, not negative, of a call such as ``x.select(axis, index)`` or ``x.unbind(axis)``."""
    tensor: Tensor = args[0]
    given = args[1:]
    axis: int = kwargs.get("dim", given[0] if given else 0)
    return axis % tensor.dim()


def _select(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    index = index_along(axis_of(args, kwargs), kwargs.get("index", args[-1]))
    return Call("call_function", operator.getitem, (args[0], index), {})


def _getitem(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return Call("call_function", operator.getitem, args, {})


def _transpose_all(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return Call("call_function", torch.permute, (args[0], tuple(range(args[0].dim()))[::-1]), {})


def _permute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    order = kwargs.get("dims", args[1] if isinstance(args[1], (tuple, list)) else args[1:])
    return Call("call_function", torch.permute, (args[0], tuple(order)), {})


def _detach(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return Call("call_function", torch.detach, args[:1], {})


def _filled(value: float) -> Callable[[tuple[Any, ...], dict[str, Any]], Call]:
    def filled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return Call("call_function", torch.full_like, (args[0], value), {})

    return filled


def assign(base: Tensor, index: Any, value: Tensor | float) -> Tensor:  # noqa: ANN401
    """``base`` with ``base[index] = value``, as a new tensor of the same shape."""
    changed = base.clone()
    changed[index] = value
    return changed


def _setitem(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return Call("call_function", assign, args, {})


def _fill(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return Call("call_function", torch.full_like, args[:2], {})


_SPECIAL: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], Call]] = {
    "select": _select,
    "getitem": _getitem,
    "setitem": _setitem,
    "T": _transpose_all,
    "permute": _permute,
    "detach": _detach,
    "data": _detach,
    "zero": _filled(0.0),
    "fill": _fill,
}
