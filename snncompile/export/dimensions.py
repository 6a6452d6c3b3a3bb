"""The sizes that an ONNX file declares: numbers, N for the batch, T for time, products of these."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import onnx
from onnx import helper
from torch import SymInt, Tensor

from snncompile.export.graph import onnx_type
from snncompile.ir.program import Program

Batch: TypeAlias = Literal["dynamic"] | int
Dimension: TypeAlias = int | str


def expression_of(size: SymInt) -> Any:  # noqa: ANN401
    """The sympy expression behind a symbolic size."""
    known: Any = size
    return known.node.expr


@dataclass(frozen=True)
class Dimensions:
    """Knows which symbol of a program's fake tensors is the batch.

    Attributes:
        batch: What N is in the file: left open, or a number.
        symbols: The names of the batch among the symbols of the step.
        time: The number of steps if the program fixes it.
    """

    batch: Batch
    symbols: frozenset[str]
    time: int | None = None

    @classmethod
    def of(cls, program: Program, batch: Batch) -> "Dimensions":
        """Every symbol in a step's inputs and states is the batch; any other is time."""
        sizes = (size for node in program.placeholders() for size in node.meta["val"].shape)
        expressions = (expression_of(size) for size in sizes if isinstance(size, SymInt))
        symbols = frozenset(str(symbol) for e in expressions for symbol in e.free_symbols)
        return cls(batch, symbols, program.time)

    def shape(self, like: Tensor) -> list[Dimension]:
        """The sizes of a value that torch describes by a fake tensor."""
        return [self._size(size) for size in like.shape]

    def _size(self, size: int | SymInt) -> Dimension:
        if not isinstance(size, SymInt):
            return int(size)
        text = str(expression_of(size))
        for symbol in sorted(
            (str(s) for s in expression_of(size).free_symbols), key=len, reverse=True
        ):
            text = text.replace(symbol, "N" if symbol in self.symbols else "T")
        known = {"N": self.batch, "T": self.time}.get(text)
        return known if isinstance(known, int) else text

    def numbers(self, like: Tensor, batch: int, steps: int) -> list[int]:
        """The sizes of a value for one batch size and number of steps."""
        sizes: list[int] = []
        for size in like.shape:
            if isinstance(size, SymInt):
                expression = expression_of(size)
                chosen = {
                    s: batch if str(s) in self.symbols else steps for s in expression.free_symbols
                }
                sizes.append(int(expression.subs(chosen)))
            else:
                sizes.append(int(size))
        return sizes

    def step(self, name: str, like: Tensor) -> onnx.ValueInfoProto:
        """A value of one step."""
        return helper.make_tensor_value_info(name, onnx_type(like.dtype), self.shape(like))

    def sequence(
        self, name: str, like: Tensor, time: int | None, axis: int = 0
    ) -> onnx.ValueInfoProto:
        """A sequence of values of one step, with the time axis where it belongs."""
        sizes = self.shape(like)
        place = axis % (len(sizes) + 1)
        sizes.insert(place, time if time is not None else "T")
        return helper.make_tensor_value_info(name, onnx_type(like.dtype), sizes)
