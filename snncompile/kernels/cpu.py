"""The CPU as a target: sweeps compiled from C, run over blocks of elements on torch's threads."""

from collections.abc import Sequence

import torch
from torch import Tensor

from snncompile.kernels import build, c
from snncompile.kernels.layout import Layout
from snncompile.kernels.preamble import CHUNK
from snncompile.kernels.sweep import Sweeps
from snncompile.kernels.target import Launch, Target
from snncompile.kernels.team import Function
from snncompile.kernels.threads import Array, division, run


class Cpu(Target):
    """Any CPU with a C compiler."""

    name = "cpu"

    def build(self, sweeps: Sweeps) -> tuple[str, tuple[Function, ...]]:
        """Print C and compile it."""
        source = c.source(sweeps)
        library = build.library(source)
        names = ("forward", "backward") if sweeps.step.gradients else ("forward",)
        functions = tuple(getattr(library, name) for name in names)
        return source, functions

    def launch(self, layout: Layout, like: Tensor, dtype: torch.dtype) -> Launch:
        """Divide the elements among threads."""
        return _Blocks(layout, like, dtype)


class _Blocks(Launch):
    """Blocks share memory: a row of zeros, and rows that one worker reuses for its blocks."""

    def __init__(self, layout: Layout, like: Tensor, dtype: torch.dtype) -> None:
        super().__init__(layout, like, dtype)
        self.divided = division(*layout.size)

    def zeros(self) -> Array:
        return Array(self.like.new_zeros(self.divided.block, dtype=self.dtype), own=False)

    def scratch(self) -> Array:
        return self._rows(self.dtype)

    def _rows(self, dtype: torch.dtype) -> Array:
        rows = self.like.new_empty((self.divided.workers, self.divided.block), dtype=dtype)
        return Array(rows, own=False, rows=self.divided.workers)

    def total(self, *, one: bool) -> tuple[Tensor, list[Array]]:
        """One sum an element; for a scalar one a chunk, and rows to sum over time in."""
        if not one:
            total = self.layout.empty(self.like, torch.float64, steps=False)
            return total, [Array(total)]
        total = self.like.new_empty(-(-self.layout.width // CHUNK), dtype=torch.float64)
        return total, [self._rows(torch.float64), Array(total)]

    def run(self, function: Function, arrays: Sequence[Array | None]) -> None:
        given = [array for array in arrays if array is not None]
        run(function, self.layout.size, self.divided, given)
