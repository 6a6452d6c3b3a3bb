"""Symbolic sizes: comparing them, and computing them in a trace from the shapes of its inputs."""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

import torch
from torch import SymInt, Tensor, fx
from torch.fx.experimental.sym_node import SymNode

from snncompile.errors import CaptureError

Size: TypeAlias = int | SymInt
Emit: TypeAlias = Callable[[Callable[..., object], tuple[int | fx.Node, ...], SymInt], fx.Node]
"""Appends the call of a function to the trace, given its arguments and its result."""


def size_key(size: Size) -> str:
    """A size, as something to compare."""
    return str(_symbol(size).expr) if isinstance(size, SymInt) else str(size)


def same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are the same number or the same expression; adds no guard."""
    return size_key(a) == size_key(b)


def known_size(size: Size) -> int | None:
    """The number that a size is known to be; None while it stays symbolic."""
    return _symbol(size).maybe_as_int() if isinstance(size, SymInt) else size


class SizeNodes:
    """The nodes of one trace that compute sizes; one node an expression."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._inputs: list[tuple[fx.Node, Tensor]] = []
        self._made: dict[str, int | fx.Node] = {}

    def read_from(self, node: fx.Node, tensor: Tensor) -> None:
        """Let sizes be read off an input, given its node and its fake tensor."""
        self._inputs.append((node, tensor))

    def node(self, size: Size, place: str) -> int | fx.Node:
        """What computes a size: that of an input's dimension, or a product of such.

        Args:
            size: The size.
            place: Where it is used, in the words of the error.

        Returns:
            Its node; the number itself where the size is known.

        Raises:
            CaptureError: It is neither an input's size nor a product.
        """
        known = known_size(size)
        if known is not None:
            return known
        assert isinstance(size, SymInt)
        key = size_key(size)
        if key not in self._made:
            read = self._read(size)
            self._made[key] = self._product(size, place) if read is None else read
        return self._made[key]

    def _read(self, size: SymInt) -> fx.Node | None:
        for source, tensor in self._inputs:
            for axis, found in enumerate(tensor.shape):
                if isinstance(found, SymInt) and same_size(found, size):
                    return self._emit(torch.ops.aten.sym_size.int, (source, axis), size)
        return None

    def _product(self, size: SymInt, place: str) -> int | fx.Node:
        factors = [self.node(factor, place) for factor in _factors(size)]
        if not factors:
            raise CaptureError(
                f"the size {size_key(size)} in {place} is not a product of input sizes"
            )
        return reduce(lambda a, b: self._emit(operator.mul, (a, b), size), factors)


def _factors(size: SymInt) -> list[Size]:
    """The factors of a product; none for a size of any other form."""
    symbol = _symbol(size)
    shapes = symbol.shape_env
    if not symbol.expr.is_Mul or shapes is None:
        return []
    factors: tuple[Any, ...] = symbol.expr.args
    return [shapes.create_symintnode(factor, hint=None) for factor in factors]


def _symbol(size: SymInt) -> SymNode:
    symbol: SymNode = size.node
    return symbol
