"""Expressions of kernels, which C and Python read alike, in the spelling of Triton.

Triton's own operators would do but for their rounding: its ``/`` and ``tl.sqrt`` approximate in
single precision, its minus may lose the sign of zero, and a number may become a float32 on its way.
"""

import ast
from typing import Final

import torch

from snncompile.kernels.step import NotElementwiseError

_NAMES: Final = {torch.float32: "tl.float32", torch.float64: "tl.float64"}
_INTEGERS: Final = {torch.float32: 2.0**23, torch.float64: 2.0**52}
"""From here on every number is an integer."""
_SYMBOLS: Final[dict[type[ast.operator | ast.cmpop], str]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
    ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_CALLS: Final = {
    "select": "tl.where({0}, {1}, {2})",
    "abs_": "tl.abs({0})",
    "floor_": "tl.floor({0})",
    "ceil_": "tl.ceil({0})",
    "trunc_": "tl.where({0} < 0.0, tl.ceil({0}), tl.floor({0}))",
    **{
        f"{name}_": f"libdevice.{name}({{0}})"
        for name in ("exp", "log", "sin", "cos", "tanh", "atan", "erf")
    },
    "pow_": "libdevice.pow({0}, {1})",
}


class Spelling:
    """How expressions of one dtype are spelled.

    Args:
        dtype: float32 or float64.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        single = dtype == torch.float32
        size = f"((tl.abs({{0}}) + {_INTEGERS[dtype]}) - {_INTEGERS[dtype]})"
        signed = f"tl.where({{0}} < 0.0, {size} * -1.0, {size})"
        within = f"(tl.abs({{0}}) < {_INTEGERS[dtype]}) & ({size} != tl.abs({{0}}))"
        self.real = _NAMES[dtype]
        self.quotient = "tl.div_rn({0}, {1})" if single else "({0} / {1})"
        self.calls = {
            **_CALLS,
            "sqrt_": "tl.sqrt_rn({0})" if single else "tl.sqrt({0})",
            "round_": f"tl.where({within}, {signed}, {{0}})",
        }

    def __call__(self, text: str) -> str:
        """An expression as Triton reads it.

        Args:
            text: In the language of `snncompile.kernels.arithmetic`; names stand for values.

        Raises:
            NotElementwiseError: There is something in it that Triton has no word for.
        """
        return self._spelled(ast.parse(text, mode="eval").body)

    def _spelled(self, node: ast.expr) -> str:
        match node:
            case ast.Name(name):
                return name
            case ast.Constant(int(truth)):
                return f"tl.full((), {bool(truth)}, tl.int1)"
            case ast.Call(ast.Name("real"), [operand]):
                return self._real(operand)
            case ast.Call(ast.Name(name), operands) if name in self.calls:
                return self.calls[name].format(*map(self._spelled, operands))
            case ast.UnaryOp(ast.USub(), operand):
                return f"({self._spelled(operand)} * -1.0)"
            case ast.BinOp(left, symbol, right) | ast.Compare(left, [symbol], [right]):
                return self._infix(left, symbol, right)
            case _:
                raise NotElementwiseError(f"{ast.unparse(node)} is no Triton")

    def _infix(self, left: ast.expr, symbol: ast.operator | ast.cmpop, right: ast.expr) -> str:
        operands = self._spelled(left), self._spelled(right)
        if isinstance(symbol, ast.Div):
            return self.quotient.format(*operands)
        return f"({operands[0]} {_SYMBOLS[type(symbol)]} {operands[1]})"

    def _real(self, operand: ast.expr) -> str:
        """A number, to the nearest of the dtype; or a truth value as 0 or 1."""
        match operand:
            case ast.UnaryOp(ast.USub(), number):
                return f"({self._real(number)} * -1.0)"
            case ast.Constant(float(number)):
                return f"tl.full((), {number!r}, {self.real})"
            case ast.Name("NAN" | "INFINITY" as name):
                return f'tl.full((), float("{name[:3].lower()}"), {self.real})'
            case _:
                return f"({self._spelled(operand)}).to({self.real})"
