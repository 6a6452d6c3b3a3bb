"""Prints the two sweeps of a kernel as Triton.

A program takes BLOCK neighbouring elements of a step and loops over time, its states in registers
and STAGES - 1 of the next steps on their way from memory. Both functions take the number of steps,
the width of a step, and for every array its address and the distance between two of its rows; an
array that is left out is None.
`snncompile.kernels.loops` says which arrays, in which order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import fx

from snncompile.kernels import loops
from snncompile.kernels.sweep import Sweeps
from snncompile.kernels.triton.expressions import Spelling

_HEAD = """\
import triton
import triton.language as tl

if triton.knobs.runtime.interpret:
    from snncompile.kernels.triton import libdevice
else:
    from triton.language.extra import libdevice


@triton.jit
def plus(first, second):
    return first + second
"""
_CONSTANTS = "BLOCK: tl.constexpr, STAGES: tl.constexpr"


class Source(NamedTuple):
    """A kernel as text.

    Attributes:
        text: A Python module with ``forward`` and, if anything needs a gradient, ``backward``.
        arrays: For every function, the dtypes of its arrays.
    """

    text: str
    arrays: dict[str, tuple[torch.dtype, ...]]


def source(sweeps: Sweeps) -> Source:
    """Print a kernel.

    Raises:
        NotElementwiseError: An operation has no expression.
    """
    writers = [loops.forward, loops.backward] if sweeps.step.gradients else [loops.forward]
    functions = [_Function(sweeps, write) for write in writers]
    text = "\n\n".join((_HEAD, *(function.text() for function in functions)))
    arrays = {f.name: tuple(array.dtype for array in f.arrays.values()) for f in functions}
    return Source(text, arrays)


@dataclass
class _Array:
    """A parameter of a function.

    Attributes:
        dtype: Of its elements.
        begin: Where a program's elements of the first row to visit are.
        moves: Whether it has a row for every step.
        optional: Whether it may be None.
    """

    dtype: torch.dtype
    begin: str = ""
    moves: bool = False
    optional: bool = False


class _Function(loops.Printer):
    def __init__(self, sweeps: Sweeps, write: Callable[[loops.Printer], None]) -> None:
        super().__init__(sweeps)
        self.name = write.__name__
        self.back = write is loops.backward
        self.spelling = Spelling(sweeps.definition.dtype)
        self.arrays: dict[str, _Array] = {}
        self.before: list[str] = []
        self.inner: list[str] = []
        self.after: list[str] = []
        write(self)

    def spelled(self, text: str) -> str:
        return self.spelling(text)

    def array(
        self, name: str, *, steps: bool = False, truth: bool = False, optional: bool = False
    ) -> None:
        dtype = torch.uint8 if truth else self.sweeps.definition.dtype
        begin = f"begin + last * {name}_step" if steps and self.back else "begin"
        self.arrays[name] = _Array(dtype, begin, steps, optional)

    def _loaded(self, name: str) -> str:
        if self.arrays[name].dtype == torch.uint8:
            return f"(tl.load({name} + lane, inside, 0) != 0)"
        text = f"tl.load({name} + lane, inside, 0.0)"
        if self.arrays[name].optional:
            return f"({text} if {name} is not None else {self.spelled(loops.ZERO)})"
        return text

    def element(self, name: str) -> str:
        if self.arrays[name].moves:
            return self._loaded(name)
        self.before.append(f"row_{name} = {self._loaded(name)}")
        return f"row_{name}"

    def scalar(self, name: str) -> str:
        self.arrays[name] = _Array(self.sweeps.definition.dtype)
        self.before.append(f"v_{name} = tl.load({name})")
        return f"v_{name}"

    def late(self, name: str, initial: str) -> str:
        self.array(name, steps=True)
        self.arrays[name].begin = f"begin + (last - 1) * {name}_step"
        self.array(initial)
        return f"({self._loaded(name)} if t < steps - 1 else {self.element(initial)})"

    def carry(self, first: str, last: str) -> str:
        self.before.append(f"next_{last} = tl.broadcast_to({self._loaded(first)}, (BLOCK,))")
        store = f"tl.store({last} + lane, next_{last}, inside)"
        self.after += _guarded(store, last, optional=self.arrays[last].optional)
        return f"next_{last}"

    def hand_on(self, last: str, text: str) -> None:
        self.inner.append(f"next_{last} = tl.broadcast_to({text}, (BLOCK,))")

    def store(self, name: str, text: str) -> None:
        kept = f"({text}).to(tl.uint8)" if self.arrays[name].dtype == torch.uint8 else text
        self.inner.append(f"tl.store({name} + lane, {kept}, inside)")

    def let(self, node: fx.Node, text: str, *, once: bool) -> None:
        (self.before if once else self.inner).append(f"v_{node.name} = {text}")

    def total(self, j: int, text: str) -> None:
        name = f"sum{j}"
        self.before.append(f"total{j} = tl.full((BLOCK,), 0.0, tl.float64)")
        self.inner.append(f"total{j} += ({text}).to(tl.float64)")
        if self.sweeps.definition.scalars[j]:
            self.arrays[name] = _Array(torch.float64)
            whole = f"tl.reduce(tl.where(inside, total{j}, 0.0), 0, plus)"
            self.after.append(f"tl.store({name} + tl.program_id(0), {whole})")
        else:
            self.arrays[name] = _Array(torch.float64, "begin")
            self.after.append(f"tl.store({name} + lane, total{j}, inside)")

    def text(self) -> str:
        starts: list[str] = []
        moves: list[str] = []
        for name, array in self.arrays.items():
            if array.begin:
                starts += _guarded(f"{name} += {array.begin}", name, optional=array.optional)
            if array.moves:
                move = f"{name} {'-' if self.back else '+'}= {name}_step"
                moves += _guarded(move, name, optional=array.optional)
        parameters = ", ".join(f"{name}, {name}_step" for name in self.arrays)
        return "\n".join(
            (
                "@triton.jit",
                f"def {self.name}(steps, width, {parameters}, {_CONSTANTS}):",
                "    begin = tl.program_id(0).to(tl.int64) * BLOCK",
                "    lane = tl.arange(0, BLOCK)",
                "    inside = lane < width - begin",
                "    last = tl.cast(steps - 1, tl.int64)",
                *(f"    {line}" for line in (*starts, *self.before)),
                "    for t in tl.range(0, steps, num_stages=STAGES):",
                *(f"        {line}" for line in (*self.inner, *moves)),
                *(f"    {line}" for line in self.after),
                "",
            )
        )


def _guarded(line: str, name: str, *, optional: bool) -> list[str]:
    """A line about an array, not run where that was left out."""
    return [f"if {name} is not None:", f"    {line}"] if optional else [line]
