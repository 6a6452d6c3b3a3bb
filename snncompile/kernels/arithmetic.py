"""What an aten operation is in the language of a kernel: an expression of its operands.

An expression is text that C and Python read alike: infix operators, and calls of the few functions
that a kernel's preamble defines (`real`, `select`, `sqrt_`, ...). A truth value is 0 or 1.

An operation is *exact* when IEEE 754 or its definition fixes every bit of the result, so that a
kernel and torch cannot differ. Only those may decide spikes; the others (exp, tanh, ..., and sqrt,
which torch does not always round to the nearest on the CPU) serve in derivatives.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from snncompile.kernels.step import NotElementwiseError

IDENTITIES = frozenset(("detach", "clone", "alias", "lift_fresh_copy", "lift_fresh", "positive"))
"""Operations that hand on their operand."""

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "true_divide": "/",
    "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^",
    "logical_and": "&", "logical_or": "|", "logical_xor": "^",
}  # fmt: skip
_FIXED = {
    "rsub": "({1} - {0})",
    "neg": "(-{0})",
    "abs": "abs_({0})",
    "reciprocal": "(real(1.0) / {0})",
    "square": "({0} * {0})",
    "round": "round_({0})",
    "floor": "floor_({0})",
    "ceil": "ceil_({0})",
    "trunc": "trunc_({0})",
    "sign": "(real({0} > real(0.0)) - real({0} < real(0.0)))",
    "sgn": "(real({0} > real(0.0)) - real({0} < real(0.0)))",
    "relu": "select({0} < real(0.0), real(0.0), {0})",
    "clamp_min": "select({0} < {1}, {1}, {0})",
    "clamp_max": "select({0} > {1}, {1}, {0})",
    "maximum": "select(({0} > {1}) | ({0} != {0}), {0}, {1})",
    "minimum": "select(({0} < {1}) | ({0} != {0}), {0}, {1})",
    "where": "select({0}, {1}, {2})",
    "masked_fill": "select({1}, {2}, {0})",
    "threshold_backward": "select({1} <= {2}, real(0.0), {0})",
    "sigmoid_backward": "({0} * (real(1.0) - {1}) * {1})",
    "tanh_backward": "({0} * (real(1.0) - {1} * {1}))",
    "logical_not": "({0} == 0)",
    "bitwise_not": "({0} == 0)",
    "zeros_like": "real(0.0)",
    "ones_like": "real(1.0)",
}
_POWERS = {
    0.0: "real(1.0)",
    1.0: "{0}",
    2.0: "({0} * {0})",
    3.0: "({0} * {0} * {0})",
    0.5: "sqrt_({0})",
    -0.5: "(real(1.0) / sqrt_({0}))",
    -1.0: "(real(1.0) / {0})",
    -2.0: "(real(1.0) / ({0} * {0}))",
}
_ROUGH = {
    **{name: f"{name}_({{0}})" for name in ("exp", "log", "sin", "cos", "tanh", "atan", "erf")},
    "sigmoid": "(real(1.0) / (real(1.0) + exp_(-{0})))",
    "sqrt": "sqrt_({0})",
    "rsqrt": "(real(1.0) / sqrt_({0}))",
    "pow": "pow_({0}, {1})",
}


def name_of(node: fx.Node) -> str:
    """The bare name of a node's aten operation, without its overload."""
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, OpOverload) else str(target)


def is_exact(node: fx.Node) -> bool:
    """Whether the operation has one right result, bit for bit."""
    if name_of(node) == "pow":
        return node.args[1] in (0, 1, 2, 3)
    if name_of(node) in ("add", "sub", "rsub"):
        return node.kwargs.get("alpha", 1) in (1, -1)
    return name_of(node) not in _ROUGH


def expression(node: fx.Node, text: Mapping[fx.Node, str]) -> str:
    """A node's value as an expression.

    Args:
        node: A call of an aten operation.
        text: The text of every operand that is a node.

    Raises:
        NotElementwiseError: The operation is not elementwise, or not known.
    """
    name = name_of(node)
    _require_elementwise(node)
    given = [_operand(argument, text) for argument in node.args]
    if name in _SPECIAL:
        return _SPECIAL[name](node, given)
    if name in _INFIX:
        return f"({given[0]} {_INFIX[name]} {given[1]})"
    template = _FIXED.get(name) or _ROUGH.get(name)
    if template is None:
        raise NotElementwiseError(f"{node.target} is not known to be elementwise")
    return template.format(*given)


def _require_elementwise(node: fx.Node) -> None:
    value = node.meta.get("val")
    shaped = isinstance(value, torch.Tensor) and value.shape in (torch.Size([2]), torch.Size([]))
    if node.op != "call_function" or not shaped:
        raise NotElementwiseError(f"{node.target} is not elementwise arithmetic")


def _operand(argument: Any, text: Mapping[fx.Node, str]) -> str:  # noqa: ANN401
    if isinstance(argument, fx.Node):
        return text[argument]
    return number(argument) if isinstance(argument, (int, float)) else ""


def number(value: float) -> str:
    """A number as torch converts it: to the nearest of the kernel's dtype."""
    if math.isnan(value):
        return "real(NAN)"
    if math.isinf(value):
        return "real(INFINITY)" if value > 0 else "real(-INFINITY)"
    return f"real({float(value)!r})"


def _sum(node: fx.Node, given: list[str]) -> str:
    """add, sub and rsub with their factor alpha."""
    alpha = node.kwargs.get("alpha", 1)
    factor: Any = alpha
    first, second = given[:2] if name_of(node) != "rsub" else (given[1], given[0])
    if alpha != 1 and name_of(node) == "rsub":
        raise NotElementwiseError("rsub with a factor")
    scaled = second if alpha == 1 else f"{number(factor)} * {second}"
    return f"({first} {'+' if name_of(node) == 'add' else '-'} {scaled})"


def _quotient(node: fx.Node, given: list[str]) -> str:
    if node.kwargs.get("rounding_mode") is not None:
        raise NotElementwiseError("a division that rounds")
    return f"({given[0]} / {given[1]})"


def _power(node: fx.Node, given: list[str]) -> str:
    exponent = node.args[1]
    known = _POWERS.get(float(exponent)) if isinstance(exponent, (int, float)) else None
    return (known or _ROUGH["pow"]).format(*given)


def _clamp(node: fx.Node, given: list[str]) -> str:
    low, high = (*node.args[1:3], None, None)[:2]
    result = given[0]
    if low is not None:
        result = f"select({result} < {given[1]}, {given[1]}, {result})"
    if high is not None:
        result = f"select({result} > {given[2]}, {given[2]}, {result})"
    return result


def _conversion(node: fx.Node, given: list[str]) -> str:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["val"].dtype, node.meta["val"].dtype
    if before == after:
        return given[0]
    if torch.bool not in (before, after):
        raise NotElementwiseError(f"a conversion from {before} to {after}")
    return f"real({given[0]})" if before == torch.bool else f"({given[0]} != real(0.0))"


def _constant(node: fx.Node, given: list[str]) -> str:
    """full, full_like, scalar_tensor, ...: their last positional argument."""
    if node.meta["val"].dtype == torch.bool:
        return "1" if node.args[-1] else "0"
    return given[-1]


_SPECIAL: Mapping[str, Callable[[fx.Node, list[str]], str]] = {
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("div", "true_divide"), _quotient),
    **dict.fromkeys(("full", "full_like", "scalar_tensor"), _constant),
    "pow": _power,
    "clamp": _clamp,
    "_to_copy": _conversion,
}
